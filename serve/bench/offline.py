"""Offline: the greatest rate of rows, whatever the latency: calls in flight are doubled until it grows no more."""

from collections.abc import Callable

from .result import Cell

GAIN = 0.05  # of a doubling that was worth it
FRUITLESS = 2  # doublings in a row: one may have met a worker that another connection keeps busy
MOST_IN_FLIGHT = 1024


def search(measured: Callable[[int], Cell], start: int = 1) -> tuple[Cell | None, list[Cell]]:
    """The cell of most rows a second without failures, None where every one has some; and all cells, in their order.

    It ends after two doublings in a row that gained less than 5 %, or at the first cell with failures.

    Args:
        measured: measures so many calls in flight. What it raises ends the search, so a caller who wants the cells of
            an interrupted one keeps them there.
        start: calls in flight to begin with.
    """
    best, cells, fruitless, in_flight = None, list[Cell](), 0, start
    while in_flight <= MOST_IN_FLIGHT and fruitless < FRUITLESS:
        cell = measured(in_flight)
        cells.append(cell)
        if cell.failures or not cell.answered:
            break
        gained = best is None or cell.rows_per_s > best.rows_per_s * (1 + GAIN)
        fruitless = 0 if gained else fruitless + 1
        if best is None or cell.rows_per_s > best.rows_per_s:
            best = cell
        in_flight *= 2
    return best, cells
