"""Metrics of a click model: AUC, logloss, grouped AUC, normalized entropy, calibration.

Legend: R rows. `logits` float [R], `labels` 0/1 [R], `weights` >= 0 [R].
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def auc(logits: Floats, labels: Floats, weights: Floats | None = None) -> float:
    """Area under the ROC curve, exact, ties counted half; NaN when a class is absent."""
    weights = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    order = np.argsort(logits, kind="stable")
    positive = (weights * labels)[order]
    negative = (weights * (1 - labels))[order]
    starts = np.flatnonzero(np.r_[True, np.diff(logits[order]) != 0]) if len(logits) else np.zeros(0, int)
    if not len(starts) or positive.sum() == 0 or negative.sum() == 0:
        return float("nan")
    positive, negative = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def logloss(logits: Floats, labels: Floats, weights: Floats | None = None) -> float:
    """Mean binary cross entropy in nats, from logits (never infinite for finite logits)."""
    exact = logits.astype(np.float64)
    losses = np.logaddexp(0.0, exact) - labels * exact
    return float(np.average(losses, weights=weights))


def grouped_auc(logits: Floats, labels: Floats, groups: npt.NDArray[np.int64], weights: Floats | None = None) -> float:
    """AUC within each group, averaged by the group's weight; groups of one class are left out (Zhu et al., KDD'17)."""
    weights = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    order = np.lexsort((logits, groups))
    logits, groups = logits[order], groups[order]
    positive, negative = (weights * labels)[order], (weights * (1 - labels))[order]
    ties = np.flatnonzero(np.r_[True, (np.diff(groups) != 0) | (np.diff(logits) != 0)])
    firsts = np.flatnonzero(np.r_[True, np.diff(groups[ties]) != 0])  # among the ties, where a group begins
    positive, negative = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    below = np.cumsum(negative) - negative
    below -= np.repeat(below[firsts], np.diff(np.r_[firsts, len(ties)]))
    won = np.add.reduceat(positive * (below + negative / 2), firsts)
    positive, negative = np.add.reduceat(positive, firsts), np.add.reduceat(negative, firsts)
    both = (positive > 0) & (negative > 0)
    if not both.any():
        return float("nan")
    aucs = won[both] / (positive[both] * negative[both])
    return float(np.average(aucs, weights=(positive + negative)[both]))


def evaluate(
    logits: Floats, labels: Floats, weights: Floats | None = None, groups: npt.NDArray[np.int64] | None = None
) -> dict[str, float]:
    """All metrics by name. Those that the rows do not define (one class, no groups) are left out.

    normalized_entropy: logloss over the entropy of the base rate (He et al., ADKDD'14); below 1 beats guessing.
    calibration: mean score over mean label; 1 is calibrated.
    """
    rate = float(np.average(labels, weights=weights))
    loss = logloss(logits, labels, weights)
    found = {"auc": auc(logits, labels, weights), "logloss": loss}
    if groups is not None:
        found["grouped_auc"] = grouped_auc(logits, labels, groups, weights)
    if 0 < rate < 1:
        found["normalized_entropy"] = loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        found["calibration"] = (
            float(np.average(np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))), weights=weights)) / rate
        )
    return {name: float(value) for name, value in found.items() if not np.isnan(value)}
