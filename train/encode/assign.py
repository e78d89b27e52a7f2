"""Assign: which split each row is in, where a recipe divides its rows, written beside each part.

Rows divided by share take a byte each on the disk and no memory: the two bounds that cut their random order are found
by histogram. Rows divided by time are ordered in memory: some 32 bytes a row.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...protos.manifest import write_atomically
from ..sources.counter import bits, stream
from ..sources.split import ByShare, ByTime, by_time, sizes
from .parts import SPLITS, Part, splits_of, times_of

_CHUNK, _BINS = 2**20, 20  # rows at a time; bits of the histogram


def assign(parts: Sequence[Part], split: ByShare | ByTime, source: str) -> Mapping[str, int]:
    """Write the split of every row; returns how many rows each has.

    Raises:
        DataError: a time that is missing, or no time.
    """
    total = sum(part.rows for part in parts)
    before = np.cumsum([0, *(part.rows for part in parts)])
    if isinstance(split, ByTime):
        chosen = np.empty(total, np.uint8)
        for name, index in by_time(_times(parts), split, source).items():
            chosen[index] = SPLITS.index(name)
        for part, first in zip(parts, before[:-1].tolist(), strict=True):
            write_atomically(splits_of(part.path), chosen[first : first + part.rows].tobytes())
        return dict(zip(SPLITS, np.bincount(chosen, minlength=3).tolist(), strict=True))
    key, counts = stream(split.seed), sizes(total, split)
    bounds = np.array([_smallest(key, total, rank) for rank in np.cumsum(counts)[:2].tolist()], np.uint64)
    open_ended = counts[2] == 0
    for part, first in zip(parts, before[:-1].tolist(), strict=True):
        drawn = bits(key, np.arange(first, first + part.rows, dtype=np.uint64))
        chosen = (drawn >= bounds[0]).astype(np.uint8)
        if not open_ended:
            chosen += drawn >= bounds[1]
        write_atomically(splits_of(part.path), chosen.tobytes())
    return dict(zip(SPLITS, counts, strict=True))


def _times(parts: Sequence[Part]) -> pa.ChunkedArray:
    chunks = list[pa.Array]()
    for part in parts:
        with pa.memory_map(str(times_of(part.path))) as file:
            chunks += pa.ipc.open_file(file).read_all().column("time").slice(0, part.rows).chunks
    return pa.chunked_array(chunks)


def _smallest(key: int, total: int, rank: int) -> int:
    """The number number `rank`, from 0, of the rows' random numbers in order; they all differ."""
    if rank >= total:
        return 0
    shift = np.uint64(64 - _BINS)
    histogram = np.zeros(2**_BINS, np.int64)
    for drawn in _drawn(key, total):
        histogram += np.bincount((drawn >> shift).astype(np.int64), minlength=2**_BINS)
    ends = np.cumsum(histogram)
    bin_of = int(np.searchsorted(ends, rank, side="right"))
    inside = np.sort(np.concatenate([drawn[drawn >> shift == bin_of] for drawn in _drawn(key, total)]))
    return int(inside[rank - int(ends[bin_of] - histogram[bin_of])])


def _drawn(key: int, total: int) -> Iterator[NDArray[np.uint64]]:
    for start in range(0, total, _CHUNK):
        yield bits(key, np.arange(start, min(start + _CHUNK, total), dtype=np.uint64))
