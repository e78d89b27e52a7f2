"""Laws of collisions: what a rule says is what counting says, for arithmetic tables and for classes."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import partitions
from quorem.protos.collisions import (
    COUNTED_IDS,
    Int32s,
    count_class_collisions,
    count_collisions,
    groups_of_ids,
)
from quorem.protos.errors import PlanError

Pairs = Sequence[tuple[int, int]]
MANY = 2**31 - 1  # the largest class that an int32 holds


def tuples(n: int, tables: Pairs, classes: Sequence[Int32s | None] = ()) -> list[tuple[int, ...]]:
    """Every id's rows, by Python's integers."""
    given = classes or [None] * len(tables)
    return [
        tuple(
            x // divide % rows if each is None else int(each[x])
            for (divide, rows), each in zip(tables, given, strict=True)
        )
        for x in range(n)
    ]


def counted(n: int, tables: Pairs, classes: Sequence[Int32s | None] = ()) -> int:
    """How many ids have the tuple of one before them."""
    met = set[tuple[int, ...]]()
    return sum(each in met or met.add(each) is not None for each in tuples(n, tables, classes))


# ---------------------------------------------------------------- arithmetic


def mixed_radix(rows: Sequence[int]) -> Pairs:
    return [(math.prod(rows[:j]), each) for j, each in enumerate(rows)]


def residues(rows: Sequence[int]) -> Pairs:
    return [(1, each) for each in rows]


@given(
    rows=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    family=st.sampled_from([mixed_radix, residues]),
    data=st.data(),
)
def test_the_rules_say_what_counting_says(
    rows: list[int], family: Callable[[Sequence[int]], Pairs], data: st.DataObject
) -> None:
    """Both families, in any order of tables, with radices of 1, moduli coprime or not, around the very last n."""
    tables = data.draw(st.permutations(family(rows)))
    reach = data.draw(st.sampled_from([math.prod(rows), math.lcm(*rows)]))
    n = max(1, data.draw(st.integers(reach - 2, reach + 2) | st.integers(1, 40)))
    assert count_collisions(n, tables) == counted(n, tables)


@given(
    tables=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=4), n=st.integers(1, 300)
)
def test_arbitrary_pairs_are_counted(tables: Pairs, n: int) -> None:
    assert count_collisions(n, tables) == counted(n, tables)


def test_quotient_and_remainder_by_different_divisors_collide() -> None:
    """Ids 7 and 12 of 100: equal modulo 5, and equal when divided by 20."""
    assert tuples(100, [(1, 5), (20, 5)])[7] == tuples(100, [(1, 5), (20, 5)])[12] == (2, 0)
    assert count_collisions(100, [(1, 5), (20, 5)]) == 75


def test_known_cases_at_sizes_that_nobody_counts() -> None:
    assert count_collisions(2**62, [(1, 2**31), (2**31, 2**31)]) == 0
    assert count_collisions(2**62 + 5, [(2**31, 2**31), (1, 2**31)]) == 5
    assert count_collisions(2**62, [(1, 2**31), (1, 2**31 + 1)]) == 0  # coprime
    assert count_collisions(2**61 + 1, [(1, 2**31), (1, 2**31 - 2)]) == 2**61 + 1 - 2**31 * (2**30 - 1)  # share a 2
    assert count_collisions(2**62, [(1, 10**6)]) == 2**62 - 10**6
    assert count_collisions(2**63 - 1, partitions.quotient_remainder(2**63 - 1, 3_037_000_500)) == 0


def test_tables_in_any_order_collide_alike() -> None:
    for tables in itertools.permutations([(1, 3), (3, 2), (6, 2)]):
        assert count_collisions(12, tables) == 0
        assert count_collisions(15, tables) == 3


def test_a_million_ids_are_counted_where_no_rule_decides() -> None:
    assert count_collisions(10**6, [(1, 1000), (500, 2000)]) == 0
    assert count_collisions(10**6, [(1, 1000), (2000, 500)]) == 500_000


def test_more_ids_than_can_be_counted_are_refused() -> None:
    with pytest.raises(PlanError, match=r"^here: .*mixed radix.*1,048,576 ids.*\(3, 7\).*named schemes") as caught:
        count_collisions(COUNTED_IDS + 1, [(1, 4), (3, 7)], "here")
    assert type(caught.value) is PlanError


# ---------------------------------------------------------------- classes


@st.composite
def semantic(draw: st.DrawFn) -> tuple[int, Pairs, list[Int32s | None]]:
    """Up to 60 ids, tables with classes (small or huge numbers) among arithmetic ones."""
    n, tables, classes = draw(st.integers(1, 60)), list[tuple[int, int]](), list[Int32s | None]()
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            largest = draw(st.sampled_from([1, 5, MANY]))
            drawn = draw(st.lists(st.integers(0, largest), min_size=n, max_size=n))
            tables.append((1, largest + 1))
            classes.append(np.array(drawn, np.int32))
        else:
            tables.append((draw(st.integers(1, 9)), draw(st.integers(1, 9))))
            classes.append(None)
    return n, tables, classes


@given(semantic())
def test_classes_are_counted(drawn: tuple[int, Pairs, list[Int32s | None]]) -> None:
    n, tables, classes = drawn
    assert count_class_collisions(tables, classes, n) == counted(n, tables, classes)


@given(semantic())
def test_groups_are_of_the_ids_that_share_every_row(drawn: tuple[int, Pairs, list[Int32s | None]]) -> None:
    n, tables, classes = drawn
    groups, expected = groups_of_ids(tables, classes, n), tuples(n, tables, classes)
    assert groups.dtype == np.int64
    assert set(groups.tolist()) == set(range(len(set(expected))))
    assert len(set(zip(groups.tolist(), expected, strict=True))) == len(set(expected))


@pytest.mark.parametrize(("k", "place"), [(2, 0), (2, 1), *((5, place) for place in range(5))])
def test_tables_of_huge_classes_are_told_apart(k: int, place: int) -> None:
    """The product of five sizes is far beyond int64; ids 0 and 2 are alike, and 1 and 3."""
    classes: list[Int32s | None] = [np.array([0, MANY, 0, MANY, MANY, 0], np.int32)] * k
    classes[place] = np.array([0, 0, 0, 0, MANY, MANY], np.int32)
    tables = [(1, MANY + 1)] * k
    assert count_class_collisions(tables, classes, 6) == 2
    groups = groups_of_ids(tables, classes, 6).tolist()
    assert groups[:2] == groups[2:4]
    assert len(set(groups)) == 4


def test_the_example_of_the_paper() -> None:
    """Section 3: {0..4} by {0},{1,3,4},{2}; {0,1,3},{2,4}; {0,3},{1,2,4}; complementary, and no two of them are."""
    classes = [np.array(each, np.int32) for each in ([0, 1, 2, 1, 1], [0, 0, 1, 0, 1], [0, 1, 1, 0, 1])]
    tables = [(1, 3), (1, 2), (1, 2)]
    assert count_class_collisions(tables, classes, 5) == 0
    for one, other in itertools.combinations(range(3), 2):
        assert count_class_collisions([tables[one], tables[other]], [classes[one], classes[other]], 5) > 0


def test_a_million_ids_of_two_classes_and_their_completion() -> None:
    """Brand x type, of a thousand ids each: equal ones differ by less than a thousand, so remainders separate them."""
    n, ids = 10**6, np.arange(10**6)
    brand, kind = (ids // 10**5).astype(np.int32), (ids // 1000 % 100).astype(np.int32)
    assert count_class_collisions([(1, 10), (1, 100)], [brand, kind], n) == 999_000
    assert count_class_collisions([(1, 10), (1, 100), (1, 1000)], [brand, kind, None], n) == 0
    assert count_class_collisions([(1, 10), (1, 100), (1, 999)], [brand, kind, None], n) == 1000
