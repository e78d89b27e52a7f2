"""Sizes: how many rows the requests of a load have, each the same number or drawn from a distribution."""

import argparse
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MOST_ROWS = 1 << 20
MLPERF = ((100, 2), (200, 12), (300, 2), (400, 1), (500, 1), (600, 1), (700, 1))  # of DLRM's server scenario: mean 270


@dataclass(frozen=True)
class Fixed:
    """Every request has so many rows."""

    rows: int

    @property
    def name(self) -> str:
        """As `parse_size` takes it."""
        return str(self.rows)

    @property
    def mean(self) -> float:
        """Rows of a mean request."""
        return float(self.rows)

    @property
    def largest(self) -> int:
        """Rows of the largest request."""
        return self.rows

    def counts(self, requests: int, _rng: "np.random.Generator") -> list[int]:
        """Rows of each request."""
        return [self.rows] * requests


@dataclass(frozen=True)
class Mixed:
    """Requests of several sizes, each with its weight; the sizes rise."""

    name: str
    sizes: tuple[tuple[int, int], ...]

    @property
    def mean(self) -> float:
        """Rows of a mean request."""
        return sum(rows * weight for rows, weight in self.sizes) / sum(weight for _, weight in self.sizes)

    @property
    def largest(self) -> int:
        """Rows of the largest request."""
        return self.sizes[-1][0]

    def counts(self, requests: int, rng: "np.random.Generator") -> list[int]:
        """Rows of each request: evenly spaced quantiles, shuffled, so that few requests have the whole distribution."""
        import numpy as np  # not above: `quorem --help` reads sizes, and needs no numbers

        rows, weights = np.array(self.sizes).T
        ends = np.cumsum(weights)
        quantiles = (np.arange(requests) + 0.5) / requests * ends[-1]
        return rng.permutation(rows[np.searchsorted(ends, quantiles)]).tolist()


Size = Fixed | Mixed


def parse_size(text: str) -> Size:
    """The size that a command line names: rows ("128"), a range of equally likely rows ("100-700"), or "mlperf".

    Raises:
        ArgumentTypeError: none of these.
    """
    if text == "mlperf":
        return Mixed(text, MLPERF)
    numbers = [int(part) if part.isascii() and part.isdigit() and len(part) < 9 else 0 for part in text.split("-")]
    if len(numbers) > 2 or not all(1 <= number <= MOST_ROWS for number in numbers) or numbers != sorted(numbers):
        raise argparse.ArgumentTypeError(f"rows are 1 to {MOST_ROWS}, as in 128 or 100-700, or mlperf, not {text!r}")
    if numbers[0] == numbers[-1]:
        return Fixed(numbers[0])
    return Mixed(text, tuple((rows, 1) for rows in range(numbers[0], numbers[1] + 1)))


def request_count(size: Size, least: int, most: int, rows_in_all: int) -> int:
    """How many requests hold about so many rows in all."""
    return min(most, max(least, math.floor(rows_in_all / size.mean)))
