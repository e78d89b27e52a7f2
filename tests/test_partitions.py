"""Laws of partitions: every id has its own tuple of rows, every row an id, and integers stay exact at any size."""

import itertools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import partitions
from quorem.protos.errors import (
    EmptyField,
    OneId,
    Overflow,
    PlanError,
    SharedFactor,
    TooFewCollisions,
    TooFewTuples,
    TooManyRows,
)

Pairs = Sequence[tuple[int, int]]

SCHEMES = ["full", "qr", "mixed_radix", "given_radices", "chinese_remainder", "given_moduli"]
BIG = [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**33, 2**33 + 1, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 2]


def coprime(number: int, others: Sequence[int]) -> bool:
    return all(math.gcd(number, other) == 1 for other in others)


@st.composite
def radices(draw: st.DrawFn, n: int) -> list[int]:
    """Two or more numbers whose product reaches n, the last one perhaps larger than needed; n is 3 or more."""
    found, left = list[int](), n
    while not found or (left > 2 and len(found) < 8 and draw(st.booleans())):
        found.append(draw(st.integers(2, left - 1)))
        left = -(-left // found[-1])
    return [*found, min(n, left + draw(st.integers(0, 3)))]


@st.composite
def moduli(draw: st.DrawFn, n: int) -> list[int]:
    """Two or more coprime numbers of at most n whose product reaches n, in any order; n is 3 or more."""
    found = list[int]()
    while len(found) < 2 or math.prod(found) < n:
        start = draw(st.integers(2, min(n, 2**40)))
        candidates = itertools.chain(itertools.count(start) if start < n // 2 else range(start, n + 1), range(2, start))
        found.append(next(number for number in candidates if coprime(number, found)))
    return found


@st.composite
def complementary(draw: st.DrawFn, n: int) -> Pairs:
    """Tables of n >= 3 ids by a scheme that tells all of them apart."""
    match draw(st.sampled_from(SCHEMES)):
        case "full":
            return partitions.full(n)
        case "qr":
            return partitions.quotient_remainder(n, draw(st.integers(1, n)))
        case "mixed_radix":
            return partitions.mixed_radix(n, draw(st.integers(2, 16)))
        case "given_radices":
            return partitions.given_radices(n, draw(radices(n)))
        case "chinese_remainder":
            return partitions.chinese_remainder(n, draw(st.integers(2, 9)))
        case _:
            return partitions.given_moduli(n, draw(moduli(n)))


def decode(tables: Pairs, rows: Sequence[int]) -> int:
    """The id of a tuple of rows: its digits put together, or by the Chinese remainder theorem."""
    if any(divide > 1 for divide, _ in tables):
        return sum(row * divide for row, (divide, _) in zip(rows, tables, strict=True))
    product = math.prod(count for _, count in tables)
    parts = [row * (product // m) * pow(product // m, -1, m) for row, (_, m) in zip(rows, tables, strict=True)]
    return sum(parts) % product


def assert_laws_by_counting(n: int, tables: Pairs) -> None:
    found = partitions.rows_of(tables, np.arange(n))
    span, keys = 1, np.zeros(n, np.int64)
    for column, (_, rows) in zip(found.T, tables, strict=True):
        met = np.bincount(column, minlength=rows)
        assert len(met) == rows
        assert met.all() or rows > n
        keys, span = keys * rows + column, span * rows
    assert span < 2**63, "the test's own keys are exact"
    assert len(np.unique(keys)) == n


# ---------------------------------------------------------------- complementary


@given(st.data())
def test_every_id_has_its_own_rows_and_every_row_an_id(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 3000))
    assert_laws_by_counting(n, data.draw(complementary(n)))


@settings(max_examples=8)
@given(st.data(), st.integers(10**6 - 20, 10**6))
def test_the_same_for_a_million_ids(data: st.DataObject, n: int) -> None:
    assert_laws_by_counting(n, data.draw(complementary(n)))


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("scheme", [partitions.mixed_radix, partitions.chinese_remainder])
def test_the_balanced_schemes_for_a_million_ids(scheme: Callable[[int, int], Pairs], k: int) -> None:
    assert_laws_by_counting(10**6, scheme(10**6, k))


@settings(max_examples=300)
@given(st.data())
def test_an_id_of_any_size_is_read_back_from_its_rows(data: st.DataObject) -> None:
    """What can be read back is injective."""
    n = data.draw(st.integers(3, 10**6) | st.integers(3, 2**62))
    tables = data.draw(complementary(n))
    edges = {divide * row + shift for divide, row in tables for shift in (-1, 0, 1)} | {0, 1, n // 2, n - 2, n - 1}
    drawn = data.draw(st.lists(st.integers(0, n - 1), max_size=20))
    ids = [*drawn, *(x for x in sorted(edges) if 0 <= x < n)]
    rows = partitions.rows_of(tables, np.array(ids, np.int64))
    assert rows.dtype == np.int64
    assert (rows >= 0).all()
    assert (rows < np.array([count for _, count in tables])).all()
    assert [decode(tables, each) for each in rows.tolist()] == ids


@given(st.data())
def test_every_row_has_an_id_at_any_size(data: st.DataObject) -> None:
    """Row i of a table (d, r) is that of id i * d, and the last of them is an id of the field."""
    n = data.draw(st.integers(300, 2**62))  # from 300 on no modulus that is chosen for 9 tables is above n
    for divide, rows in data.draw(complementary(n)):
        row = data.draw(st.integers(0, rows - 1))
        assert (rows - 1) * divide < n
        assert row * divide // divide % rows == row


@given(st.data())
def test_ids_that_differ_by_the_period_collide_and_no_others_do(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 2**40))
    tables = data.draw(complementary(n).filter(lambda tables: max(rows for _, rows in tables) <= n))
    period = math.prod(rows for _, rows in tables)
    x, apart = data.draw(st.integers(0, 2**20)), data.draw(st.integers(1, 2**22))
    far = [x, x + period, x + 3 * period, x + apart]
    first, *others, other = [[each // divide % rows for divide, rows in tables] for each in far]
    assert others == [first, first]
    assert (other == first) == (apart % period == 0)


# ---------------------------------------------------------------- sizes


@given(st.integers(1, 2**62), st.integers(1, 2**62))
def test_quotient_remainder_has_m_and_the_ceiling_of_n_by_m_rows(n: int, c: int) -> None:
    m = partitions.remainder_rows(n, c)
    assert (m - 1) * c < n <= m * c
    if n > 1:
        assert partitions.quotient_remainder(n, m) == [(1, m), (m, (n - 1) // m + 1)]


@given(st.integers(2, 2**63 - 1), st.integers(2, 63))
def test_radices_are_balanced_around_the_root(n: int, k: int) -> None:
    """The first radix is the root's ceiling, exactly, and those after it are no larger."""
    tables = partitions.mixed_radix(n, k)
    rows = [rows for _, rows in tables]
    assert len(tables) == k
    assert (rows[0] - 1) ** k < n <= rows[0] ** k
    assert rows == sorted(rows, reverse=True)
    assert [divide for divide, _ in tables] == [math.prod(rows[:j]) for j in range(k)]
    assert all(divide < 2**63 for divide, _ in tables)


@given(st.integers(2, 10**4) | st.integers(2, 2**63 - 1), st.integers(2, 16))
def test_chosen_moduli_are_coprime_and_none_can_be_lower(n: int, k: int) -> None:
    tables = partitions.chinese_remainder(n, k)
    found = [rows for _, rows in tables]
    assert len(tables) == k
    assert {divide for divide, _ in tables} == {1}
    assert found == sorted(found)
    assert math.prod(found) >= n
    for j, modulus in enumerate(found):
        others = found[:j] + found[j + 1 :]
        assert coprime(modulus, others)
        enough = max(2, -(-n // math.prod(others)))  # lower ones do not reach n
        assert not any(coprime(lower, others) for lower in range(enough, modulus))


@settings(max_examples=300)
@given(st.integers(2, 8), st.data())
def test_chosen_moduli_are_close_to_the_root_and_their_product_to_n(k: int, data: st.DataObject) -> None:
    """From a root of 100 on: hardly more rows than radices would have, and hardly more tuples than ids."""
    n = data.draw(st.integers(100**k, 2**63 - 1))
    root = partitions.mixed_radix(n, k)[0][1]
    found = [rows for _, rows in partitions.chinese_remainder(n, k)]
    assert max(found) <= root + 4 * k
    assert sum(found) <= k * root + k
    assert math.prod(found) * root <= n * (root + 2 * k)


def test_criteos_cardinalities_in_three_radices_take_under_four_thousand_rows() -> None:
    from quorem.train.sources.synthetic import CRITEO as CARDINALITIES

    assert sum(CARDINALITIES) == 33_762_577
    assert sum(rows for n in CARDINALITIES if n > 1 for _, rows in partitions.mixed_radix(n, 3)) < 4000


def test_schemes_worked_out_by_hand() -> None:
    assert partitions.full(7) == [(1, 7)]
    assert partitions.hashed(7, 3) == [(1, 3)]
    assert partitions.hashed(5, 9) == [(1, 5)]
    assert partitions.quotient_remainder(10, 4) == [(1, 4), (4, 3)]
    assert partitions.mixed_radix(1000, 3) == [(1, 10), (10, 10), (100, 10)]
    assert partitions.mixed_radix(60, 3) == [(1, 4), (4, 4), (16, 4)]
    assert partitions.mixed_radix(5, 4) == [(1, 2), (2, 2), (4, 2), (8, 1)]
    assert partitions.given_radices(60, [3, 4, 5]) == [(1, 3), (3, 4), (12, 5)]
    assert partitions.given_radices(50, [3, 4, 9]) == [(1, 3), (3, 4), (12, 5)]  # 12 x 5 reach 50
    assert partitions.given_radices(60, [3, 4], allow_collisions=True) == [(1, 3), (3, 4)]
    assert partitions.chinese_remainder(1000, 2) == [(1, 31), (1, 33)]
    assert partitions.chinese_remainder(10**6, 2) == [(1, 1000), (1, 1001)]
    assert partitions.given_moduli(60, [5, 3, 4]) == [(1, 5), (1, 3), (1, 4)]
    assert partitions.given_moduli(60, [6, 4], allow_collisions=True) == [(1, 6), (1, 4)]


# ---------------------------------------------------------------- integers, exact


@pytest.mark.parametrize(
    "tables",
    [
        partitions.full(2**63 - 1),
        partitions.hashed(2**63 - 1, 1_000_003),
        partitions.quotient_remainder(2**63 - 1, 3_037_000_500),
        partitions.quotient_remainder(2**63 - 1, 4),
        partitions.quotient_remainder(2**63 - 1, 2**61),
        partitions.mixed_radix(2**63 - 1, 3),
        partitions.chinese_remainder(2**63 - 1, 3),
    ],
    ids=["full", "hashed", "qr", "qr by 4", "qr by 2^61", "mixed radix", "chinese remainder"],
)
def test_rows_are_exact_at_any_size(tables: Pairs) -> None:
    ids = [*BIG, *(x + d for x in BIG[:-1] for d in (-1, 1))]
    found = partitions.rows_of(tables, np.array(ids, np.int64))
    message = pb.Field(tables=[pb.Table(divide=divide, rows=rows) for divide, rows in tables])
    assert found.tolist() == [oracle.rows(message, x) for x in ids]


def test_the_row_that_float32_division_gets_wrong() -> None:
    assert partitions.rows_of([(4, 2**30)], np.array([2**25 + 3])).tolist() == [[8_388_608]]
    assert int(np.float32(2**25 + 3) / np.float32(4)) == 8_388_609


# ---------------------------------------------------------------- refusals

SEVERAL = {
    "qr": lambda n: partitions.quotient_remainder(n, 1),
    "mixed_radix": lambda n: partitions.mixed_radix(n, 2),
    "given_radices": lambda n: partitions.given_radices(n, [2, 2]),
    "chinese_remainder": lambda n: partitions.chinese_remainder(n, 2),
    "given_moduli": lambda n: partitions.given_moduli(n, [2, 3]),
}
ANY = {"full": partitions.full, "hashed": lambda n: partitions.hashed(n, 1)} | SEVERAL


@pytest.mark.parametrize("scheme", ANY)
def test_no_scheme_takes_no_ids_or_more_than_int64_holds(scheme: str) -> None:
    for n in (0, -1):
        with pytest.raises(EmptyField, match=rf"at least one id\. Found: n = {n}\. Check"):
            ANY[scheme](n)
    with pytest.raises(Overflow, match=rf"at most 2\^63 - 1 ids\. Found: n = {2**63}\. Lower"):
        ANY[scheme](2**63)


@pytest.mark.parametrize("scheme", SEVERAL)
def test_several_tables_take_more_than_one_id(scheme: str) -> None:
    with pytest.raises(OneId, match=r"at least two ids\. Found: n = 1\. Say scheme"):
        SEVERAL[scheme](1)


@pytest.mark.parametrize(
    ("build", "error", "rule", "found", "remedy"),
    [
        (lambda: partitions.remainder_rows(9, 0), TooFewCollisions, "1 or more", "collisions = 0", "2 or more"),
        (lambda: partitions.remainder_rows(9, -3), TooFewCollisions, "1 or more", "collisions = -3", "2 or more"),
        (lambda: partitions.quotient_remainder(9, 10), TooManyRows, "as there are ids", "m = 10", "near the root, 3"),
        (lambda: partitions.quotient_remainder(9, 0), PlanError, "at least one row", "m = 0", "more rows"),
        (lambda: partitions.hashed(9, 0), PlanError, "at least one row", "0", "more rows"),
        (lambda: partitions.mixed_radix(9, 1), PlanError, "2 to 63 tables", "1", "`tables`"),
        (lambda: partitions.chinese_remainder(9, 64), PlanError, "2 to 63 tables", "64", "`tables`"),
        (lambda: partitions.given_radices(9, [9]), PlanError, "2 to 63 tables", "1", "`tables`"),
        (lambda: partitions.given_moduli(9, []), PlanError, "2 to 63 tables", "0", "`tables`"),
        (lambda: partitions.given_radices(9, [1, 9]), PlanError, "at least 2", "1", "Drop it"),
        (lambda: partitions.given_moduli(9, [0, 9]), PlanError, "at least 2", "0", "Drop it"),
        (lambda: partitions.given_radices(9, [10, 2]), TooManyRows, "at most the number of ids", "10", "to 9"),
        (lambda: partitions.given_moduli(9, [10, 3]), TooManyRows, "at most the number of ids", "10", "to 9"),
        (lambda: partitions.given_radices(9, [3, 3, 2]), TooManyRows, "tells ids apart", "2, when", "Drop it"),
        (lambda: partitions.given_radices(9, [2**63, 2]), Overflow, "fits int64", str(2**63), "to 9"),
        (lambda: partitions.given_moduli(9, [2**63, 2]), Overflow, "fits int64", str(2**63), "to 9"),
        (lambda: partitions.given_radices(2**62, [2**40, 2**40, 2]), Overflow, "2^63 - 1", str(2**80), "drop the last"),
        (lambda: partitions.given_radices(9, [2, 3]), TooFewTuples, "reaches", "2 x 3 = 6 for 9", "radix of 2"),
        (lambda: partitions.given_moduli(70, [4, 9]), TooFewTuples, "reaches", "4 x 9 = 36 for 70", "modulus of 5"),
        (lambda: partitions.given_moduli(70, [4, 5, 6]), SharedFactor, "coprime", "4 and 6 share the factor 2", "7"),
        (lambda: partitions.given_moduli(70, [15, 7, 10]), SharedFactor, "coprime", "70 of 70 ids", "Take 11 for 10"),
        (lambda: partitions.given_moduli(6, [6, 6]), SharedFactor, "coprime", "6 of 6 ids", "Say `tables`"),
    ],
)
def test_numbers_that_make_no_plan_are_refused_by_name(
    build: Callable[[], object], error: type[PlanError], rule: str, found: str, remedy: str
) -> None:
    with pytest.raises(PlanError) as caught:
        build()
    assert type(caught.value) is error
    assert rule in caught.value.rule
    assert found in caught.value.found
    assert remedy in caught.value.remedy


@given(st.lists(st.integers(2, 60), min_size=2, max_size=5), st.integers(500, 2**62))
def test_what_is_advised_for_moduli_works(numbers: list[int], n: int) -> None:
    """Each advice is one step: a modulus coprime to all others, or another one; in the end there is a plan."""
    for _ in range(12):
        try:
            tables = partitions.given_moduli(n, numbers)
        except SharedFactor as error:
            better, worse = map(int, re.findall(r"\d+", error.remedy))
            numbers.remove(worse)
            assert coprime(better, numbers)
            numbers.append(better)
        except TooFewTuples as error:
            (more,) = map(int, re.findall(r"\d+", error.remedy))
            assert coprime(more, numbers)
            numbers.append(more)
        else:
            assert math.lcm(*(rows for _, rows in tables)) >= n
            return
    pytest.fail("advice does not end")


@given(st.lists(st.integers(2, 60), min_size=2, max_size=5), st.integers(60, 2**62))
def test_what_is_advised_for_radices_works(numbers: list[int], n: int) -> None:
    try:
        partitions.given_radices(n, numbers)
    except TooFewTuples as error:
        (more,) = map(int, re.findall(r"\d+", error.remedy))
        tables = partitions.given_radices(n, [*numbers, more])
        assert math.prod(rows for _, rows in tables) >= n
    except TooManyRows:
        assert math.prod(numbers[:-1]) >= n
