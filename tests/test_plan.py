"""Laws of plans: fields are built with a proof, and one that is wrong or hides something is refused by name."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import partitions, plan
from quorem.protos.collisions import Int32s
from quorem.protos.errors import (
    EmptyField,
    NotComplementary,
    Overflow,
    PlanError,
    TooManyRows,
    WrongClasses,
    WrongDims,
    WrongShape,
)

Pairs = Sequence[tuple[int, int]]

JOINED = [pb.MULT, pb.ADD, pb.CONCAT, pb.PATH, pb.FEATURE]
SCHEMES: dict[str, tuple[pb.Scheme, Callable[[int, int], Pairs]]] = {
    "full": (pb.FULL, lambda n, _: partitions.full(n)),
    "hashed": (pb.HASHED, partitions.hashed),
    "qr": (pb.QUOTIENT_REMAINDER, partitions.quotient_remainder),
    "mixed_radix": (pb.MIXED_RADIX, lambda n, m: partitions.mixed_radix(n, 2 + m % 4)),
    "chinese_remainder": (pb.CHINESE_REMAINDER, lambda n, m: partitions.chinese_remainder(n, 2 + m % 4)),
}


def field(n: int = 10, tables: Pairs = ((1, 4), (4, 3)), **changes: object) -> pb.Field:
    """A field of mult that is right, but for the changes."""
    built = plan.build_field("user", n, tables, scheme=pb.MIXED_RADIX, combine=pb.MULT, dim=4)
    for name, value in changes.items():
        setattr(built, name, value)
    return built


def classes_of(*numbers: int) -> Int32s:
    return np.array(numbers, np.int32)


def semantic(*columns: Int32s | None, rows: Sequence[int], combine: pb.Combine = pb.MULT, **given: bool) -> pb.Field:
    """A field of classes; None is a table of remainders."""
    n = next(len(column) for column in columns if column is not None)
    tables = [(1, each) for each in rows]
    return plan.build_field("car", n, tables, scheme=pb.SEMANTIC, combine=combine, dim=6, classes=columns, **given)


# ---------------------------------------------------------------- built


@pytest.mark.parametrize("scheme", SCHEMES)
@given(st.data())
def test_a_built_field_passes_its_own_check(scheme: str, data: st.DataObject) -> None:
    name, build = SCHEMES[scheme]
    n = data.draw(st.integers(20, 1000) | st.integers(20, 2**62))
    tables = build(n, data.draw(st.integers(1, n)))
    combine, dim = data.draw(st.sampled_from(JOINED)), data.draw(st.integers(5, 9))
    hidden = data.draw(st.integers(0, 3))
    bits = data.draw(st.sampled_from([0, 1, 2, 3, 4, 8]))
    built = plan.build_field("user", n, tables, scheme=name, combine=combine, dim=dim, hidden=hidden, bits=bits)
    plan.check_field(built, "here")
    k, widths = len(tables), [table.dim for table in built.tables]
    assert plan.pairs(built) == list(tables)
    assert built.combine == (combine if k > 1 else pb.ALONE)
    assert built.dim == (k * dim if built.combine == pb.FEATURE else dim)
    assert built.hidden == (hidden if built.combine == pb.PATH else 0)
    assert built.tables[0].bits == bits
    assert {table.bits for table in built.tables[1:]} <= {0 if built.combine == pb.PATH else bits}
    assert built.complementary == (scheme != "hashed" or tables[0][1] == n)
    assert built.collisions == (n - tables[0][1] if scheme == "hashed" else 0)
    if built.combine == pb.CONCAT:
        assert sum(widths) == dim
        assert max(widths) - min(widths) <= 1
        assert widths == sorted(widths, reverse=True)
    else:
        later = plan.path_width(dim, hidden) if built.combine == pb.PATH else dim
        assert widths == [dim, *[later] * (k - 1)]
    assert plan.vector_dims(built) == ([dim] * k if built.combine == pb.FEATURE else [dim])


@given(st.integers(2, 60), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans(), st.data())
def test_semantic_fields_are_proved_by_counting(n: int, rows: list[int], remainder: bool, data: st.DataObject) -> None:
    """With and without a table of remainders, with leave to collide and without."""
    rows = [min(n, each) for each in rows]
    columns: list[Int32s | None] = [
        classes_of(*data.draw(st.lists(st.integers(0, each - 1), min_size=n, max_size=n))) for each in rows
    ]
    if remainder:
        columns.append(None)
        rows.append(data.draw(st.integers(1, n)))
    met = {
        tuple(x % each if column is None else int(column[x]) for column, each in zip(columns, rows, strict=True))
        for x in range(n)
    }
    for leave in (False, True):
        if len(met) < n and not leave:
            with pytest.raises(NotComplementary, match=f"{n - len(met)} of {n} ids"):
                semantic(*columns, rows=rows)
            continue
        built = semantic(*columns, rows=rows, allow_collisions=leave)
        assert (built.collisions, built.complementary) == (n - len(met), len(met) == n)
        assert [table.classes for table in built.tables] == [column is not None for column in columns]
        plan.check_field(built, "here")
        plan.check_classes(built, {j: each for j, each in enumerate(columns) if each is not None}, "here")


def test_a_million_semantic_ids_are_proved() -> None:
    ids = np.arange(10**6)
    brand = ((ids * 7919) % 10**6 // 1000).astype(np.int32)
    place = ((ids * 7919) % 1000).astype(np.int32)
    assert semantic(brand, place, rows=[1000, 1000]).complementary
    completed = semantic((ids // 1000).astype(np.int32), None, rows=[1000, 1000])
    assert completed.complementary
    place[123_456] = (place[123_456] + 1) % 1000
    with pytest.raises(NotComplementary, match=r"1 of 1000000 ids"):
        semantic(brand, place, rows=[1000, 1000])


def test_path_functions_weighed_by_hand() -> None:
    """Linear on 3: 3 x 3 + 3. By a hidden layer of 2: 2 x 3 + 2 + 3 x 2 + 3."""
    assert plan.path_width(3, 0) == 12
    assert plan.path_width(3, 2) == 17
    built = plan.build_field(
        "user", 8, [(1, 2), (2, 2), (4, 2)], scheme=pb.MIXED_RADIX, combine=pb.PATH, dim=3, hidden=2
    )
    assert [table.dim for table in built.tables] == [3, 17, 17]


def test_bytes_and_parameters_of_a_field_counted_by_hand() -> None:
    """100 ids on 25 + 4 rows of 4 float32."""
    built = field(100, partitions.quotient_remainder(100, 25))
    assert plan.table_bytes(built) == (25 + 4) * 4 * 4
    assert plan.full_bytes(built) == 100 * 4 * 4
    assert plan.parameters([built, built]) == 2 * 29 * 4
    split = plan.build_field("user", 100, [(1, 25), (25, 4)], scheme=pb.QUOTIENT_REMAINDER, combine=pb.CONCAT, dim=5)
    assert [table.dim for table in split.tables] == [3, 2]
    assert plan.table_bytes(split) == (25 * 3 + 4 * 2) * 4
    several = plan.build_field("user", 100, [(1, 25), (25, 4)], scheme=pb.QUOTIENT_REMAINDER, combine=pb.FEATURE, dim=5)
    assert plan.table_bytes(several) == (25 + 4) * 5 * 4
    assert plan.full_bytes(several) == 100 * 5 * 4
    cars = semantic(classes_of(0, 1, 2, 0), None, rows=[3, 4])
    assert plan.table_bytes(cars) == (3 + 4) * 6 * 4 + 4 * 4  # an int32 for each id


@pytest.mark.parametrize(("bits", "row"), [(0, 20), (8, 5), (4, 3), (3, 2 + 1), (2, 2), (1, 1)])
def test_bytes_of_few_bits_counted_by_hand(bits: int, row: int) -> None:
    """Rows of 5 values on 25 + 4 rows; a scale a column of each table."""
    pairs, grid = [(1, 25), (25, 4)], 5 * 4 if bits else 0
    built = plan.build_field("user", 100, pairs, scheme=pb.QUOTIENT_REMAINDER, combine=pb.MULT, dim=5, bits=bits)
    assert plan.table_bytes(built) == (25 + 4) * row + 2 * grid
    assert plan.float_bytes(built) == (25 + 4) * 5 * 4
    assert plan.full_bytes(built) == 100 * 5 * 4
    assert plan.bytes_at(built, 5) == plan.table_bytes(built)
    one = plan.bytes_at(built, 1)
    assert one == (29 + 2 * 4 if bits not in (0, 3) else 29 * 4 if not bits else 29 * 2 + 2 * 4)
    path = plan.build_field("user", 100, pairs, scheme=pb.QUOTIENT_REMAINDER, combine=pb.PATH, dim=5, bits=bits)
    assert plan.table_bytes(path) == 25 * row + grid + 4 * (5 * 5 + 5) * 4  # functions are float32


@pytest.mark.parametrize("bits", [(5, 5), (16, 16), (4, 2), (4, 0), (0, 4)])
def test_bits_that_cannot_be_are_refused(bits: tuple[int, int]) -> None:
    built = field(100, partitions.quotient_remainder(100, 25))
    for table, each in zip(built.tables, bits, strict=True):
        table.bits = each
    with pytest.raises(PlanError, match="bits"):
        plan.check_field(built, "here")


# ---------------------------------------------------------------- refused


def build(n: int = 10, tables: Pairs = ((1, 4), (4, 3)), combine: pb.Combine = pb.MULT, dim: int = 4) -> pb.Field:
    return plan.build_field("user", n, tables, scheme=pb.MIXED_RADIX, combine=combine, dim=dim)


@pytest.mark.parametrize(
    ("made", "error", "rule"),
    [
        (lambda: build(0), EmptyField, "at least one id"),
        (lambda: build(-1), EmptyField, "at least one id"),
        (lambda: build(2**63), Overflow, "2^63 - 1 ids"),
        (lambda: build(2**70), Overflow, "2^63 - 1 ids"),
        (lambda: build(tables=[(1, 1)] * 64), PlanError, "1 to 63 tables"),
        (lambda: build(tables=[(1, 4), (4, 0)]), PlanError, "at least one row"),
        (lambda: build(tables=[(1, 4), (0, 3)]), PlanError, "at least one row"),
        (lambda: build(tables=[(1, 11), (11, 1)]), TooManyRows, "no table has more rows"),
        (lambda: build(2, partitions.chinese_remainder(2, 2)), TooManyRows, "no table has more rows"),
        (lambda: build(tables=[(1, 10), (2**63, 1)]), Overflow, "divided by at most"),
        (lambda: build(2**62, [(1, 4), (3, 3)]), PlanError, "mixed radix"),
        (lambda: build(tables=[(1, 4), (4, 2)]), NotComplementary, "own tuple"),
        (lambda: build(tables=[(1, 4), (1, 2)]), NotComplementary, "own tuple"),
        (lambda: build(dim=0), WrongDims, "at least 1"),
        (lambda: build(dim=1, combine=pb.CONCAT), WrongDims, "a dimension each"),
        (lambda: build(dim=0, combine=pb.PATH), WrongDims, "at least 1"),
        (lambda: build(combine=pb.ALONE), PlanError, "one table stands ALONE"),
    ],
)
def test_a_field_that_cannot_be_built_is_refused_by_name(
    made: Callable[[], object], error: type[PlanError], rule: str
) -> None:
    with pytest.raises(PlanError) as caught:
        made()
    assert type(caught.value) is error
    assert rule in caught.value.rule
    assert caught.value.where == "field 'user'"
    assert caught.value.found
    assert caught.value.remedy


@pytest.mark.parametrize("combine", JOINED)
def test_a_field_without_tables_is_refused(combine: pb.Combine) -> None:
    with pytest.raises(PlanError, match="1 to 63 tables"):
        build(tables=[], combine=combine)


def test_a_dim_that_concat_cannot_share_out_names_one_that_it_can() -> None:
    with pytest.raises(WrongDims, match="dim 2 for 3 tables") as caught:
        build(8, [(1, 2), (2, 2), (4, 2)], combine=pb.CONCAT, dim=2)
    assert caught.value.remedy == "Set `dim` to 3 or more, or join by mult or add"
    assert build(8, [(1, 2), (2, 2), (4, 2)], combine=pb.CONCAT, dim=3).complementary


@pytest.mark.parametrize(
    ("changes", "error", "rule"),
    [
        ({"cardinality": 0}, EmptyField, "one id"),
        ({"cardinality": 2**63}, Overflow, "ids"),
        ({"dim": 0}, WrongDims, "dimension"),
        ({"dim": 5}, WrongDims, "mult and add"),
        ({"dim": 5, "combine": pb.ADD}, WrongDims, "mult and add"),
        ({"combine": pb.CONCAT}, WrongDims, "add up"),
        ({"combine": pb.FEATURE}, WrongDims, "add up"),
        ({"combine": pb.PATH}, WrongDims, "weights of functions"),
        ({"combine": pb.PATH, "hidden": 2}, WrongDims, "weights of functions"),
        ({"hidden": 2}, WrongDims, "belong to path"),
        ({"combine": pb.ALONE}, PlanError, "one table stands ALONE"),
        ({"combine": pb.COMBINE_UNSPECIFIED}, PlanError, "joined"),
        ({"combine": 99}, PlanError, "joined"),
        ({"scheme": pb.SCHEME_UNSPECIFIED}, PlanError, "scheme"),
        ({"scheme": 99}, PlanError, "scheme"),
        ({"scheme": pb.FULL}, PlanError, "one table"),
        ({"scheme": pb.HASHED}, PlanError, "one table"),
        ({"complementary": False}, NotComplementary, "own tuple"),
        ({"collisions": 1}, NotComplementary, "own tuple"),
        ({"complementary": False, "collisions": 1}, NotComplementary, "own tuple"),
    ],
    ids=str,
)
def test_a_field_that_was_edited_is_refused(changes: dict[str, int], error: type[PlanError], rule: str) -> None:
    with pytest.raises(PlanError, match=rule) as caught:
        plan.check_field(field(**changes), "plan.json, feature 'user'")
    assert type(caught.value) is error
    assert caught.value.where == "plan.json, feature 'user'"
    assert caught.value.found
    assert caught.value.remedy


def test_features_of_one_field_have_one_dim() -> None:
    several = plan.build_field("user", 10, [(1, 4), (4, 3)], scheme=pb.MIXED_RADIX, combine=pb.FEATURE, dim=4)
    several.tables[0].dim, several.tables[1].dim = 3, 5
    with pytest.raises(WrongDims, match="one dim"):
        plan.check_field(several, "here")


def test_a_path_whose_first_table_is_of_another_dim_is_refused() -> None:
    path = plan.build_field("user", 10, [(1, 4), (4, 3)], scheme=pb.MIXED_RADIX, combine=pb.PATH, dim=4)
    path.tables[0].dim = 5
    with pytest.raises(WrongDims, match="first table is of the field's dim"):
        plan.check_field(path, "here")


@pytest.mark.parametrize("tables", [[(1, 4), (4, 2)], [(1, 4), (1, 6)]], ids=["radix too short", "not coprime"])
def test_collisions_need_a_leave_and_are_told(tables: Pairs) -> None:
    """13 ids on 4 x 2 and on lcm(4, 6) = 12 tuples."""
    count = 5 if tables[1][0] == 4 else 1
    with pytest.raises(NotComplementary, match=rf"{count} of 13 ids.*allow_collisions"):
        build(13, tables)
    allowed = plan.build_field("user", 13, tables, scheme=pb.MIXED_RADIX, combine=pb.MULT, dim=4, allow_collisions=True)
    assert (allowed.collisions, allowed.complementary) == (count, False)
    plan.check_field(allowed, "here")
    allowed.collisions -= 1
    with pytest.raises(NotComplementary, match=f"counted {count} of 13"):
        plan.check_field(allowed, "here")
    allowed.collisions += 1
    allowed.complementary = True
    with pytest.raises(NotComplementary, match="own tuple"):
        plan.check_field(allowed, "here")
    allowed.complementary = allowed.allow_collisions = False
    with pytest.raises(NotComplementary, match="hashing trick"):
        plan.check_field(allowed, "here")


def test_the_hashing_trick_needs_no_leave_but_tells() -> None:
    hashed = plan.build_field("user", 13, [(1, 4)], scheme=pb.HASHED, combine=pb.MULT, dim=4)
    assert (hashed.collisions, hashed.complementary, hashed.combine) == (9, False, pb.ALONE)
    plan.check_field(hashed, "here")
    hashed.complementary = True
    with pytest.raises(NotComplementary, match="own tuple"):
        plan.check_field(hashed, "here")


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("arrays", "error", "rule"),
    [
        ({}, WrongShape, "every id"),
        ({0: classes_of(0, 1, 2)}, WrongShape, "every id"),
        ({0: np.zeros((4, 1), np.int32)}, WrongShape, "every id"),
        ({0: classes_of(0, 1, 2, 3)}, WrongClasses, "number of a row"),
        ({0: classes_of(0, 1, 2, -1)}, WrongClasses, "number of a row"),
        ({0: classes_of(1, 1, 1, 0)}, NotComplementary, "own tuple"),
    ],
    ids=["none", "too few", "two axes", "beyond the rows", "below 0", "collides"],
)
def test_classes_that_were_edited_are_refused(arrays: dict[int, Int32s], error: type[Exception], rule: str) -> None:
    """Ids 0 to 3 of classes 0, 1, 2, 0 beside their remainders by 2: 0, 1, 0, 1."""
    built = semantic(classes_of(0, 1, 2, 0), None, rows=[3, 2])
    plan.check_classes(built, {0: classes_of(0, 1, 2, 0)}, "here")
    with pytest.raises(error, match=rule) as caught:
        plan.check_classes(built, arrays, "here")
    assert type(caught.value) is error
    assert str(caught.value).startswith("here")


def test_classes_beyond_the_rows_are_not_built() -> None:
    with pytest.raises(WrongClasses, match="from 0 to 3 for 3 rows"):
        semantic(classes_of(0, 1, 2, 3), rows=[3])


def test_classes_belong_to_a_semantic_field_and_are_not_divided() -> None:
    built = semantic(classes_of(0, 1, 2, 0), None, rows=[3, 2])
    for changes in ({"scheme": pb.MIXED_RADIX}, {"divide": 2}):
        edited = pb.Field()
        edited.CopyFrom(built)
        for name, value in changes.items():
            setattr(edited if name == "scheme" else edited.tables[0], name, value)
        with pytest.raises(PlanError, match="semantic field"):
            plan.check_field(edited, "here")


def test_what_a_semantic_field_owns_up_to_needs_a_leave_before_its_classes_are_read() -> None:
    built = semantic(classes_of(0, 0, 1), None, rows=[2, 1], allow_collisions=True)
    assert built.collisions == 1
    built.allow_collisions = False
    with pytest.raises(NotComplementary, match="allow_collisions"):
        plan.check_field(built, "here")
