"""Slo: search for the greatest Poisson rate whose p99 stays under a bound."""

from collections.abc import Callable, Sequence
from math import inf, sqrt

from .result import Cell

LEAST_RATE = 1.0  # calls a second; below it, a window holds too few of them for a p99


def search(
    measured: Callable[[float], Cell], start: float, bound_us: float, precision: float = 0.05
) -> tuple[float, list[Cell]]:
    """The greatest rate that holds the bound, to the precision, and all cells that told so, in their order.

    From `start` the rate is doubled (or halved) until it fails (or holds); what lies between is bisected by the
    geometric mean. One measurement that failed decides nothing, since what else a machine does makes calls slower and
    not faster: the least rate that failed is measured again at the end. If it fails again, the search is over; if it
    holds, all that failed before is forgotten, and the search goes on from there. Rate 0: not even `LEAST_RATE` holds.

    Args:
        measured: measures a rate, calls a second. What it raises ends the search, so a caller who wants the cells of an
            interrupted one keeps them there.
        start: where to begin, calls a second.
        bound_us: of the p99, from the scheduled send.
        precision: the greatest ratio, less 1, of the least rate that failed to the greatest that held.
    """
    cells, low, high, rate = list[Cell](), 0.0, inf, max(start, LEAST_RATE)
    while True:
        cells.append(measured(rate))
        if holds(cells[-1], bound_us):
            low, high = rate, inf if rate == high else high
        elif rate == high:
            return low, cells
        else:
            high = rate
        if high == inf:
            rate = 2 * low
        elif not low and high > LEAST_RATE:
            rate = max(high / 2, LEAST_RATE)
        elif low and high > low * (1 + precision):
            rate = sqrt(low * high)
        else:
            rate = high


def holds(cell: Cell, bound_us: float) -> bool:
    """Whether the p99 is under the bound, and nothing failed.

    Calls that were sent late need no rule of their own: latency counts from the schedule, so that it holds the client's
    delay too, and a client that cannot keep up finds too low a rate, never too high a one.
    """
    return cell.answered > 0 and not cell.failures and cell.latency_us["p99"] <= bound_us


def told(cells: Sequence[Cell], bound_ms: float) -> dict[str, float]:
    """What the cells of a search come to, whole or cut short: `Result.slo`."""
    held = {each.offered or 0.0: each for each in cells if holds(each, 1000 * bound_ms)}
    failed = {each.offered or 0.0 for each in cells if not holds(each, 1000 * bound_ms)}
    rate = max(held, default=0.0)
    p99_ms = held[rate].latency_us["p99"] / 1000 if held else 0.0
    return {"bound_ms": bound_ms, "rate": rate, "p99_ms": p99_ms, "disproved": len(failed & held.keys())}
