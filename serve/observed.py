"""Observed: what a version is fed and what it says: its values that are missing or unseen, and its scores.

Scores are all counted, kept until there are enough of them to be counted at once. Values are counted in one call of
`SAMPLE`, which leaves their shares as they are.
"""

from collections.abc import Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded, Float32s
from ..protos.ids import MISSING, Int64s
from ..protos.schema import layout
from .sides import Apart

SAMPLE = 32
BINS = 10  # of a probability
KEPT_CALLS, KEPT_SCORES = 64, 4096


class Scores:
    """Count, sum, sum of squares and bins of probabilities; not safe to share between threads."""

    def __init__(self) -> None:
        self._kept, self._kept_scores = list[tuple[Float32s, bool]](), 0
        self._count, self._invalid, self._sum, self._squares = 0, 0, 0.0, 0.0
        self._bins = np.zeros(BINS, np.int64)

    def take(self, scores: Float32s, *, logits: bool) -> None:
        """Count (K,) probabilities, or their logits."""
        self._kept.append((scores, logits))
        self._kept_scores += len(scores)
        if len(self._kept) >= KEPT_CALLS or self._kept_scores >= KEPT_SCORES:
            self._fold()

    def snapshot(self) -> dict[str, object]:
        """As `Statistics.snapshot` says of "scores"."""
        self._fold()
        bins = {str(number): int(count) for number, count in enumerate(self._bins)}
        return {
            "count": self._count,
            "sum": self._sum,
            "squares": self._squares,
            "invalid": self._invalid,
            "bins": bins,
        }

    def _fold(self) -> None:
        with np.errstate(over="ignore"):
            parts = [1 / (1 + np.exp(-each)) if logits else each for each, logits in self._kept]
        self._kept, self._kept_scores = [], 0
        found = np.concatenate(parts, dtype=np.float64) if parts else np.empty(0)
        scores = found[(found >= 0) & (found <= 1)]
        self._count += len(scores)
        self._invalid += len(found) - len(scores)
        self._sum += float(scores.sum())
        self._squares += float(np.square(scores).sum())
        self._bins += np.bincount(np.minimum((scores * BINS).astype(np.int64), BINS - 1), minlength=BINS)


class Fields:
    """Values, missing and unseen ones of every feature of a schema; not safe to share between threads.

    A bag counts as one value, missing where it is empty or its first item is. Unseen can only be told of `id` features,
    as ids out of range: what a vocabulary has seen is known in the graph.
    """

    def __init__(self, schema: pb.Schema) -> None:
        places = layout(schema)
        self._calls = 0
        self._names = [*places.slots, *places.dense]
        self._starts = np.array([start for start, _ in places.slots.values()], np.int64)
        self._columns = np.array(list(places.dense.values()), np.int64)
        sizes = {each.name: each.id.size for each in schema.features if each.WhichOneof("encoding") == "id"}
        self._ranged = np.array([name in sizes for name in places.slots], np.bool_)
        self._sizes = np.array([sizes[name] for name in places.slots if name in sizes], np.uint64)
        self._values, self._missing = (np.zeros(len(self._names), np.int64) for _ in range(2))
        self._unseen = np.zeros(len(self._sizes), np.int64)

    def take(self, encoded: Encoded | Apart) -> None:
        """Count a call's values, if it is its turn; context values that were sent once count once."""
        self._calls += 1
        if self._calls % SAMPLE != 1:
            return
        if isinstance(encoded, Apart):
            for part, side in zip(encoded.parts, (encoded.context, encoded.candidates), strict=True):
                self._count(side, part.slots, part.dense)
        else:
            self._count(encoded, None, None)

    def snapshot(self) -> dict[str, object]:
        """As `Statistics.snapshot` says of "fields"."""
        unseen = dict(zip(np.flatnonzero(self._ranged).tolist(), self._unseen.tolist(), strict=True))
        return {
            name: {"values": int(self._values[at]), "missing": int(self._missing[at])}
            | ({"unseen": unseen[at]} if at in unseen else {})
            for at, name in enumerate(self._names)
        }

    def _count(self, side: Encoded, slots: Int64s | None, columns: Int64s | None) -> None:
        """Count a side that holds these slots and columns of the schema's; None: all of them."""
        here, ids = _within(self._starts, slots)
        if len(here):
            raw = side.ids[:, ids]
            missing = (raw == MISSING).sum(axis=0)
            self._values[here] += len(raw)
            self._missing[here] += missing
            ranged = self._ranged[here]
            at = (np.cumsum(self._ranged) - 1)[here][ranged]
            outside = (raw[:, ranged].view(np.uint64) >= self._sizes[at]).sum(axis=0)  # below zero is beyond, too
            self._unseen[at] += outside - missing[ranged]
        here, dense = _within(self._columns, columns)
        if len(here):
            at = here + len(self._starts)
            self._values[at] += len(side.dense)
            self._missing[at] += np.isnan(side.dense[:, dense]).sum(axis=0)


def _within(wanted: Int64s, held: Int64s | None) -> tuple[Int64s, Sequence[int] | Int64s]:
    """Which of the wanted places are held, by position, and where they stand among the held ones, which rise."""
    if held is None:
        return np.arange(len(wanted)), wanted
    here = np.flatnonzero(np.isin(wanted, held))
    return here, np.searchsorted(held, wanted[here])
