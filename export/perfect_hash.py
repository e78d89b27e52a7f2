"""A minimal perfect hash: n entries that hold the ids of n values, each found at the first look.

Hash and displace (Belazzougui, Botelho and Dietzfelbinger, ESA 2009), by xor (PTHash: Pibiri and Trani, SIGIR 2021): a
value's hash names a bucket, and slots are those of the hashes xor their bucket's displacement. Products are of uint64,
remainders of int64, and mix(x) is x xor (x >> 32):

    spread = raw * FACTOR
    hash = mix(mix(spread) * seed)
    slot = (hash xor displacements[hash mod B]) mod n
    id = n - min(entries[slot] xor spread, n)            entries[slot] = spread of its value xor (n - id of its value)

A value that was not kept is told from the slot's own by all bits above those of n: exactly, where the two differ by
less than 2^32 or by a multiple of it, as FACTOR is odd, and none of its first 2^32 multiples is nearer than 2^31 to one
of 2^64. Any other one takes the id of a kept value with a chance of n / 2^64: one in 2 * 10^13 for a million values.

Legend: n values; B buckets; R buckets of one size K that have no displacement yet; T tries for each.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..protos.ids import FMIX_FIRST, Int64s, UInt64s, fmix64
from ..protos.tables_bin import bucket_count, entry_count

FACTOR, SHIFT = FMIX_FIRST, 32
DISPLACEMENTS = 2**31  # of 0 and more in int32
TRIES = 4096  # of a round at least, for all buckets
PATIENCE = 4  # rounds without success before another seed is taken


@dataclass(frozen=True)
class PerfectHash:
    """How n values find their ids.

    seed: odd, below 2^64.
    displacements: int32 [B], of 0 and more.
    entries: uint64 [n]; one, of any value, where n is 0.
    """

    seed: int
    displacements: npt.NDArray[np.int32]
    entries: UInt64s


def perfect_hash(values: Int64s, ids: npt.NDArray[np.int32]) -> PerfectHash:
    """The hash of distinct values, (n,) int64, whose ids are 1 to n. The same values give the same hash.

    3 buckets for 8 values and 32 more: 9.5 + 128 / n bytes a value. More values to a bucket would save a little, but
    too few would be alone in theirs, and those are what fills the last slots.
    """
    n = len(values)
    buckets = bucket_count(n)
    spread = values.view(np.uint64) * np.uint64(FACTOR)
    displacements, attempt, seed, hashes = None, 0, 1, np.zeros(0, np.int64)
    while displacements is None:
        attempt += 1
        seed = int(fmix64(np.array([attempt], np.uint64))[0]) | 1
        mixed = (spread ^ (spread >> np.uint64(SHIFT))) * np.uint64(seed)
        hashes = (mixed ^ (mixed >> np.uint64(SHIFT))).view(np.int64)
        displacements = _displacements(hashes, buckets)
    entries = np.zeros(entry_count(n), np.uint64)
    if n:
        entries[(hashes ^ displacements[hashes % buckets]) % n] = spread ^ (n - ids).astype(np.uint64)
    return PerfectHash(seed, displacements.astype(np.int32), entries)


def _displacements(hashes: Int64s, buckets: int) -> Int64s | None:
    """Displacements that give every hash a slot of its own, (B,); None where one was not found soon.

    The largest buckets choose first. Tries send the first hash of a bucket to free slots at random, so that buckets of
    one hash, the last ones, fit at once.
    """
    n, drawn = len(hashes), 0
    numbers = hashes % buckets
    sizes = np.bincount(numbers, minlength=buckets)
    starts, ordered = np.cumsum(sizes) - sizes, hashes[np.argsort(numbers, kind="stable")]
    found, free, is_free = np.zeros(buckets, np.int64), np.arange(n), np.ones(n, np.bool_)
    owners = np.empty(n, np.int64)
    for size in range(int(sizes.max()), 1, -1):
        left, idle = np.flatnonzero(sizes == size), 0
        keys = ordered[starts[left, None] + np.arange(size)]  # [R, K]
        while len(left):
            if idle == PATIENCE:
                return None
            free = free[is_free[free]]
            rows = np.repeat(np.arange(len(left)), max(TRIES // len(left), 1))  # [R * T]
            draws = fmix64(np.arange(drawn, drawn + len(rows), dtype=np.uint64)) >> np.uint64(1)
            rows, slots, tried = _fitting(keys, rows, free, is_free, draws.view(np.int64))
            owners[slots] = rows[:, None]  # of several buckets that want a slot the last one has it
            won = (owners[slots] == rows[:, None]).all(1)
            is_free[slots[won]] = False
            found[left[rows[won]]] = tried[won]
            drawn, idle = drawn + len(draws), 0 if won.any() else idle + 1
            left, keys = np.delete(left, rows[won]), np.delete(keys, rows[won], axis=0)
    alone = np.flatnonzero(sizes == 1)
    found[alone] = _displacements_to(np.flatnonzero(is_free), ordered[starts[alone]], max(n, 1), np.zeros_like(alone))
    return found


def _fitting(
    keys: Int64s, rows: Int64s, free: Int64s, is_free: npt.NDArray[np.bool_], draws: Int64s
) -> tuple[Int64s, Int64s, Int64s]:
    """The first try that fits for each bucket that has one: its row of `keys`, slots [·, K] and displacement."""
    tried = _displacements_to(free[draws % len(free)], keys[rows, 0], len(is_free), draws >> SHIFT)
    slots = (keys[rows] ^ tried[:, None]) % len(is_free)
    fits = np.flatnonzero(is_free[slots].all(1))
    rising = np.sort(slots[fits], axis=1)
    fits = fits[(rising[:, 1:] != rising[:, :-1]).all(1)]
    which, first = np.unique(rows[fits], return_index=True)
    return which, slots[fits[first]], tried[fits[first]]


def _displacements_to(slots: Int64s, hashes: Int64s, n: int, draws: Int64s) -> Int64s:
    """A displacement that sends each hash to its slot: one of the about 2^31 / n that do, as drawn."""
    low = hashes % DISPLACEMENTS  # the bits that a displacement can change
    lowest = (slots - (hashes - low)) % n
    return low ^ (lowest + draws % ((DISPLACEMENTS - n) // n + 1) * n)
