"""The streaming AUC: that of all rows seen so far, in bounded memory, by a histogram of their logits.

Legend: B rows of a batch; K bins.
"""

import torch
from torch import Tensor

BINS = 2**14  # K: .002 of a logit each; rows of one bin count as tied
FARTHEST = 16.0  # logits beyond are counted at the ends
WAITING = 2**20  # rows that are counted at once: a step copies a few numbers, and starts nothing else


class StreamingAuc:
    """Counts, float64 (2 K,): the negatives of every bin, then the positives; on the device of the logits.

    Adding waits for no device; reading the value does.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._waiting, self._rows = list[tuple[Tensor, Tensor, Tensor | None]](), 0

    def add(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Count rows, (B,) each, of which nothing is kept hold of; a logit that is no number counts as 0."""
        self._waiting.append((logits.clone(), labels.clone(), None if weights is None else weights.clone()))
        self._rows += len(labels)
        if self._rows >= WAITING:
            self._count()

    def value(self) -> float:
        """The AUC, ties counted half; NaN when a class is absent."""
        self._count()
        if self._counts is None:
            return float("nan")
        negative, positive = self._counts.cpu().view(2, BINS)
        below = negative.cumsum(0) - negative
        pairs = negative.sum() * positive.sum()
        return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")

    def _count(self) -> None:
        if not self._waiting:
            return
        logits = torch.cat([each for each, _, _ in self._waiting])
        labels = torch.cat([each for _, each, _ in self._waiting])
        weights = [torch.ones_like(label) if weight is None else weight for _, label, weight in self._waiting]
        self._waiting, self._rows = [], 0
        if self._counts is None:
            self._counts = torch.zeros(2 * BINS, dtype=torch.float64, device=logits.device)
        inside = logits.float().nan_to_num(0.0, FARTHEST, -FARTHEST).clamp(-FARTHEST, FARTHEST)
        bins = ((inside + FARTHEST) * ((BINS - 1) / (2 * FARTHEST))).long() + BINS * labels.long()
        self._counts.index_add_(0, bins, torch.cat(weights).double())
