"""Laws of packing: a stable order of the fields, and groups that one Gather per partition can serve."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing


@st.composite
def fields(draw: st.DrawFn) -> list[pb.Field]:
    """Up to 12 fields of few dims, every combine, 1 to 4 tables, and concatenations of unequal shares."""
    built = list[pb.Field]()
    for position in range(draw(st.integers(0, 12))):
        dim, depth = draw(st.sampled_from([4, 8])), draw(st.integers(1, 4))
        combine = draw(st.sampled_from([pb.MULT, pb.ADD, pb.CONCAT])) if depth > 1 else pb.ALONE
        shares = [dim] * depth
        if combine == pb.CONCAT:
            shares = [1] * depth
            for _ in range(dim - depth):
                shares[draw(st.integers(0, depth - 1))] += 1
        tables = [pb.Table(divide=1, rows=2, dim=share) for share in shares]
        built.append(pb.Field(feature=f"f{position}", dim=dim, combine=combine, tables=tables))
    return built


def names(several: list[pb.Field]) -> list[str]:
    return [field.feature for field in several]


def shares(field: pb.Field) -> list[int]:
    return [table.dim for table in field.tables]


@given(fields())
def test_packing_is_a_permutation_and_changes_no_field(several: list[pb.Field]) -> None:
    packed = packing.pack(several)
    by_name = {field.feature: field for field in several}
    assert sorted(names(packed)) == sorted(names(several))
    assert all(field == by_name[field.feature] for field in packed)


@given(fields())
def test_packed_fields_stay_as_they_are(several: list[pb.Field]) -> None:
    packed = packing.pack(several)
    assert packing.pack(packed) == packed


@given(fields())
def test_packing_is_stable(several: list[pb.Field]) -> None:
    """Fields that are alike in all that packing looks at keep their order."""
    alike = defaultdict[tuple[object, ...], list[str]](list)
    for field in packing.pack(several):
        alike[field.dim, field.combine, tuple(shares(field))].append(field.feature)
    for found in alike.values():
        assert found == [name for name in names(several) if name in found]


@given(fields())
def test_groups_cover_the_fields_one_after_another(several: list[pb.Field]) -> None:
    found = packing.groups(packing.pack(several))
    assert [position for group in found for position in group.fields] == list(range(len(several)))
    assert all(group.fields for group in found)


@given(fields())
def test_fields_of_a_group_can_be_looked_up_together(several: list[pb.Field]) -> None:
    packed = packing.pack(several)
    for group in packing.groups(packed):
        members = [packed[position] for position in group.fields]
        depths = [len(field.tables) for field in members]
        assert depths == sorted(depths, reverse=True)
        assert group.depth == depths[0]
        assert {field.dim for field in members} == {group.dim}
        joined = {field.combine for field in members if len(field.tables) > 1}
        assert joined == (set() if group.combine == pb.ALONE else {group.combine})
        if group.combine == pb.CONCAT:
            assert all(shares(field) == shares(members[0]) for field in members)
        else:
            assert all(set(shares(field)) == {group.dim} for field in members)


@given(fields())
def test_groups_are_as_few_as_can_be(several: list[pb.Field]) -> None:
    """One group a dim and combine (for concat: and list of shares); a field of one table opens none beside another."""
    found = packing.groups(packing.pack(several))
    needed = {
        (field.dim, field.combine, tuple(shares(field)) if field.combine == pb.CONCAT else ())
        for field in several
        if field.combine != pb.ALONE
    }
    joinable = {dim for dim, combine, _ in needed if combine != pb.CONCAT}
    alone = {field.dim for field in several if field.combine == pb.ALONE} - joinable
    assert len(found) == len(needed) + len(alone)


def test_an_example_by_hand() -> None:
    def field(name: str, dim: int, combine: pb.Combine, depth: int) -> pb.Field:
        return pb.Field(feature=name, dim=dim, combine=combine, tables=[pb.Table(divide=1, rows=2, dim=dim)] * depth)

    several = [
        field("sum", 4, pb.ADD, 2),
        field("small", 4, pb.ALONE, 1),
        field("user", 4, pb.MULT, 2),
        field("wide", 8, pb.ALONE, 1),
        field("item", 4, pb.MULT, 3),
    ]
    packed = packing.pack(several)
    assert names(packed) == ["item", "user", "small", "sum", "wide"]
    assert packing.groups(packed) == [
        packing.Group((0, 1, 2), pb.MULT, 3, 4),
        packing.Group((3,), pb.ADD, 2, 4),
        packing.Group((4,), pb.ALONE, 1, 8),
    ]
