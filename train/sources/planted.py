"""Planted: a factorisation machine whose weights are hashes of ids, so that the best possible AUC is known.

The logit of a row is `bias + Σ_f w_f[id] + Σ_{f<g} <v_f[id], v_g[id]> + Σ_i β_i x_i` (Rendle, Factorization
machines, ICDM 2010), its three sums scaled so that each holds its share of the variance. No table is kept: w and v
are computed from (seed, field, id) where they are needed, so ten million ids cost what ten do.

Fields may have ranks of their own, r_f: the first r_f components of a field's vectors are not zero, so that the matrix
of its interactions with all other fields has the rank r_f, and no vectors of fewer components can stand for it.

Shapes: N rows, F fields, R rank, D dense columns.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .counter import bits

Floats = NDArray[np.float64]

_STEPS = 40


def factors(key: int, ids: NDArray[np.int64], rank: int) -> NDArray[np.float32]:
    """The weight and the vector of each id of a field, uniform in (-1, 1).

    Args:
        key: the field's stream, from `counter.stream`.
        ids: (N,) int64, not negative.
        rank: R.

    Returns:
        (N, 1 + R) float32: w, then v.
    """
    words = -(-(1 + rank) // 4)
    index = ids.astype(np.uint64)[:, None] * np.uint64(words) + np.arange(words, dtype=np.uint64)
    pieces = bits(key, index).astype("<u8", copy=False).view("<u2")[:, : 1 + rank]  # four 16-bit factors a word
    return (pieces.astype(np.float32) * 2.0 + 1.0) * np.float32(2.0**-16) - np.float32(1.0)


def amplitudes(ranks: Sequence[int]) -> NDArray[np.float32]:
    """How large each component of a field's vectors is, by which `factors` are multiplied.

    Component k of field f is of size r_f^(-1/2) R_k^(-1/4), where R_k is the sum of 1 / r over the fields that have it.
    Its products with the same component of the other fields then have the variance (1 - 1 / (r_f R_k)) / r_f, in units
    of the factors': nearly alike for all components of a field, and summed over them nearly alike for all fields. A
    field falls behind only where the others have so many more components that the few it has cannot hold its part.

    Args:
        ranks: r_f of each field, at least 1; the largest of two fields or more, for what one field alone has never
            meets anything.

    Returns:
        (F, 1 + R) float32, R the largest rank: 1 for the weight, then the components'.
    """
    largest, count = max(ranks), Counter(ranks)
    table = np.zeros((len(ranks), 1 + largest), np.float32)
    table[:, 0] = 1.0
    for component in range(largest):
        # Exact, then rounded by division and roots alone: the same on every machine.
        together = float(sum(Fraction(fields, rank) for rank, fields in count.items() if rank > component))
        for field, rank in enumerate(ranks):
            if rank > component:
                table[field, 1 + component] = 1.0 / math.sqrt(rank * math.sqrt(together))
    return table


def sums(vectors: Sequence[NDArray[np.float32]], dense: NDArray[np.float32], key: int) -> Floats:
    """The three sums of N rows' logits, before they are scaled.

    Args:
        vectors: for each field (N, 1 + R) float32, from `factors`.
        dense: (N, D) float32.
        key: the stream of the dense weights.

    Returns:
        (3, N) float64: first order, interactions, dense columns.
    """
    total = np.zeros_like(vectors[0])
    squares = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
        squares += vector * vector
    beta = factors(key, np.arange(dense.shape[1]), 1)[:, 0]
    pairs = (total[:, 1:] ** 2 - squares[:, 1:]).sum(axis=1) / 2
    return np.stack([total[:, 0], pairs, (dense * beta).sum(axis=1)]).astype(np.float64)


@dataclass(frozen=True)
class Planted:
    """The probability of a click, given the three sums of its logit.

    Attributes:
        bias: added to every logit.
        weights: what each of the three sums is multiplied by.
        noise: share of rows whose label is a coin instead.
        positives: the coin's probability.
    """

    bias: float
    weights: tuple[float, float, float]
    noise: float
    positives: float

    def probability(self, parts: Floats) -> Floats:
        """The true probability of each row: parts (3, N) float64 -> (N,) float64."""
        logit: Floats = self.bias + (np.array(self.weights)[:, None] * parts).sum(axis=0)
        return (1.0 - self.noise) * _sigmoid(logit) + self.noise * self.positives


def calibrate(
    parts: Floats, *, shares: tuple[float, float, float], auc: float, positives: float, noise: float
) -> Planted:
    """The model whose true probabilities reach an AUC and a share of positives on sample rows, before noise.

    Args:
        parts: (3, N) float64, from `sums`.
        shares: of the logit's variance, that each of the three has; one that does not vary has none.
        auc: expected AUC of the true probabilities, between .5 and 1.
        positives: expected share of positives.
        noise: share of rows whose label is a coin instead.
    """
    centred = parts - parts.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1)
    relative = np.divide(np.sqrt(shares), spread, out=np.zeros(3), where=spread > 0)
    signal: Floats = (relative[:, None] * centred).sum(axis=0)
    low, high = 0.0, 64.0
    for _ in range(_STEPS):
        scale = (low + high) / 2
        logits = scale * signal
        reached = area_under_curve(signal, _sigmoid(logits + _bias(logits, positives)))
        low, high = (scale, high) if reached is not None and reached < auc else (low, scale)
    # Rounded, so that the last bits of a sum, which differ among machines, never reach a label.
    weights = [round(float(low * value), 6) for value in relative]
    bias = round(_bias((np.array(weights)[:, None] * parts).sum(axis=0), positives), 6)
    return Planted(bias, (weights[0], weights[1], weights[2]), noise, positives)


def area_under_curve(scores: Floats, mass: Floats) -> float | None:
    """The AUC of scores, exact with ties, where row i is a positive by `mass[i]` and a negative by the rest.

    Args:
        scores: (N,) float64.
        mass: (N,) float64 in [0, 1]: labels give the AUC, probabilities the AUC to be expected.

    Returns:
        The AUC, or None where all rows are positives or none is.
    """
    values, group = np.unique(scores, return_inverse=True)
    positive = np.bincount(group, mass, len(values))
    negative = np.bincount(group, 1.0 - mass, len(values))
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else None


def log_loss(probability: Floats, labels: Floats) -> float:
    """The mean negative log-likelihood of labels (N,) float64 of 0 and 1, in nats."""
    return float(-np.log(np.where(labels == 1, probability, 1.0 - probability)).mean())


def _bias(logits: Floats, positives: float) -> float:
    low, high = -64.0 - float(logits.max()), 64.0 - float(logits.min())
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(middle + logits).mean() < positives else (low, middle)
    return (low + high) / 2


def _sigmoid(logits: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
