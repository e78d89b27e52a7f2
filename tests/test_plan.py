"""Laws of plans: every id has its own tuple of rows, every row its use, and integers stay exact at any size."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import plan
from quorem.protos.errors import NotComplementary, PlanError

Pairs = Sequence[tuple[int, int]]

SMALL = [(n, m) for n in range(1, 41) for m in range(1, n + 1)]  # n = 1, m = 1, m = n, m that divides n and not
BIG = [2**24 - 1, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**33, 2**33 + 1, 2**53 + 1, 2**62 - 1, 2**62, 2**63 - 2]


def tuples(n: int, tables: Pairs) -> list[tuple[int, ...]]:
    """Every id's rows, by Python's integers."""
    return [tuple(x // divide % rows for divide, rows in tables) for x in range(n)]


def field(n: int = 10, tables: Pairs = ((1, 4), (4, 3)), **changes: object) -> pb.Field:
    """A quotient-remainder field that is right, but for the changes."""
    built = plan.build_field("user", n, tables, scheme=pb.QUOTIENT_REMAINDER, combine=pb.MULT, dim=4)
    for name, value in changes.items():
        setattr(built, name, value)
    return built


# ---------------------------------------------------------------- schemes


@pytest.mark.parametrize("scheme", [lambda n, m: plan.full(n), plan.quotient_remainder], ids=["full", "qr"])
def test_every_id_has_its_own_rows_and_every_row_an_id(scheme: Callable[[int, int], Pairs]) -> None:
    for n, m in SMALL:
        tables = scheme(n, m)
        found = tuples(n, tables)
        assert len(set(found)) == n
        assert plan.complementary(n, tables)
        for j, (_, rows) in enumerate(tables):
            assert {each[j] for each in found} == set(range(rows))


@given(st.data())
def test_quotient_remainder_of_medium_size(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 20_000))
    m = data.draw(st.integers(1, n))
    tables = plan.quotient_remainder(n, m)
    found = plan.rows_of(tables, np.arange(n))
    assert len(np.unique(found, axis=0)) == n
    assert [len(np.unique(column)) for column in found.T] == [rows for _, rows in tables]
    assert sum(rows for _, rows in tables) == m + math.ceil(n / m)


@given(st.integers(1, 50_000), st.integers(2, 6))
def test_mixed_radix_and_chinese_remainder_give_every_id_its_own_rows(n: int, k: int) -> None:
    for scheme in (plan.mixed_radix, plan.chinese_remainder):
        tables = scheme(n, k)
        assert len(tables) == k
        assert plan.complementary(n, tables)
        found = plan.rows_of(tables, np.arange(n))
        assert len(np.unique(found, axis=0)) == n
        if n >= 1000:  # every row has an id, but for moduli beyond so few ids
            assert [len(np.unique(column)) for column in found.T] == [rows for _, rows in tables]


@pytest.mark.parametrize("n", BIG)
@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_balanced_schemes_are_complementary_and_near_the_root_at_any_size(n: int, k: int) -> None:
    for scheme in (plan.mixed_radix, plan.chinese_remainder):
        tables = scheme(n, k)
        assert plan.complementary(n, tables)
        assert math.prod(rows for _, rows in tables) >= n
        assert max(rows for _, rows in tables) <= n ** (1 / k) + 12 * k
    ids = [0, 1, n - 1, n // 2, n // 3]
    assert len({tuple(oracle_rows(tables, x)) for x in ids for tables in [plan.mixed_radix(n, k)]}) == len(ids)


def oracle_rows(tables: Pairs, x: int) -> list[int]:
    return [x // divide % rows for divide, rows in tables]


def test_criteos_cardinalities_in_three_radices_take_under_four_thousand_rows() -> None:
    from quorem.train.sources.synthetic import CRITEO as CARDINALITIES

    assert sum(CARDINALITIES) == 33_762_577
    assert sum(rows for n in CARDINALITIES for _, rows in plan.mixed_radix(n, 3)) < 4000


def test_one_table_or_too_many_are_no_such_scheme() -> None:
    for scheme in (plan.mixed_radix, plan.chinese_remainder):
        for k in (0, 1, 64):
            with pytest.raises(PlanError, match="2 to 63 tables"):
                scheme(100, k)


def test_the_hashing_trick_lets_ids_collide_and_says_so() -> None:
    for n, m in SMALL:
        tables = plan.hashed(n, m)
        assert len(set(tuples(n, tables))) == m
        assert plan.complementary(n, tables) == (m == n)
    assert plan.hashed(5, 9) == [(1, 5)]


# ---------------------------------------------------------------- complementary, decided

radices = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def mixed_radix(rows: list[int]) -> list[tuple[int, int]]:
    return [(math.prod(rows[:j]), each) for j, each in enumerate(rows)]


def residues(rows: list[int]) -> list[tuple[int, int]]:
    return [(1, each) for each in rows]


@given(rows=radices, family=st.sampled_from([mixed_radix, residues]), data=st.data())
def test_complementary_is_what_counting_says(
    rows: list[int], family: Callable[[list[int]], list[tuple[int, int]]], data: st.DataObject
) -> None:
    """Both families, in any order of tables, with radices of 1, moduli coprime or not, around the very last n."""
    tables = data.draw(st.permutations(family(rows)))
    reach = data.draw(st.sampled_from([math.prod(rows), math.lcm(*rows)]))
    n = max(1, data.draw(st.integers(reach - 2, reach + 2) | st.integers(1, 40)))
    assert plan.complementary(n, tables) == (len(set(tuples(n, tables))) == n)


@given(tables=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4), n=st.integers(1, 80))
def test_other_pairs_are_decided_rightly_or_refused(tables: list[tuple[int, int]], n: int) -> None:
    try:
        decided = plan.complementary(n, tables)
    except PlanError:
        return
    assert decided == (len(set(tuples(n, tables))) == n)


def test_known_cases_at_sizes_that_nobody_counts() -> None:
    assert plan.complementary(2**62, [(1, 2**31), (2**31, 2**31)])
    assert not plan.complementary(2**62 + 1, [(1, 2**31), (2**31, 2**31)])
    assert plan.complementary(2**62, [(1, 2**31), (1, 2**31 + 1)])  # coprime
    assert not plan.complementary(2**61 + 1, [(1, 2**31), (1, 2**31 - 2)])  # they share a 2
    assert plan.complementary(2**63 - 1, plan.quotient_remainder(2**63 - 1, 3_037_000_500))


# ---------------------------------------------------------------- integers, exact


@pytest.mark.parametrize(
    "tables",
    [
        plan.full(2**63 - 1),
        plan.hashed(2**63 - 1, 1_000_003),
        plan.quotient_remainder(2**63 - 1, 3_037_000_500),
        plan.quotient_remainder(2**63 - 1, 4),
        plan.quotient_remainder(2**63 - 1, 2**61),
        mixed_radix([2**21, 2**21, 2**21]),
        residues([2**31, 2**31 + 1, 2**31 - 1]),
    ],
    ids=["full", "hashed", "qr", "qr by 4", "qr by 2^61", "mixed radix", "residues"],
)
def test_rows_are_exact_at_any_size(tables: Pairs) -> None:
    ids = [*BIG, *(x + d for x in BIG[:-1] for d in (-1, 1))]
    found = plan.rows_of(tables, np.array(ids, np.int64))
    message = pb.Field(tables=[pb.Table(divide=divide, rows=rows) for divide, rows in tables])
    assert found.dtype == np.int64
    assert found.tolist() == [oracle.rows(message, x) for x in ids]


def test_the_row_that_float32_division_gets_wrong() -> None:
    assert plan.rows_of([(4, 2**30)], np.array([2**25 + 3])).tolist() == [[8_388_608]]
    assert int(np.float32(2**25 + 3) / np.float32(4)) == 8_388_609


# ---------------------------------------------------------------- fields


@given(st.data())
def test_a_built_field_passes_its_own_check(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 1000))
    m = data.draw(st.integers(1, n))
    scheme, tables = data.draw(
        st.sampled_from(
            [
                (pb.FULL, plan.full(n)),
                (pb.HASHED, plan.hashed(n, m)),
                (pb.QUOTIENT_REMAINDER, plan.quotient_remainder(n, m)),
            ]
        )
    )
    combine = data.draw(st.sampled_from([pb.MULT, pb.ADD, pb.CONCAT]))
    dim = data.draw(st.integers(2, 9))
    built = plan.build_field("user", n, tables, scheme=scheme, combine=combine, dim=dim)
    plan.check_field(built, "here")
    assert plan.pairs(built) == list(tables)
    assert built.combine == (combine if len(tables) > 1 else pb.ALONE)
    widths = [table.dim for table in built.tables]
    if built.combine == pb.CONCAT:
        assert sum(widths) == dim
        assert max(widths) - min(widths) <= 1
        assert widths == sorted(widths, reverse=True)
    else:
        assert set(widths) == {dim}


def test_bytes_and_parameters_of_a_field_counted_by_hand() -> None:
    """100 ids on 25 + 4 rows of 8 float32."""
    built = field(100, plan.quotient_remainder(100, 25), dim=4)
    assert plan.table_bytes(built) == (25 + 4) * 4 * 4
    assert plan.full_bytes(built) == 100 * 4 * 4
    assert plan.parameters([built, built]) == 2 * 29 * 4
    split = plan.build_field("user", 100, [(1, 25), (25, 4)], scheme=pb.QUOTIENT_REMAINDER, combine=pb.CONCAT, dim=5)
    assert [table.dim for table in split.tables] == [3, 2]
    assert plan.table_bytes(split) == (25 * 3 + 4 * 2) * 4


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"cardinality": 0}, "ids"),
        ({"cardinality": 2**63}, "ids"),
        ({"dim": 0}, "dimension"),
        ({"dim": 5}, "mult and add"),
        ({"combine": pb.CONCAT}, "add up"),
        ({"combine": pb.ALONE}, "one table stands ALONE"),
        ({"combine": pb.COMBINE_UNSPECIFIED}, "joined"),
        ({"combine": 99}, "joined"),
        ({"scheme": pb.SCHEME_UNSPECIFIED}, "scheme"),
        ({"scheme": 99}, "scheme"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_refused(changes: dict[str, int], rule: str) -> None:
    with pytest.raises(PlanError, match=rule) as caught:
        plan.check_field(field(**changes), "plan.json, feature 'user'")
    assert caught.value.where == "plan.json, feature 'user'"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("tables", "rule"),
    [
        ([], "1 to 63 tables"),
        ([(1, 1)] * 64, "1 to 63 tables"),
        ([(1, 4), (4, 0)], "at least one row"),
        ([(1, 4), (0, 3)], "at least one row"),
        ([(1, 11), (11, 1)], "no table has more rows"),
        ([(1, 10), (2**63, 1)], "divided by at most"),
        ([(1, 4), (3, 3)], "mixed radix"),
    ],
    ids=str,
)
def test_tables_that_cannot_be_are_refused(tables: Pairs, rule: str) -> None:
    with pytest.raises(PlanError, match=rule) as caught:
        field(10, tables)
    assert "'user'" in caught.value.where


@pytest.mark.parametrize("tables", [[(1, 4), (4, 2)], [(1, 4), (1, 6)]], ids=["radix too short", "not coprime"])
def test_a_plan_that_lets_ids_collide_is_refused_whatever_it_says(tables: Pairs) -> None:
    """13 ids on 4 x 2 and on lcm(4, 6) = 12 tuples."""
    for says in (True, False):
        collides = field(13, tables, complementary=says)
        with pytest.raises(NotComplementary, match="own tuple" if says else "every scheme but"):
            plan.check_field(collides, "here")
    hashing = field(13, tables, scheme=pb.HASHED)
    plan.check_field(hashing, "here")
    assert not hashing.complementary


def test_a_plan_that_hides_a_proof_is_refused() -> None:
    for scheme in (pb.QUOTIENT_REMAINDER, pb.HASHED):
        with pytest.raises(NotComplementary, match="own tuple"):
            plan.check_field(field(complementary=False, scheme=scheme), "here")


def test_tables_in_any_order_prove_the_same() -> None:
    for tables in itertools.permutations([(1, 3), (3, 2), (6, 2)]):
        assert plan.complementary(12, tables)
        assert not plan.complementary(13, tables)
