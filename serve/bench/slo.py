"""Slo: search for the greatest Poisson rate whose p99 stays under a bound."""

from collections.abc import Callable
from math import sqrt

from .result import Cell

LEAST_RATE = 1.0  # calls a second; below it, a window holds too few of them for a p99
MOST_LATE = 0.01  # of the sends: above it, what was offered is not what was asked for


def search(
    measured: Callable[[float], Cell], start: float, bound_us: float, precision: float = 0.05
) -> tuple[float, list[Cell]]:
    """The greatest rate that holds the bound, to the precision, and all cells that told so, in their order.

    From `start` the rate is doubled (or halved) until it fails (or holds); what lies between is bisected by the
    geometric mean. Rate 0: not even `LEAST_RATE` holds.

    Args:
        measured: measures a rate, calls a second. What it raises ends the search, so a caller who wants the cells of an
            interrupted one keeps them there.
        start: where to begin, calls a second.
        bound_us: of the p99, from the scheduled send.
        precision: the greatest ratio, less 1, of the least rate that failed to the greatest that held.
    """
    cells = list[Cell]()

    def passes(rate: float) -> bool:
        cells.append(measured(rate))
        return holds(cells[-1], bound_us)

    low = high = max(start, LEAST_RATE)
    if passes(low):
        while passes(high := 2 * low):
            low = high
    else:
        while high > LEAST_RATE and not passes(low := max(high / 2, LEAST_RATE)):
            high = low
        if high <= LEAST_RATE:
            return 0.0, cells
    while high > low * (1 + precision):
        middle = sqrt(low * high)
        if passes(middle):
            low = middle
        else:
            high = middle
    return low, cells


def holds(cell: Cell, bound_us: float) -> bool:
    """Whether the p99 is under the bound, nothing failed, and the calls were sent when they were due."""
    return (
        cell.answered > 0
        and not cell.failures
        and cell.latency_us["p99"] <= bound_us
        and cell.late <= MOST_LATE * cell.answered
    )
