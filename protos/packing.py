"""Packing: which fields are looked up together, so that one Gather per partition serves them all.

Fields of one dimension and of the same bits whose tables are joined alike form a group; a field of one table joins the
mult group of its dimension and bits, else the add group (it takes no part in the second Gather). Fields whose tables
have classes stand in groups of their own, each partition of which has classes throughout or nowhere. Training and the
graphs pack by this one rule, so neither permutes vectors: plan.fields stand in packing order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from . import manifest_pb2 as pb


@dataclass(frozen=True)
class Group:
    """Fields that are looked up together.

    fields: positions in the plan's list, consecutive, by falling number of tables.
    combine: MULT, ADD, CONCAT, PATH or FEATURE; ALONE when every field has one table.
    depth: number of partitions, the greatest number of tables of a field.
    dim: width of a composed vector.
    hidden: PATH only: width of the functions' hidden layer, 0 for linear ones.
    classes: for each partition, whether ids have classes that are given.
    bits: for each partition, those of its values; 0 for float32.
    """

    fields: tuple[int, ...]
    combine: pb.Combine
    depth: int
    dim: int
    hidden: int
    classes: tuple[bool, ...]
    bits: tuple[int, ...]


def pack(fields: Sequence[pb.Field]) -> list[pb.Field]:
    """Put fields into packing order; stable, and packed fields stay as they are."""
    joiner = dict[tuple[int, int], pb.Combine]()  # dim, bits -> how the group is joined that fields of one table join
    for field in fields:
        if field.combine in (pb.MULT, pb.ADD) and not any(_classes(field)):
            kind = (field.dim, field.tables[0].bits)
            joiner[kind] = min(field.combine, joiner.get(kind, field.combine))

    def key(field: pb.Field) -> tuple[object, ...]:
        classes = any(_classes(field))
        joins = field.combine == pb.ALONE and not classes
        bits = field.tables[0].bits
        combine = joiner.get((field.dim, bits), pb.ALONE) if joins else field.combine
        # Fields with classes come after the others of their dim and combine, so that they part no group of those.
        return (field.dim, bits, combine, classes, -len(field.tables), _dims(field), _classes(field))

    return sorted(fields, key=key)


def groups(fields: Sequence[pb.Field]) -> list[Group]:
    """The groups of fields that stand in packing order: maximal runs that can be looked up together."""
    runs = list[list[int]]()
    for position, field in enumerate(fields):
        if runs and _join(fields[runs[-1][0]], fields[runs[-1][-1]], field):
            runs[-1].append(position)
        else:
            runs.append([position])
    found = list[Group]()
    for run in runs:
        head = fields[run[0]]
        bits = tuple(table.bits for table in head.tables)
        found.append(Group(tuple(run), head.combine, len(head.tables), head.dim, head.hidden, _classes(head), bits))
    return found


def _join(head: pb.Field, last: pb.Field, field: pb.Field) -> bool:
    """Whether a field joins the group of `head`, whose last field so far is `last`.

    Paths of equal dims have functions of one hidden width: h (2D + 1) = D^2 has no solution.
    """
    if field.dim != head.dim or field.tables[0].bits != head.tables[0].bits or len(field.tables) > len(last.tables):
        return False
    if any(_classes(head)) or any(_classes(field)) or head.combine not in (pb.MULT, pb.ADD):
        return field.combine == head.combine and _dims(field) == _dims(head) and _classes(field) == _classes(head)
    return field.combine in (head.combine, pb.ALONE)


def _dims(field: pb.Field) -> list[int]:
    return [table.dim for table in field.tables]


def _classes(field: pb.Field) -> tuple[bool, ...]:
    return tuple(table.classes for table in field.tables)
