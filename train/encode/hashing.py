"""Hashing: the raw64 of many strings at once, without a loop over them.

XXH3 with 64 bits and seed 0 (Collet, https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md), in numpy, for strings of
at most 128 bytes; longer ones go through xxhash one by one. `protos/ids.py` has the same of single strings.

Legend: N strings; words are the buffer's bytes, eight to a little-endian uint64.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from ...protos.ids import MISSING, STRING_SEED, Int64s, raw64_of_strings

UInt64s = NDArray[np.uint64]

_SECRET = bytes.fromhex(  # the first 128 of its 192 bytes: longer strings need the others
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
)
_PRIME64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_LONGEST = 128
_SLAB = 8192  # strings at a time: what is computed of them stays in the processor's cache
_LOW = np.uint64(0xFFFFFFFF)


def raw64_of_array(strings: pa.StringArray) -> Int64s:
    """raw64 of every string of an array without nulls, (N,) int64: the same as `raw64_of_strings` of their bytes."""
    count = len(strings)
    if not count:
        return np.empty(0, np.int64)
    _, offsets, values = strings.buffers()
    ends = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + count + 1].astype(np.int64)
    text = memoryview(values)[int(ends[0]) : int(ends[-1])] if values is not None else memoryview(b"")
    words = np.frombuffer(bytes(text) + bytes(16 - len(text) % 8), "<u8")
    ends -= ends[0]
    hashed = np.empty(count, np.uint64)
    for first in range(0, count, _SLAB):
        slab = ends[first : first + _SLAB + 1]
        _hash_slab(words, slab[:-1], np.diff(slab), hashed[first : first + _SLAB])
    for place in np.flatnonzero(np.diff(ends) > _LONGEST).tolist():
        hashed[place] = xxhash.xxh3_64_intdigest(text[int(ends[place]) : int(ends[place + 1])], STRING_SEED)
    raw = hashed.view(np.int64)
    raw[raw == MISSING] += 1  # the code of a missing value is no string's
    return raw


def _hash_slab(words: UInt64s, starts: Int64s, lengths: Int64s, hashed: UInt64s) -> None:
    shortest, longest = int(lengths.min()), int(lengths.max())
    for low, high, of in _BRANCHES:
        if low <= shortest and longest <= high:
            hashed[:] = of(_Words(words, starts), lengths.astype(np.uint64))
        elif shortest <= high and low <= longest:
            chosen = np.flatnonzero((lengths >= low) & (lengths <= high))
            hashed[chosen] = of(_Words(words, starts[chosen]), lengths[chosen].astype(np.uint64))


class _Words:
    """Reads of 1, 4 and 8 bytes of each string, at an offset that is a number or (N,) int64."""

    def __init__(self, words: UInt64s, starts: Int64s) -> None:
        self.words, self.starts = words, starts

    def eight(self, offset: Int64s | int) -> UInt64s:
        """(N,) uint64, little-endian; of bytes beyond the string there is no telling."""
        place = self.starts + offset
        first, shift = place >> 3, ((place & 7) << 3).astype(np.uint64)
        if not shift.any():
            return self.words[first]
        low = self.words[first] >> shift
        high = self.words[first + 1] << (np.uint64(63) - shift) << np.uint64(1)  # a shift by 64 would be undefined
        return low | high

    def four(self, offset: Int64s | int) -> UInt64s:
        """Likewise, of 4 bytes."""
        return self.eight(offset) & _LOW

    def one(self, offset: Int64s | int) -> UInt64s:
        """Likewise, of 1 byte."""
        return self.eight(offset) & np.uint64(0xFF)


def _secret(offset: int) -> int:
    return int.from_bytes(_SECRET[offset : offset + 8], "little")


def _rotated(x: UInt64s, by: int) -> UInt64s:
    return (x << np.uint64(by)) | (x >> np.uint64(64 - by))


def _swapped(x: UInt64s) -> UInt64s:
    return x.byteswap()


def _folded(a: UInt64s, b: UInt64s) -> UInt64s:
    """The halves of the 128-bit product, one xor the other."""
    half = np.uint64(32)
    a0, a1, b0, b1 = a & _LOW, a >> half, b & _LOW, b >> half
    low, cross, other, high = a0 * b0, a1 * b0, a0 * b1, a1 * b1
    middle = (low >> half) + (cross & _LOW) + other
    return (high + (cross >> half) + (middle >> half)) ^ ((middle << half) | (low & _LOW))


def _avalanche(x: UInt64s) -> UInt64s:
    x = (x ^ (x >> np.uint64(37))) * np.uint64(0x165667919E3779F9)
    return x ^ (x >> np.uint64(32))


def _avalanche_short(x: UInt64s) -> UInt64s:
    """XXH64's."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(_PRIME64[1])
    x = (x ^ (x >> np.uint64(29))) * np.uint64(_PRIME64[2])
    return x ^ (x >> np.uint64(32))


def _empty(_: _Words, lengths: UInt64s) -> UInt64s:
    return np.full(len(lengths), raw64_of_strings([b""])[0]).view(np.uint64)


def _one_to_three(read: _Words, lengths: UInt64s) -> UInt64s:
    size = lengths.astype(np.int64)
    first, middle, last = read.one(0), read.one(size >> 1), read.one(size - 1)
    joined = (first << np.uint64(16)) | (middle << np.uint64(24)) | last | (lengths << np.uint64(8))
    flip = (_secret(0) & 0xFFFFFFFF) ^ (_secret(4) & 0xFFFFFFFF)
    return _avalanche_short(joined ^ np.uint64(flip))


def _four_to_eight(read: _Words, lengths: UInt64s) -> UInt64s:
    first, last = read.four(0), read.four(lengths.astype(np.int64) - 4)
    x = (last + (first << np.uint64(32))) ^ np.uint64(_secret(8) ^ _secret(16))
    x = (x ^ _rotated(x, 49) ^ _rotated(x, 24)) * np.uint64(0x9FB21C651E98DF25)
    x = (x ^ ((x >> np.uint64(35)) + lengths)) * np.uint64(0x9FB21C651E98DF25)
    return x ^ (x >> np.uint64(28))


def _nine_to_sixteen(read: _Words, lengths: UInt64s) -> UInt64s:
    low = read.eight(0) ^ np.uint64(_secret(24) ^ _secret(32))
    high = read.eight(lengths.astype(np.int64) - 8) ^ np.uint64(_secret(40) ^ _secret(48))
    return _avalanche(lengths + _swapped(low) + high + _folded(low, high))


def _longer(pairs: int) -> Callable[[_Words, UInt64s], UInt64s]:
    """Strings of `pairs` times 16 bytes from the front and as many from the back, which may overlap."""

    def of(read: _Words, lengths: UInt64s) -> UInt64s:
        total, size = lengths * np.uint64(_PRIME64[0]), lengths.astype(np.int64)
        for pair in range(pairs):
            for offset, secret in ((16 * pair, 32 * pair), (size - 16 * (pair + 1), 32 * pair + 16)):
                low = read.eight(offset) ^ np.uint64(_secret(secret))
                high = read.eight(offset + 8) ^ np.uint64(_secret(secret + 8))
                total = total + _folded(low, high)
        return _avalanche(total)

    return of


_BRANCHES: tuple[tuple[int, int, Callable[[_Words, UInt64s], UInt64s]], ...] = (
    (0, 0, _empty),
    (1, 3, _one_to_three),
    (4, 8, _four_to_eight),
    (9, 16, _nine_to_sixteen),
    *((32 * pairs - (31 if pairs > 1 else 15), 32 * pairs, _longer(pairs)) for pairs in range(1, 5)),
)
