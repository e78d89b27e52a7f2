"""Batches: many rows, a call's worth at a time."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..protos.encode import Column
from ..protos.errors import InputError, WrongLength
from .rows import Batch

BATCH_ROWS = 512  # of one call
IN_FLIGHT = 2  # calls per connection: one is computed while the next is on its way


def batches(columns: Mapping[str, Column], rows: int, batch_rows: int) -> Iterator[Batch]:
    """Consecutive rows of columns; numbers are views, never copies.

    Raises:
        WrongLength: a column of another length than `rows`, before anything is cut.
    """
    if batch_rows < 1:
        raise InputError("a batch has at least one row", found=str(batch_rows), where="batch_rows", remedy="Ask for 1")
    return parts(columns, rows, [*range(0, rows, batch_rows), rows])


def parts(columns: Mapping[str, Column], rows: int, bounds: Sequence[int]) -> Iterator[Batch]:
    """The rows between each two neighbours of rising bounds, the first of which is 0; as `batches`."""
    starts = {name: _starts(name, column, rows) for name, column in columns.items()}
    return (
        Batch(first, end - first, {name: _cut(column, starts[name], first, end) for name, column in columns.items()})
        for first, end in pairwise(bounds)
    )


def _starts(name: str, column: Column, rows: int) -> np.ndarray | None:
    """(rows + 1,) int64: where each row's items start; None where a row has one value."""
    found = len(column) if column.lengths is None else len(column.lengths)
    if found != rows:
        raise WrongLength(
            f"a column of {rows} rows has as many values, a bag as many lengths",
            found=str(found),
            where=f"column {name!r}",
            remedy="Send one per row",
        )
    if column.lengths is None:
        return None
    starts = np.concatenate([[0], np.cumsum(column.lengths, dtype=np.int64)])
    if starts[-1] != len(column) or (column.lengths < 0).any():
        raise WrongLength(
            "a bag's lengths add up to its values",
            found=f"{starts[-1]} for {len(column)} values",
            where=f"column {name!r}",
            remedy="Send one length per row",
        )
    return starts


def _cut(column: Column, starts: np.ndarray | None, first: int, end: int) -> Column:
    """The rows in [first, end) of a column; the distinct strings that codes point at stay whole."""
    values = slice(first, end) if starts is None else slice(int(starts[first]), int(starts[end]))
    strings = column.strings
    return Column(
        integers=None if column.integers is None else column.integers[values],
        strings=strings if strings is None or column.codes is not None else strings[values],
        codes=None if column.codes is None else column.codes[values],
        floats=None if column.floats is None else column.floats[values],
        lengths=None if column.lengths is None else column.lengths[first:end],
        missing=None if column.missing is None else column.missing[values],
    )
