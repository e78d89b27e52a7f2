"""Sizes: how many rows a field's tables have, from what a recipe gives: rows, bytes, tables, or collisions.

Legend: n ids of a field; c = collisions, the ids that share a row of the first table; k tables; a number is a float32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from ..protos import manifest_pb2 as pb
from ..protos import partitions
from ..protos.errors import OverBudget, PlanError, TooManyRows
from ..protos.plan import FLOAT_BYTES, table_dims

DEFAULT_COLLISIONS, DEFAULT_TABLES = 4, 2
MOST_TABLES = 16  # that a recipe may ask for
Tables = list[tuple[int, int]]


@dataclass(frozen=True)
class Sizes:
    """What a recipe gives; recipe.py says what each means, and which one decides.

    joined, dim, hidden: how the tables are joined, which decides how many numbers a row of each holds.
    """

    joined: pb.Combine
    dim: int
    hidden: int = 0
    rows: int | None = None
    bytes: int | None = None
    tables: int | None = None
    collisions: int | None = None
    radices: Sequence[int] | None = None
    moduli: Sequence[int] | None = None
    hash_rows: Literal["collisions", "qr"] = "collisions"
    allow_collisions: bool = False

    def dims(self, k: int) -> list[int]:
        """How many numbers a row of each of k tables holds."""
        return table_dims(self.joined if k > 1 else pb.ALONE, self.dim, self.hidden, k)

    def numbers(self, tables: partitions.Pairs) -> int:
        """How many numbers the tables hold."""
        return sum(rows * dim for (_, rows), dim in zip(tables, self.dims(len(tables)), strict=True))

    @property
    def exact(self) -> bool:
        """Whether the tables stand as they are asked for, even if they are no smaller than a full one."""
        return bool(self.radices or self.moduli or self.bytes)


def choose_tables(scheme: str, n: int, sizes: Sizes) -> Tables:
    """A scheme's tables of the sizes that are asked for; within bytes, a full table if that fits.

    Raises:
        EmptyField, OneId: n = 0, or several tables for n = 1. TooManyRows: more rows than ids. TooFewCollisions: c < 1.
        SharedFactor, TooFewTuples, Overflow: radices or moduli that are given, see partitions.py.
        OverBudget: no tables of the scheme fit the bytes.
    """
    partitions.check_count(n)
    if sizes.radices:
        return partitions.given_radices(n, sizes.radices, allow_collisions=sizes.allow_collisions)
    if sizes.moduli:
        return partitions.given_moduli(n, sizes.moduli, allow_collisions=sizes.allow_collisions)
    if sizes.rows is not None and sizes.rows > n:
        raise TooManyRows(
            "a table has at most as many rows as there are ids",
            found=f"rows = {sizes.rows} for n = {n} ids",
            remedy=f"Ask for {n} rows or fewer",
        )
    if sizes.bytes is not None:
        return _within_bytes(scheme, n, sizes, sizes.bytes)
    if scheme == "full":
        return partitions.full(n)
    if scheme in ("hash", "qr"):
        m = sizes.rows or partitions.remainder_rows(n, _or(sizes.collisions, DEFAULT_COLLISIONS))
        if scheme == "qr":
            return partitions.quotient_remainder(n, m)
        if sizes.hash_rows == "qr" and n > 1:
            m = sum(rows for _, rows in partitions.quotient_remainder(n, m))
        return partitions.hashed(n, m)
    if sizes.rows is not None:
        return _fewest_tables(scheme, n, sizes.rows)
    if sizes.tables is None and sizes.collisions is not None:
        return _two_tables(scheme, n, partitions.remainder_rows(n, sizes.collisions))
    return _balanced(scheme, n, sizes.tables or DEFAULT_TABLES)


def _balanced(scheme: str, n: int, k: int) -> Tables:
    """k tables of about as many rows; fewer radices where so many would leave tables of one row."""
    if scheme == "chinese_remainder":
        return partitions.chinese_remainder(n, k)
    return partitions.mixed_radix(n, min(k, max(2, (n - 1).bit_length())))


def _two_tables(scheme: str, n: int, m: int) -> Tables:
    """m rows, and as many as it takes beside them."""
    tables = partitions.quotient_remainder(n, m)
    if scheme != "chinese_remainder":
        return tables
    return [(1, m), (1, next(rows for rows in count(max(2, tables[1][1])) if math.gcd(m, rows) == 1))]


def _fewest_tables(scheme: str, n: int, most: int) -> Tables:
    """The fewest tables of at most so many rows each."""
    for k in range(2, partitions.MAX_TABLES + 1):
        tables = _balanced(scheme, n, k)
        if max(rows for _, rows in tables) <= most:
            return tables
    raise PlanError(
        "tables of at most so many rows give every id a tuple of its own",
        found=f"rows = {most} for n = {n} ids of scheme {scheme}",
        remedy="Ask for more rows" if scheme == "mixed_radix" else "Ask for more rows, or for scheme `mixed_radix`",
    )


def _within_bytes(scheme: str, n: int, sizes: Sizes, budget: int) -> Tables:
    """The largest tables that fit: a full one, else as few as can be, of as many rows in the first one as can be."""
    numbers = budget // FLOAT_BYTES
    if n * sizes.dim <= numbers:
        return partitions.full(n)
    if found := _largest(scheme, n, sizes, numbers):
        return found
    least = FLOAT_BYTES * _least_numbers(lambda most: _largest(scheme, n, sizes, most), n * sizes.dim)
    remedy = f"Raise `bytes` to {least} or more, or lower `dim`"
    for k in range(2, MOST_TABLES + 1 if n > 1 else 2):
        other = sizes.numbers(_balanced("mixed_radix", n, k))
        if other <= numbers:
            remedy = f'Raise it, or take scheme = "mixed_radix" with tables = {k}: {other * FLOAT_BYTES} bytes'
            break
    raise OverBudget(
        "a field's tables fit the bytes that it is given",
        found=f"bytes = {budget}, where scheme {scheme} takes {least} or more for {n} ids of dim {sizes.dim}",
        remedy=remedy,
    )


def _largest(scheme: str, n: int, sizes: Sizes, numbers: int) -> Tables | None:
    """The largest tables of at most so many numbers; None where there are none."""
    if scheme == "full":
        return partitions.full(n) if n * sizes.dim <= numbers else None
    if scheme == "hash":
        return partitions.hashed(n, numbers // sizes.dim) if numbers >= sizes.dim else None
    partitions.quotient_remainder(n, 1)  # refuses a single id
    most = 2 if scheme == "qr" else MOST_TABLES
    if sizes.joined == pb.CONCAT:
        most = min(most, max(2, sizes.dim))
    for k in range(2, most + 1):
        if rows := _largest_rows(scheme, n, sizes.dims(k), numbers):
            return [(1, each) for each in rows] if scheme == "chinese_remainder" else partitions.given_radices(n, rows)
    return None


def _largest_rows(scheme: str, n: int, dims: Sequence[int], numbers: int) -> list[int] | None:
    """The rows of k tables of at most so many numbers, as many as can be in the first one; None where they never fit.

    The first table has m rows, and the others are balanced over the q = ceil(n / m) quotients that it leaves. The less
    they hold, the more is left for m, so the least q that goes with its m is sought. As the others grow with q, the m
    that one q leaves room for bounds every m after it, and q need only be raised to ceil(n / m).
    """
    k = len(dims)
    q = 2 ** (k - 2) + 1  # fewer quotients are told apart by fewer tables
    while True:
        others = [q] if k == 2 else [rows for _, rows in _balanced(scheme, q, k - 1)]
        room = numbers - sum(rows * dim for rows, dim in zip(others, dims[1:], strict=True))
        most = min(room // dims[0], -(-n // (q - 1)) - 1)
        if most < 2:
            return None
        m = most
        if scheme == "chinese_remainder":
            m = next((m for m in range(most, 1, -1) if all(math.gcd(m, other) == 1 for other in others)), 0)
        if m * math.prod(others) >= n:
            return [m, *others]
        q = max(q + 1, -(-n // most))


def _least_numbers(fits: Callable[[int], Tables | None], most: int) -> int:
    """The least budget that tables fit into, by halving; `most` is enough for a full table."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
