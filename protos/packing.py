"""Packing: which fields are looked up together, so that one Gather per partition serves them all.

Fields of one dimension whose tables are joined alike form a group; a field of one table joins the mult group of its
dimension, else the add group (it takes no part in the second Gather). Training and the graphs pack by this one rule, so
neither permutes vectors: plan.fields stand in packing order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from . import manifest_pb2 as pb


@dataclass(frozen=True)
class Group:
    """Fields that are looked up together.

    fields: positions in the plan's list, consecutive, by falling number of tables.
    combine: MULT, ADD or CONCAT; ALONE when every field has one table.
    depth: number of partitions, the greatest number of tables of a field.
    dim: width of a composed vector.
    """

    fields: tuple[int, ...]
    combine: pb.Combine
    depth: int
    dim: int


def pack(fields: Sequence[pb.Field]) -> list[pb.Field]:
    """Put fields into packing order; stable, and packed fields stay as they are."""
    joiner = dict[int, pb.Combine]()  # dim -> how the group is joined that fields of one table join
    for field in fields:
        if field.combine in (pb.MULT, pb.ADD):
            joiner[field.dim] = min(field.combine, joiner.get(field.dim, field.combine))

    def key(field: pb.Field) -> tuple[int, int, int, list[int]]:
        combine = joiner.get(field.dim, pb.ALONE) if field.combine == pb.ALONE else field.combine
        return (field.dim, combine, -len(field.tables), _dims(field))

    return sorted(fields, key=key)


def groups(fields: Sequence[pb.Field]) -> list[Group]:
    """The groups of fields that stand in packing order: maximal runs that can be looked up together."""
    runs = list[list[int]]()
    for position, field in enumerate(fields):
        if runs:
            head, last = fields[runs[-1][0]], fields[runs[-1][-1]]
            alike = field.dim == head.dim and len(field.tables) <= len(last.tables)
            joins = field.combine == head.combine or (field.combine == pb.ALONE and head.combine in (pb.MULT, pb.ADD))
            same_shares = head.combine != pb.CONCAT or _dims(field) == _dims(head)
            if alike and joins and same_shares:
                runs[-1].append(position)
                continue
        runs.append([position])
    return [Group(tuple(run), fields[run[0]].combine, len(fields[run[0]].tables), fields[run[0]].dim) for run in runs]


def _dims(field: pb.Field) -> list[int]:
    return [table.dim for table in field.tables]
