"""Laws of packing: a stable order of the fields, and groups that one Gather per partition can serve."""

import itertools
from collections import defaultdict
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing
from quorem.protos.plan import table_dims

Key = tuple[object, ...]


@st.composite
def fields(draw: st.DrawFn) -> list[pb.Field]:
    """Up to 12 fields of few dims and bits, every combine, 1 to 4 tables, classes or not, unequal shares of concat."""
    built = list[pb.Field]()
    for position in range(draw(st.integers(0, 12))):
        dim, depth = draw(st.sampled_from([4, 8])), draw(st.integers(1, 4))
        combine = draw(st.sampled_from([pb.MULT, pb.ADD, pb.CONCAT, pb.PATH, pb.FEATURE])) if depth > 1 else pb.ALONE
        hidden = draw(st.sampled_from([0, 1, 4])) if combine == pb.PATH else 0
        dims = table_dims(combine, dim // depth if combine == pb.FEATURE else dim, hidden, depth)
        if combine == pb.CONCAT:
            dims = [1] * depth
            for _ in range(dim - depth):
                dims[draw(st.integers(0, depth - 1))] += 1
        width = sum(dims) if combine == pb.FEATURE else dim
        field = pb.Field(feature=f"f{position}", dim=width, combine=combine, hidden=hidden)
        given_classes, bits = draw(st.sampled_from([False, False, True])), draw(st.sampled_from([0, 0, 4]))
        for j, share in enumerate(dims):
            own = 0 if j and combine == pb.PATH else bits
            field.tables.add(divide=1, rows=2, dim=share, classes=given_classes and draw(st.booleans()), bits=own)
        built.append(field)
    return built


def names(several: list[pb.Field]) -> list[str]:
    return [field.feature for field in several]


def shares(field: pb.Field) -> tuple[int, ...]:
    return tuple(table.dim for table in field.tables)


def classes(field: pb.Field) -> tuple[bool, ...]:
    return tuple(table.classes for table in field.tables)


def bits(field: pb.Field) -> int:
    return field.tables[0].bits


def kind(field: pb.Field) -> Key:
    """What the fields of a group have in common; tables of mult and add may be fewer, where no ids have classes."""
    exact = any(classes(field)) or field.combine not in (pb.MULT, pb.ADD)
    return (field.dim, bits(field), field.combine, field.hidden, (shares(field), classes(field)) if exact else ())


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
    alike = defaultdict[Key, list[str]](list)
    for field in packing.pack(several):
        alike[field.dim, bits(field), field.combine, field.hidden, shares(field), classes(field)].append(field.feature)
    for found in alike.values():
        assert found == [name for name in names(several) if name in found]


@given(fields(), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_the_fields(several: list[pb.Field], random: Random) -> None:
    mixed = list(several)
    random.shuffle(mixed)
    assert packing.groups(packing.pack(mixed)) == packing.groups(packing.pack(several))


@given(fields())
def test_groups_cover_the_fields_one_after_another(several: list[pb.Field]) -> None:
    found = packing.groups(packing.pack(several))
    assert [position for group in found for position in group.fields] == list(range(len(several)))
    assert all(group.fields for group in found)


@settings(max_examples=300)
@given(fields())
def test_fields_of_a_group_can_be_looked_up_together(several: list[pb.Field]) -> None:
    packed = packing.pack(several)
    for group in packing.groups(packed):
        members = [packed[position] for position in group.fields]
        depths = [len(field.tables) for field in members]
        assert depths == sorted(depths, reverse=True)
        assert group.depth == depths[0]
        assert group.classes == classes(members[0])
        assert len({bits(field) for field in members}) == 1
        assert group.bits == tuple(table.bits for table in members[0].tables)
        assert {(field.dim, field.hidden) for field in members} == {(group.dim, group.hidden)}
        joined = {field.combine for field in members if len(field.tables) > 1}
        assert joined == (set() if group.combine == pb.ALONE else {group.combine})
        for j in range(group.depth):
            sharers = [field for field in members if len(field.tables) > j]
            assert len({field.tables[j].dim for field in sharers}) == 1
            assert {field.tables[j].classes for field in sharers} == {group.classes[j]}
        if group.combine not in (pb.MULT, pb.ADD, pb.ALONE) or any(group.classes):
            assert {shares(field) for field in members} == {shares(members[0])}


@settings(max_examples=300)
@given(fields())
def test_groups_are_as_few_as_can_be(several: list[pb.Field]) -> None:
    """One group a kind of field; one table without classes opens none beside mult or add of its dim and bits."""
    needed = {kind(field) for field in several if field.combine != pb.ALONE or any(classes(field))}
    joinable = {
        (field.dim, bits(field)) for field in several if field.combine in (pb.MULT, pb.ADD) and not any(classes(field))
    }
    single = [field for field in several if field.combine == pb.ALONE and not any(classes(field))]
    alone = {(field.dim, bits(field)) for field in single} - joinable
    assert len(packing.groups(packing.pack(several))) == len(needed) + len(alone)


@given(fields())
def test_no_two_groups_of_one_kind_stand_apart(several: list[pb.Field]) -> None:
    packed = packing.pack(several)
    kinds = [kind(packed[group.fields[0]]) for group in packing.groups(packed)]
    assert len(set(kinds)) == len(kinds)


@given(fields())
def test_fields_with_classes_part_no_group_of_the_others(several: list[pb.Field]) -> None:
    def grouped(chosen: list[pb.Field]) -> list[list[str]]:
        packed = packing.pack(chosen)
        found = [[packed[position] for position in group.fields] for group in packing.groups(packed)]
        return [names(members) for members in found if not any(map(any, map(classes, members)))]

    assert grouped(several) == grouped([field for field in several if not any(classes(field))])


def test_the_width_of_a_paths_functions_tells_its_hidden_layer() -> None:
    """So that fields of one dim and equal tables are of one hidden width."""
    for dim, (one, other) in itertools.product(range(1, 65), itertools.combinations(range(65), 2)):
        assert table_dims(pb.PATH, dim, one, 2) != table_dims(pb.PATH, dim, other, 2)


def test_an_example_by_hand() -> None:
    def field(
        name: str, dim: int, combine: pb.Combine, *dims: int, hidden: int = 0, classes: str = "", bits: int = 0
    ) -> pb.Field:
        tables = [
            pb.Table(divide=1, rows=2, dim=each, classes=str(j) in classes, bits=bits) for j, each in enumerate(dims)
        ]
        return pb.Field(feature=name, dim=dim, combine=combine, hidden=hidden, tables=tables)

    several = [
        field("sum", 4, pb.ADD, 4, 4),
        field("car", 4, pb.MULT, 4, 4, 4, 4, classes="01"),
        field("small", 4, pb.ALONE, 4),
        field("walk", 4, pb.PATH, 4, 20),
        field("user", 4, pb.MULT, 4, 4),
        field("wide", 8, pb.ALONE, 8),
        field("city", 4, pb.ALONE, 4, classes="0"),
        field("item", 4, pb.MULT, 4, 4, 4),
        field("climb", 4, pb.PATH, 4, 22, hidden=2),
        field("pair", 8, pb.FEATURE, 4, 4),
        field("stroll", 4, pb.PATH, 4, 20),
        field("coarse", 4, pb.ADD, 4, 4, bits=2),
        field("few", 4, pb.ALONE, 4, bits=2),
        field("bit", 4, pb.ALONE, 4, bits=1),
    ]
    packed = packing.pack(several)
    assert names(packed) == [
        *("city", "item", "user", "small", "car", "sum", "walk", "stroll", "climb", "bit", "coarse", "few"),
        *("wide", "pair"),
    ]
    assert packing.groups(packed) == [
        packing.Group((0,), pb.ALONE, 1, 4, 0, (True,), (0,) * 1),
        packing.Group((1, 2, 3), pb.MULT, 3, 4, 0, (False,) * 3, (0,) * 3),
        packing.Group((4,), pb.MULT, 4, 4, 0, (True, True, False, False), (0,) * 4),
        packing.Group((5,), pb.ADD, 2, 4, 0, (False,) * 2, (0,) * 2),
        packing.Group((6, 7), pb.PATH, 2, 4, 0, (False,) * 2, (0,) * 2),
        packing.Group((8,), pb.PATH, 2, 4, 2, (False,) * 2, (0,) * 2),
        packing.Group((9,), pb.ALONE, 1, 4, 0, (False,), (1,)),
        packing.Group((10, 11), pb.ADD, 2, 4, 0, (False,) * 2, (2,) * 2),
        packing.Group((12,), pb.ALONE, 1, 8, 0, (False,), (0,) * 1),
        packing.Group((13,), pb.FEATURE, 2, 8, 0, (False,) * 2, (0,) * 2),
    ]
