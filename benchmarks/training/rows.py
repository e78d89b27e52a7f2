"""Rows to train on: Criteo's 26 columns at a chosen number of ids, drawn by a law; none of its data.

Legend: N rows; F fields.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from quorem.train.sources.counter import stream
from quorem.train.sources.zipf import ranks

from ..graphs.criteo import CARDINALITIES, NUMBERS

FEW = 20_000  # columns of fewer ids keep them
MULTIPLIER = 0x9E3779B97F4A7C15  # odd and large: neighbours in rank are no neighbours in a table


def cardinalities(ids: int) -> list[int]:
    """Ids of every column, about `ids` in all: the large columns shrink alike."""
    few = sum(n for n in CARDINALITIES if n < FEW)
    share = (ids - few) / (sum(CARDINALITIES) - few)
    return [n if n < FEW else max(FEW, round(n * share)) for n in CARDINALITIES]


def write_rows(directory: Path, sizes: Sequence[int], rows: int, exponent: float) -> None:
    """`ids.npy` (N, F) int64 by Zipf's law (exponent 0: uniform); `numbers.npy` (N, 13), `labels.npy` (N,) float32."""
    directory.mkdir(parents=True, exist_ok=True)
    index, columns = np.arange(rows, dtype=np.uint64), list[np.ndarray]()
    for column, n in enumerate(sizes):
        drawn = ranks(n, exponent, stream(1, column), index)
        step = next(each for each in range(MULTIPLIER % n | 1, 2 * n + 2) if np.gcd(each, n) == 1)
        columns.append(np.array([int(rank) * step % n for rank in drawn], np.int64))
    rng = np.random.default_rng(2)
    np.save(directory / "ids.npy", np.stack(columns, axis=1))
    np.save(directory / "numbers.npy", rng.standard_normal((rows, NUMBERS), np.float32))
    np.save(directory / "labels.npy", (rng.random(rows) < 0.25).astype(np.float32))
