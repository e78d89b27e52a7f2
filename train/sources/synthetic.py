"""Synthetic: click rows with Criteo's or other cardinalities, Zipf-distributed ids and labels from a planted model.

Every value is a function of (seed, split, column, row): any prefix of a split is the same however many rows follow,
and one split does not depend on the size of another.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .columns import require
from .counter import bits, stream, uniform
from .planted import Planted, amplitudes, area_under_curve, calibrate, factors, log_loss, sums
from .synthetic_config import CRITEO, RANK, SyntheticConfig
from .zipf import ranks

BAG = 10000
"""Cardinality of the bag column."""

CHUNK = 2**16
"""Rows made at a time."""

_SAMPLE = 2**15
_SPLITS = {"train": 0, "valid": 1, "test": 2, "sample": 3}
_IDS, _LENGTHS, _DENSE, _LABELS, _PERMUTATION, _FACTORS, _BETA = range(7)

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The rows of one split, made when they are read.

    Attributes:
        config: the recipe's table.
        name: train, valid or test.
        rows: how many.
        planted: the model that makes the labels.
    """

    config: SyntheticConfig
    name: str
    rows: int
    planted: Planted

    def batches(self, wanted: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        """The wanted columns: label float32, I1 … float32, C1 … int64 or string, B1 list of int64."""
        config = self.config
        dense = [f"I{index + 1}" for index in range(config.dense)]
        fields = [f"C{index + 1}" for index in range(len(config.sizes))]
        require(wanted, ["label", *dense, *fields, *(["B1"] if config.bag else [])], f"synthetic {self.name} rows")
        for rows in self._chunks():
            columns: dict[str, pa.Array] = {}
            for name in wanted:
                if name == "label":
                    columns[name] = pa.array(self._labels(rows).astype(np.float32))
                elif name == "B1":
                    columns[name] = pa.ListArray.from_arrays(pa.array(rows.offsets), pa.array(rows.bag))
                elif name.startswith("I"):
                    columns[name] = pa.array(np.ascontiguousarray(rows.dense[:, dense.index(name)]))
                else:
                    ids = rows.ids[fields.index(name)]
                    columns[name] = _hexadecimal(ids) if config.strings else pa.array(ids)
            yield pa.RecordBatch.from_pydict(columns)

    def optimum(self) -> tuple[float | None, float]:
        """AUC and logloss (nats) of the true probabilities against the labels: no model can expect better ones.

        The AUC is None where the labels are all the same.
        """
        truth, labels = [], []
        for rows in self._chunks():
            truth.append(self.planted.probability(rows.parts))
            labels.append(self._labels(rows))
        probability, outcome = np.concatenate(truth), np.concatenate(labels).astype(np.float64)
        return area_under_curve(probability, outcome), log_loss(probability, outcome)

    def _chunks(self) -> Iterator["_Rows"]:
        for start in range(0, self.rows, CHUNK):
            yield _make(self.config, self.name, start, min(start + CHUNK, self.rows))

    def _labels(self, rows: "_Rows") -> NDArray[np.bool_]:
        coin = uniform(stream(self.config.seed, _LABELS, _SPLITS[self.name]), rows.index)
        return coin < self.planted.probability(rows.parts)


def splits(config: SyntheticConfig, rows: int | None = None) -> tuple[Split, Split, Split]:
    """Train, valid and test.

    Args:
        config: the recipe's table.
        rows: at most so many rows of each, or None.
    """
    sample = _make(config, "sample", 0, _SAMPLE)
    planted = calibrate(
        sample.parts, shares=config.shares, auc=config.auc, positives=config.positives, noise=config.noise
    )

    def split(name: str, count: int) -> Split:
        return Split(config, name, count if rows is None else min(rows, count), planted)

    return split("train", config.rows.train), split("valid", config.rows.valid), split("test", config.rows.test)


def scatter(rank: Ids, n: int, key: int) -> Ids:
    """The id of each rank, by an affine permutation of [0, n): ids do not stand in the order of their frequency.

    Args:
        rank: (N,) int64 in [0, n).
        n: number of ids, below 2^31.
        key: from `counter.stream`; it picks the permutation.
    """
    factor = max(1, n // 3) + key % max(1, n // 3)
    while math.gcd(factor, n) != 1:
        factor += 1
    return (rank * factor + key % n) % n


@dataclass(frozen=True)
class _Rows:
    index: NDArray[np.uint64]  # (N,) row numbers
    ids: list[Ids]  # of each field (N,)
    offsets: NDArray[np.int32]  # (N + 1,) into bag; all 0 without one
    bag: Ids
    dense: NDArray[np.float32]  # (N, D)
    parts: NDArray[np.float64]  # (3, N)


def _make(config: SyntheticConfig, split: str, start: int, stop: int) -> _Rows:
    index = np.arange(start, stop, dtype=np.uint64)
    ids = [_ids(config, split, field, n, index) for field, n in enumerate(config.sizes)]
    vectors = _vectors(config, ids)
    offsets = np.zeros(len(index) + 1, np.int32)
    bag = np.empty(0, np.int64)
    if config.bag:
        lengths = bits(stream(config.seed, _LENGTHS, _SPLITS[split]), index) % np.uint64(config.bag) + np.uint64(1)
        np.cumsum(lengths, out=offsets[1:])
        slots = index[:, None] * np.uint64(config.bag) + np.arange(config.bag, dtype=np.uint64)
        bag = _ids(config, split, len(CRITEO), config.cardinality(BAG), slots[np.arange(config.bag) < lengths[:, None]])
        members = factors(stream(config.seed, _FACTORS, len(CRITEO)), bag, config.rank or RANK)
        vectors.append((np.add.reduceat(members, offsets[:-1]) / lengths[:, None]).astype(np.float32))
    dense = _dense(config, split, index)
    parts = sums(vectors, dense, stream(config.seed, _BETA))
    return _Rows(index, ids, offsets, bag, dense, parts)


def _vectors(config: SyntheticConfig, ids: list[Ids]) -> list[NDArray[np.float32]]:
    """(N, 1 + R) of each field that has a part in the label."""
    keys = [stream(config.seed, _FACTORS, field) for field in range(len(ids))]
    if config.ranks is None:
        return [factors(key, column, config.rank or RANK) for key, column in zip(keys, ids, strict=True)]
    fields = zip(keys, ids, amplitudes(config.ranks), strict=False)  # those without a rank have no part
    return [factors(key, column, max(config.ranks)) * size for key, column, size in fields]


def _ids(config: SyntheticConfig, split: str, field: int, n: int, index: NDArray[np.uint64]) -> Ids:
    rank = ranks(n, config.zipf, stream(config.seed, _IDS, field, _SPLITS[split]), index)
    return scatter(rank, n, stream(config.seed, _PERMUTATION, field))


def _dense(config: SyntheticConfig, split: str, index: NDArray[np.uint64]) -> NDArray[np.float32]:
    """(N, D): the sum of four 16-bit uniforms, near to normal and, being integer arithmetic, the same everywhere."""
    key = stream(config.seed, _DENSE, _SPLITS[split])
    counter = index[:, None] * np.uint64(config.dense) + np.arange(config.dense, dtype=np.uint64)
    pieces = bits(key, counter).astype("<u8", copy=False).view("<u2").reshape(len(index), config.dense, 4)
    centred = pieces.sum(axis=2, dtype=np.int32) - 2 * (2**16 - 1)
    return centred.astype(np.float32) * np.float32(math.sqrt(3) / 2**16)


def _hexadecimal(ids: Ids) -> pa.Array:
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = digits[(ids[:, None] >> np.arange(28, -4, -4)) & 15]
    offsets = np.arange(0, 8 * len(ids) + 8, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text)))
