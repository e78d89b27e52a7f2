"""Zipf: ranks drawn from the law P(k) ~ (k + 1)^-s over a finite range, exactly and without a table.

Rejection-inversion (Hörmann and Derflinger, Rejection-inversion to generate variates from monotone discrete
distributions, ACM TOMACS 6(3), 1996): a draw costs the same for ten ranks and for ten million.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .counter import stream, uniform


def ranks(n: int, exponent: float, key: int, index: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A rank for each index of a stream.

    Args:
        n: number of ranks, at least 1.
        exponent: s, at least 0; 0 is the uniform law.
        key: from `counter.stream`.
        index: (N,) uint64.

    Returns:
        (N,) int64 in [0, n); rank 0 is the most frequent.
    """
    low = float(_integral(np.array([1.5]), exponent)[0]) - 1.0
    high = float(_integral(np.array([n + 0.5]), exponent)[0])
    at_two = _integral(np.array([2.5]), exponent) - math.pow(2.0, -exponent)
    sure = 2.0 - float(_inverse(at_two, exponent)[0])
    result = np.empty(len(index), np.int64)
    pending = np.arange(len(index))
    attempt = 0
    while len(pending):
        area = high + uniform(stream(key, attempt), index[pending]) * (low - high)
        x = _inverse(area, exponent)
        k = np.clip(np.floor(x + 0.5), 1, n)
        accepted = k - x <= sure
        doubt = np.flatnonzero(~accepted)
        k_doubt = k[doubt]
        accepted[doubt] = area[doubt] >= _integral(k_doubt + 0.5, exponent) - np.power(k_doubt, -exponent)
        result[pending[accepted]] = k[accepted].astype(np.int64) - 1
        pending = pending[~accepted]
        attempt += 1
    return result


def _integral(x: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """The integral of t^-s from 1 to x."""
    rest = 1.0 - exponent
    return np.log(x) if rest == 0 else np.expm1(rest * np.log(x)) / rest


def _inverse(area: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    rest = 1.0 - exponent
    return np.exp(area) if rest == 0 else np.exp(np.log1p(rest * area) / rest)
