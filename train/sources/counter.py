"""Counters: random bits that are a function of a key and an index, so that any row or id can be made alone.

SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014), read at any index.
"""

import numpy as np
from numpy.typing import NDArray

_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


def stream(seed: int, *names: int) -> int:
    """The key of a stream of random bits: a seed and the numbers that name the stream."""
    key = _mix(seed & _MASK)
    for name in names:
        key = _mix((key + (name + 1) * _GAMMA) & _MASK)
    return key


def bits(key: int, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random bits for each index of a stream.

    Args:
        key: from `stream`.
        index: uint64, any shape.

    Returns:
        uint64 of the same shape.
    """
    z = index * np.uint64(_GAMMA)
    z += np.uint64((key + _GAMMA) & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    return z


def uniform(key: int, index: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number in (0, 1) for each index of a stream: 52 bits, never 0 and never 1."""
    return ((bits(key, index) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)
