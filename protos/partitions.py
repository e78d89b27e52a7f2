"""Partitions: the tables of every scheme as (divide, rows), in Python's integers, exact at any size.

Row of id x in table j: (x // divide_j) % rows_j. Source: Shi et al., KDD'20, sections 3 and 4.
Legend: n ids of a field; m rows; c = collisions, the ids that share a row of the remainder table; k tables.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from .errors import (
    EmptyField,
    OneId,
    Overflow,
    PlanError,
    SharedFactor,
    TooFewCollisions,
    TooFewTuples,
    TooManyRows,
)
from .ids import Int64s

LARGEST_ID = 2**63 - 1  # ids are int64
MAX_TABLES = 63  # of two rows each reach every id
Pairs = Sequence[tuple[int, int]]


def full(n: int) -> list[tuple[int, int]]:
    """One row an id."""
    check_count(n)
    return [(1, n)]


def hashed(n: int, rows: int) -> list[tuple[int, int]]:
    """The hashing trick: ids that are equal modulo `rows` share a vector; never more rows than ids."""
    check_count(n)
    if rows < 1:
        raise PlanError("a table has at least one row", found=str(rows), remedy="Ask for more rows")
    return [(1, min(rows, n))]


def remainder_rows(n: int, collisions: int) -> int:
    """m = ceil(n / c), the rows of the remainder table.

    Raises:
        TooFewCollisions: c < 1.
    """
    if collisions < 1:
        raise TooFewCollisions(
            "at least one id stands on a row: collisions are 1 or more",
            found=f"collisions = {collisions}",
            remedy="Ask for 2 or more, or for scheme `full`",
        )
    return -(-n // collisions)


def quotient_remainder(n: int, m: int) -> list[tuple[int, int]]:
    """x mod m and x div m (KDD'20, section 3.1, example 2): m + ceil(n / m) rows.

    Raises:
        EmptyField, OneId: n = 0 or 1. TooManyRows: m > n. PlanError: m < 1.
    """
    _check_several(n)
    if m > n:
        raise TooManyRows(
            "the remainder table has at most as many rows as there are ids",
            found=f"m = {m} rows for n = {n} ids",
            remedy=f"Ask for {n} rows or fewer; near the root, {math.isqrt(n)}, the two tables are smallest",
        )
    if m < 1:
        raise PlanError("a table has at least one row", found=f"m = {m}", remedy="Ask for more rows, or a lower c")
    return [(1, m), (m, -(-n // m))]


def mixed_radix(n: int, k: int) -> list[tuple[int, int]]:
    """The digits of x in k balanced radices (generalised quotient-remainder, KDD'20, section 3.1, example 3).

    About k * n^(1/k) rows. Each radix is the ceiling of the root of what those before it leave, so none is above the
    one before it; where n is 2^(k-1) or less, the last ones are 1.

    Raises:
        EmptyField, OneId: n = 0 or 1. PlanError: k outside 2 to `MAX_TABLES`.
    """
    _check_several(n)
    _check_tables(k)
    tables, divide, left = list[tuple[int, int]](), 1, n
    for j in range(k):
        radix = _ceil_root(left, k - j)
        tables.append((divide, radix))
        divide, left = divide * radix, -(-left // radix)
    return tables


def given_radices(n: int, radices: Sequence[int], *, allow_collisions: bool = False) -> list[tuple[int, int]]:
    """The digits of x in the given radices, the lowest first; the last table has as many rows as are reached.

    Raises:
        EmptyField, OneId: n = 0 or 1. TooManyRows: a radix above n, or of which one row is reached.
        Overflow: a radix, or the product of those before one, beyond int64.
        TooFewTuples: their product is below n, unless ids may collide.
    """
    _check_several(n)
    _check_given(n, radices, "radix")
    tables, divide = list[tuple[int, int]](), 1
    for radix in radices:
        if divide > LARGEST_ID:
            raise Overflow(
                "an id is divided by at most 2^63 - 1",
                found=f"radices {list(radices)}: the product before {radix} is {divide}",
                remedy=f"Lower the radices, or drop the last ones: {n} ids need a product of {n}",
            )
        reached = min(radix, -(-n // divide))
        if reached == 1:
            raise TooManyRows(
                "every radix tells ids apart",
                found=f"{radix}, when those before it make {divide} tuples for {n} ids",
                remedy="Drop it and those after it",
            )
        tables.append((divide, reached))
        divide *= radix
    if divide < n and not allow_collisions:
        raise TooFewTuples(
            "the product of the radices reaches the number of ids",
            found=f"{' x '.join(map(str, radices))} = {divide} for {n} ids",
            remedy=f"Add a radix of {-(-n // divide)}, or say allow_collisions",
        )
    return tables


def chinese_remainder(n: int, k: int) -> list[tuple[int, int]]:
    """x modulo k pairwise coprime numbers whose product reaches n (KDD'20, section 3.1, example 4).

    The moduli are the first such numbers from a start that is lowered from the root on while their product reaches n;
    then each is lowered as far as it can be. From a root of 100 on, and up to 8 tables, they have at most k rows more
    than k * n^(1/k). Of ids so few that some modulus is above n, leave the field full.

    Raises:
        EmptyField, OneId: n = 0 or 1. PlanError: k outside 2 to `MAX_TABLES`.
    """
    _check_several(n)
    _check_tables(k)
    start = max(2, _ceil_root(n, k))
    moduli = _coprime_numbers(start, k)
    while start > 2 and math.prod(lower := _coprime_numbers(start - 1, k)) >= n:
        start, moduli = start - 1, lower
    settled = list[int]()
    while moduli != settled:
        settled = sorted(moduli)
        for j in reversed(range(k)):
            others = moduli[:j] + moduli[j + 1 :]
            moduli[j] = _coprime_from(max(2, -(-n // math.prod(others))), others)
        moduli.sort()
    return [(1, modulus) for modulus in moduli]


def given_moduli(n: int, moduli: Sequence[int], *, allow_collisions: bool = False) -> list[tuple[int, int]]:
    """x modulo each of the given numbers.

    Raises:
        EmptyField, OneId: n = 0 or 1. TooManyRows: a modulus above n.
        SharedFactor, TooFewTuples: they are not coprime, or their product is below n, unless ids may collide.
    """
    _check_several(n)
    _check_given(n, moduli, "modulus")
    reach = math.lcm(*moduli)
    for (_, other), (j, modulus) in itertools.combinations(enumerate(moduli), 2):
        if math.gcd(other, modulus) > 1 and not allow_collisions:
            free = _coprime_from(modulus + 1, [*moduli[:j], *moduli[j + 1 :]])
            better = f"Take {free} for {modulus}" if free <= n else "Say `tables` instead, and coprime ones are found"
            raise SharedFactor(
                "moduli are pairwise coprime",
                found=f"{other} and {modulus} share the factor {math.gcd(other, modulus)}: together the moduli tell "
                f"{min(n, reach)} of {n} ids apart",
                remedy=f"{better}, or say allow_collisions",
            )
    if reach < n and not allow_collisions:
        raise TooFewTuples(
            "the product of the moduli reaches the number of ids",
            found=f"{' x '.join(map(str, moduli))} = {reach} for {n} ids",
            remedy=f"Add a modulus of {_coprime_from(-(-n // reach), moduli)}, or say allow_collisions",
        )
    return [(1, modulus) for modulus in moduli]


def rows_of(tables: Pairs, ids: Int64s) -> Int64s:
    """Every id's row in every table; (N,) int64 and k tables -> (N, k) int64."""
    return np.stack([(ids // divide) % rows for divide, rows in tables], axis=1)


def check_count(n: int) -> None:
    """Refuse a number of ids that no field has.

    Raises:
        EmptyField: no ids. Overflow: more than int64 tells apart.
    """
    if n < 1:
        raise EmptyField(
            "a field has at least one id", found=f"n = {n}", remedy="Check the feature's size, buckets or vocabulary"
        )
    if n > LARGEST_ID:
        raise Overflow("a field has at most 2^63 - 1 ids", found=f"n = {n}", remedy="Lower the feature's size")


def _check_several(n: int) -> None:
    check_count(n)
    if n == 1:
        raise OneId(
            "a field of several tables has at least two ids",
            found="n = 1",
            remedy='Say scheme = "full" for the field: one id is one row',
        )


def _check_tables(k: int) -> None:
    if not 2 <= k <= MAX_TABLES:
        raise PlanError(f"such a scheme has 2 to {MAX_TABLES} tables", found=str(k), remedy="Set `tables` within it")


def _check_given(n: int, numbers: Sequence[int], what: str) -> None:
    _check_tables(len(numbers))
    for number in numbers:
        if number > LARGEST_ID:
            raise Overflow(f"a {what} fits int64", found=str(number), remedy=f"Lower it to {n} or less")
        if number < 2:
            raise PlanError(f"a {what} is at least 2", found=str(number), remedy="Drop it: it tells no ids apart")
        if number > n:
            raise TooManyRows(
                f"a {what} is at most the number of ids: rows above it are never looked up",
                found=f"{number} for n = {n} ids",
                remedy=f"Lower it to {n} or less",
            )


def _coprime_from(start: int, others: Sequence[int]) -> int:
    """The least number from `start` on that shares no factor with any of the others."""
    product = math.prod(others)
    return next(number for number in itertools.count(start) if math.gcd(number, product) == 1)


def _coprime_numbers(start: int, k: int) -> list[int]:
    """The first k pairwise coprime numbers from `start` on."""
    found = list[int]()
    for _ in range(k):
        found.append(_coprime_from(found[-1] + 1 if found else start, found))
    return found


def _ceil_root(n: int, k: int) -> int:
    """The least m with m^k >= n, exactly: a float's guess, mended in integers."""
    root = max(1, round(n ** (1 / k)))
    while root**k < n:
        root += 1
    while root > 1 and (root - 1) ** k >= n:
        root -= 1
    return root
