"""Collisions: how many ids of a field share every row with another one, decided exactly.

A plan is complementary when there are none (Shi et al., KDD'20, section 3, definition 1).
Legend: n ids; k tables of (divide, rows), or of classes that are given id by id.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .errors import PlanError
from .ids import Int64s
from .partitions import LARGEST_ID, Pairs

COUNTED_IDS = 2**20  # as many are counted where no rule decides: a manifest is read in seconds, whatever it says
DENSE = 8  # tuples an id: up to so many, they are counted by a flag each, without sorting the ids
Int32s = npt.NDArray[np.int32]


def count_collisions(n: int, tables: Pairs, where: str = "") -> int:
    """How many of the ids 0 to n - 1 share every row with a smaller id; 0 where the plan is complementary.

    Sorted by divide, the pairs form a mixed radix when each divide is the product of the rows before it: the tuple is
    x's digits, so it repeats with period Π rows, and not earlier. Tables of divide 1 see x modulo their rows only: by
    the Chinese remainder theorem the tuple repeats with period lcm(rows). Other pairs are counted.

    Raises:
        PlanError: no rule decides, and there are too many ids to count; `where` names the field in it.
    """
    reach = 1
    for divide, rows in sorted(tables):
        if divide != reach:
            break
        reach *= rows
    else:
        return max(0, n - reach)
    if all(divide == 1 for divide, _ in tables):
        return max(0, n - math.lcm(*(rows for _, rows in tables)))
    if n > COUNTED_IDS:
        raise PlanError(
            "a plan is a mixed radix (each divide the product of the rows before it), has divide 1 throughout, "
            f"or is of at most {COUNTED_IDS:,} ids, which are counted",
            found=f"tables {list(tables)} for {n} ids",
            where=where,
            remedy="Build the plan with one of the named schemes",
        )
    return count_class_collisions(tables, [None] * len(tables), n)


def count_class_collisions(tables: Pairs, classes: Sequence[Int32s | None], n: int) -> int:
    """`count_collisions` where some tables have their classes given: always counted."""
    numbers, span = _numbered(_rows(tables, classes, n))
    if span > DENSE * n:
        return n - len(np.unique(numbers))
    met = np.zeros(span, np.bool_)
    met[numbers] = True
    return n - int(np.count_nonzero(met))


def groups_of_ids(tables: Pairs, classes: Sequence[Int32s | None], n: int) -> Int64s:
    """A number for each id, (n,) int64 from 0 on, equal for ids that share every row and only for those."""
    return np.unique(_numbered(_rows(tables, classes, n))[0], return_inverse=True)[1].reshape(-1)


def _rows(tables: Pairs, classes: Sequence[Int32s | None], n: int) -> Iterator[Int64s]:
    """Table by table every id's row, (n,) int64: its class where classes are given, else by arithmetic."""
    for (divide, rows), given in zip(tables, classes, strict=True):
        yield np.arange(n) // divide % rows if given is None else given.astype(np.int64)


def _numbered(columns: Iterable[Int64s]) -> tuple[Int64s, int]:
    """A number for each tuple of rows, and the end of the range of these numbers."""
    numbers, span = np.zeros(1, np.int64), 1
    for column in columns:
        width = int(column.max(initial=0)) + 1
        if span * width > LARGEST_ID:
            numbers = np.unique(numbers, return_inverse=True)[1].reshape(-1)
            span = int(numbers.max()) + 1
        numbers = numbers * width + column
        span *= width
    return numbers, span
