"""Observed: what a version is fed and what it says: its values that are missing or unseen, and its scores.

Scores are all counted, values in one call of `SAMPLE`, which leaves their shares as they are. Both are kept until there
are enough of them to be counted at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded, Float32s
from ..protos.ids import MISSING, Int64s, offsets
from ..protos.schema import layout
from .sides import Apart

SAMPLE = 32
BINS = 10  # of a probability
KEPT_CALLS, KEPT_SCORES = 256, 16384
KEPT_SIDES, KEPT_ROWS = 16, 1024


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
        for is_logit in (True, False):
            if parts := [scores for scores, logits in self._kept if logits == is_logit]:
                scores = np.concatenate(parts)
                if is_logit:
                    with np.errstate(over="ignore"):
                        scores = 1 / (1 + np.exp(-scores))
                self._add(scores.astype(np.float64))
        self._kept, self._kept_scores = [], 0

    def _add(self, scores: npt.NDArray[np.float64]) -> None:
        valid = (scores >= 0) & (scores <= 1)
        if not valid.all():
            self._invalid += len(scores) - int(np.count_nonzero(valid))
            scores = scores[valid]
        self._count += len(scores)
        self._sum += float(scores.sum())
        self._squares += float(np.dot(scores, scores))
        bins = np.bincount((scores * BINS).astype(np.int64), minlength=BINS + 1)
        bins[BINS - 1] += bins[BINS]  # 1 is in the last one
        self._bins += bins[:BINS]


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
        ranges = {each.name: each.id for each in schema.features if each.WhichOneof("encoding") == "id"}
        self._ranged = np.array([name in ranges for name in places.slots], np.bool_)
        self._firsts = np.array([ranges[name].first for name in places.slots if name in ranges], np.int64)
        self._sizes = np.array([ranges[name].size for name in places.slots if name in ranges], np.uint64)
        self._values, self._missing = (np.zeros(len(self._names), np.int64) for _ in range(2))
        self._unseen = np.zeros(len(self._sizes), np.int64)
        self._kept: dict[bytes, tuple[_Places, list[Encoded]]] = {}  # by the split
        self._kept_sides = self._kept_rows = 0

    def sample(self, calls: int) -> range:
        """Which of so many further calls are to be taken, by place."""
        first = -self._calls % SAMPLE
        self._calls += calls
        return range(first, calls, SAMPLE)

    def take(self, encoded: Encoded | Apart) -> None:
        """Count a call's values; context values that were sent once count once."""
        if isinstance(encoded, Apart):
            for part, side in zip(encoded.parts, (encoded.context, encoded.candidates), strict=True):
                self._keep(side, part.slots, part.dense)
        else:
            self._keep(encoded, None, None)

    def snapshot(self) -> dict[str, object]:
        """As `Statistics.snapshot` says of "fields"."""
        self._fold()
        unseen = dict(zip(np.flatnonzero(self._ranged).tolist(), self._unseen.tolist(), strict=True))
        return {
            name: {"values": int(self._values[at]), "missing": int(self._missing[at])}
            | ({"unseen": unseen[at]} if at in unseen else {})
            for at, name in enumerate(self._names)
        }

    def _keep(self, side: Encoded, slots: Int64s | None, columns: Int64s | None) -> None:
        """Take a side that holds these slots and columns of the schema's; None: all of them."""
        split = b"" if slots is None or columns is None else slots.tobytes() + b"|" + columns.tobytes()
        if split not in self._kept:
            self._kept[split] = self._place(slots, columns), []
        self._kept[split][1].append(side)
        self._kept_sides += 1
        self._kept_rows += len(side.ids)
        if self._kept_sides >= KEPT_SIDES or self._kept_rows >= KEPT_ROWS:
            self._fold()

    def _fold(self) -> None:
        for places, sides in self._kept.values():
            if sides:
                self._count(places, *_rows(sides))
            sides.clear()
        self._kept_sides = self._kept_rows = 0

    def _count(self, places: "_Places", ids: Int64s, numbers: Float32s) -> None:
        if len(places.ids):
            raw = ids[:, places.ids]
            missing = (raw == MISSING).sum(axis=0)
            self._values[places.features] += len(raw)
            self._missing[places.features] += missing
            outside = offsets(raw[:, places.ranged], self._firsts[places.ranges]) >= self._sizes[places.ranges]
            self._unseen[places.ranges] += outside.sum(axis=0) - missing[places.ranged]
        if len(places.dense):
            self._values[places.numbers] += len(numbers)
            self._missing[places.numbers] += np.isnan(numbers[:, places.dense]).sum(axis=0)

    def _place(self, slots: Int64s | None, columns: Int64s | None) -> "_Places":
        features, ids = _within(self._starts, slots)
        numbers, dense = _within(self._columns, columns)
        ranged = np.flatnonzero(self._ranged[features])
        ranges = (np.cumsum(self._ranged) - 1)[features][ranged]
        return _Places(features, ids, ranged, ranges, numbers + len(self._starts), dense)


@dataclass(frozen=True)
class _Places:
    """Where a side's values stand, and where they are counted; worked out once for each split of the schema.

    features, ids: of features with ids, by position, and where each begins in the side's ids.
    ranged, ranges: which of these can be out of range, and where their ranges stand.
    numbers, dense: of numbers, by position, and which columns of the side's they are.
    """

    features: Int64s
    ids: Int64s
    ranged: Int64s
    ranges: Int64s
    numbers: Int64s
    dense: Int64s


def _rows(sides: Sequence[Encoded]) -> tuple[Int64s, Float32s]:
    return np.concatenate([each.ids for each in sides]), np.concatenate([each.dense for each in sides])


def _within(wanted: Int64s, held: Int64s | None) -> tuple[Int64s, Int64s]:
    """Which of the wanted places are held, by position, and where they stand among the held ones, which rise."""
    if held is None:
        return np.arange(len(wanted)), wanted
    here = np.flatnonzero(np.isin(wanted, held))
    return here, np.searchsorted(held, wanted[here])
