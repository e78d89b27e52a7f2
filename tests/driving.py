"""Driving: what tests of a bench's clients share: loads of known latencies, and windows as one."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from fake_server import Fake
from quorem.serve.bench.drive import Arrivals, Drivers, Window
from quorem.serve.bench.load import Load
from quorem.serve.bench.target import Target
from quorem.serve.channel import Access

PATH = "/fake.Service/Method"
RESOLUTION = 1 / 1024  # of a histogram of 3 digits, but never finer than its unit
UNIT_NS = 512
SHARES = (0.1, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
MS = 1_000_000
KS_1_PERCENT = 1.628  # Kolmogorov-Smirnov: the statistic times the root of n that chance exceeds once in a hundred


def load(*microseconds: int) -> Load:
    """Requests that take so long, one after the other; the first has one row, the next two …"""
    requests = tuple(str(each).encode() for each in microseconds)
    return Load("known", requests, tuple(range(1, len(requests) + 1)), (None,) * len(requests))


def target(fake: Fake) -> Target:
    return Target(Access(fake.address), PATH, "score", "fake", "1", None, (), None)


def totalled(
    drivers: Drivers, fake: Fake, sent: Load, arrivals: Arrivals, window_s: float, windows: int, timeout_s: float = 30.0
) -> Window:
    """So many windows without a warm-up, as one."""
    total = Window()
    running = drivers.windows(Access(fake.address), PATH, sent, arrivals, 0.0, window_s, timeout_s)
    for window in islice(running, windows):
        total.add(window)
    running.close()
    return total


def percentile(values: Sequence[int] | np.ndarray, share: float) -> int:
    """The value of the nearest rank: numpy's own methods round a rank that lies between two otherwise."""
    return int(np.sort(values)[max(1, int(share * len(values) / 100 + 0.5)) - 1])


def slack(value: int) -> float:
    return max(UNIT_NS, value * RESOLUTION)
