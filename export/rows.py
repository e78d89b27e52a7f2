"""Rows in the graph: ids become rows of their tables, (x // divide) % rows or a class that is given, as integers.

Source: Shi et al., KDD'20, section 3.1. Legend: C columns of ids; one partition of a group is the j-th table of each of
its fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..protos import manifest_pb2 as pb
from ..protos.manifest import class_name
from .graph import Graph

CLASSES = "classes/rows"


@dataclass(frozen=True)
class Classes:
    """The classes of all semantic fields one after the other, an int32 vector `CLASSES` of `size` numbers.

    starts: (feature, table's number) -> where its classes begin; tables and first-order tables share them.
    """

    starts: Mapping[tuple[str, int], int]
    size: int

    @property
    def names(self) -> list[str]:
        """The tensors of the run's weights, in order."""
        return [class_name(*key) for key in self.starts]


def classes_of(fields: Sequence[pb.Field]) -> Classes:
    """Where the classes of these fields stand."""
    starts, end = dict[tuple[str, int], int](), 0
    for field in fields:
        for j, table in enumerate(field.tables):
            if table.classes and (field.feature, j) not in starts:
                starts[field.feature, j] = end
                end += field.cardinality
    return Classes(starts, end)


@dataclass(frozen=True)
class Partition:
    """The j-th tables of a group's fields, packed into one.

    divide, rows: one per column; a field without a j-th table has row 0 of a table of one row.
    offsets: where each column's table begins in the packed one.
    tables: (feature, rows) of the packed tables, in order.
    neutral: whether the packed table ends in a row for the fields that take no part.
    classes: where each column's classes begin in `CLASSES`; empty where rows are arithmetic.
    """

    divide: tuple[int, ...]
    rows: tuple[int, ...]
    offsets: tuple[int, ...]
    tables: tuple[tuple[str, int], ...]
    neutral: bool
    classes: tuple[int, ...]

    def of(self, order: Sequence[int]) -> "Partition":
        """The same tables, of the columns in another order."""
        names = ("divide", "rows", "offsets", *(["classes"] if self.classes else []))
        return replace(self, **{name: tuple(getattr(self, name)[k] for k in order) for name in names})


def partitions(fields: Sequence[pb.Field], columns: Sequence[int], classes: Classes) -> list[Partition]:
    """The partitions of a group's fields, of which field i takes `columns[i]` columns, 0 if it is not looked up here.

    Partitions in which none of the columns takes part are left out; they are the last ones.
    """
    found = list[Partition]()
    depth = max(len(field.tables) for field, count in zip(fields, columns, strict=True) if count)
    for j in range(depth):
        tables = [(field.feature, field.tables[j].rows) for field in fields if len(field.tables) > j]
        end = sum(rows for _, rows in tables)
        divided = any(field.tables[j].divide > 1 for field in fields if len(field.tables) > j)
        divide, rows, offsets, offset = list[int](), list[int](), list[int](), 0
        for field, count in zip(fields, columns, strict=True):
            if len(field.tables) > j:
                one = (field.tables[j].divide, field.tables[j].rows, offset)
                offset += field.tables[j].rows
            else:
                one = (field.cardinality if divided else 1, 1, end)
            for numbers, number in zip((divide, rows, offsets), one, strict=True):
                numbers.extend([number] * count)
        starts = list[int]()
        if fields[0].tables[j].classes:  # then it is so in all fields of the group
            for field, count in zip(fields, columns, strict=True):
                starts.extend([classes.starts[field.feature, j]] * count)
        neutral = len(tables) < len(fields)
        found.append(Partition(tuple(divide), tuple(rows), tuple(offsets), tuple(tables), neutral, tuple(starts)))
    return found


class Looked:
    """A group's fields as one side looks them up.

    label: before the names of its nodes.
    members: all fields of the group, whose tables are packed together.
    parts: the partitions that some column takes part in.
    columns: the field of each column of ids that is looked up: those of the greatest first tables first, so that what
        misses the caches is read together, not between rows that are in them; a third faster at a thousand rows.
    places: the columns themselves.
    """

    def __init__(
        self, label: str, members: Sequence[pb.Field], spans: Sequence[tuple[int, int]], classes: Classes
    ) -> None:
        """`spans`: of each field, its first column and how many there are: 0 where it is not looked up here."""
        self.label, self.members = label, members
        parts = partitions(members, [count for _, count in spans], classes)
        columns = [field for field, (_, count) in zip(members, spans, strict=True) for _ in range(count)]
        places = [first + k for first, count in spans for k in range(count)]
        order = sorted(range(len(columns)), key=lambda k: -columns[k].tables[0].rows)
        self.columns, self.places = [columns[k] for k in order], [places[k] for k in order]
        self.parts = [part.of(order) for part in parts]


def dtype_of(fields: Sequence[pb.Field], classes: Classes) -> str:
    """What ids and rows of these fields are computed in: int32 if it holds all of them, in a quarter of the time."""
    heights = [sum(table.rows for field in fields for table in field.tables), classes.size]
    return "int32" if max(*heights, *(field.cardinality for field in fields)) < 2**31 else "int64"


def rows_of_groups(
    graph: Graph, name: str, ids: str, width: int, groups: Sequence[Looked], dtype: str
) -> Iterator[tuple[Looked, list[str]]]:
    """Each group's rows of its packed tables, [B, C] a partition: ids [B, width], both of a dtype.

    The arithmetic of all groups of as many partitions is done together, so that a further dimension costs its gathers
    and no more: no group need be padded to the width of another to save nodes.
    """
    clusters = dict[tuple[object, ...], list[Looked]]()
    for group in groups:
        given = tuple(bool(part.classes) for part in group.parts)
        clusters.setdefault((len(given), given), []).append(group)
    order = [place for cluster in clusters.values() for group in cluster for place in group.places]
    sizes = [sum(len(group.columns) for group in cluster) for cluster in clusters.values()]
    split = graph.split(f"{name}/clusters", graph.pick(f"{name}/ids", ids, order, width), sizes)
    for cluster, own in zip(clusters.values(), split, strict=True):
        parts = [_together(each) for each in zip(*(group.parts for group in cluster), strict=True)]
        cardinalities, label = [field.cardinality for group in cluster for field in group.columns], cluster[0].label
        rows = packed_rows(graph, label, local_rows(graph, label, own, parts, cardinalities, dtype), parts, dtype)
        counts = [len(group.columns) for group in cluster]
        by_group = [graph.split(f"{label}/rows.{j}", each, counts) for j, each in enumerate(rows)]
        yield from zip(cluster, (list(each) for each in zip(*by_group, strict=True)), strict=True)


def _together(parts: Sequence[Partition]) -> Partition:
    """The same partition of several groups, column by column."""
    joined = {
        name: tuple(number for part in parts for number in getattr(part, name))
        for name in ("divide", "rows", "offsets", "tables", "classes")
    }
    return Partition(**joined, neutral=any(part.neutral for part in parts))


def local_rows(
    graph: Graph, name: str, ids: str, parts: Sequence[Partition], cardinalities: Sequence[int], dtype: str
) -> list[str]:
    """Each id's row in its own table of each partition: ids [B, C] -> [B, C] each, both of a dtype.

    `cardinalities` holds one number a column: ids lie below it.

    A class is looked up. Of the arithmetic, steps that change no id are left out; the remainder is x - (x // m) * m
    where the next partition needs x // m anyway: a product instead of a second division.
    """
    quotients = list[str]()
    for j, part in enumerate(parts):
        # A divisor that no id reaches gives 0 like any greater one, and fits int64.
        divide = [min(pair) for pair in zip(part.divide, cardinalities, strict=True)]
        quotient = ids
        if max(divide) > 1:
            quotient = graph.node(
                f"{name}/quotient.{j}", "Div", ids, graph.constant(f"{name}/divide.{j}", np.array(divide, dtype))
            )
        quotients.append(quotient)
    found = list[str]()
    for j, part in enumerate(parts):
        if part.classes:
            found.append(_class_rows(graph, f"{name}/class.{j}", ids, part.classes, dtype))
            continue
        tables = list(zip(part.divide, part.rows, cardinalities, strict=True))
        row = quotients[j]
        if any((n - 1) // divide >= rows for divide, rows, n in tables):
            modulus = graph.constant(f"{name}/rows.{j}", np.array(part.rows, dtype))
            if j + 1 < len(parts) and list(parts[j + 1].divide) == [divide * rows for divide, rows, _ in tables]:
                whole = graph.node(f"{name}/whole.{j}", "Mul", quotients[j + 1], modulus)
                row = graph.node(f"{name}/remainder.{j}", "Sub", row, whole)
            else:
                row = graph.node(f"{name}/remainder.{j}", "Mod", row, modulus)
        found.append(row)
    return found


def _class_rows(graph: Graph, name: str, ids: str, starts: Sequence[int], dtype: str) -> str:
    if any(starts):
        ids = graph.node(f"{name}/place", "Add", ids, graph.constant(f"{name}/starts", np.array(starts, dtype)))
    given = graph.node(f"{name}/given", "Gather", CLASSES, ids)
    return given if dtype == "int32" else graph.node(name, "Cast", given, to=onnx.TensorProto.INT64)


def packed_rows(graph: Graph, name: str, rows: Sequence[str], parts: Sequence[Partition], dtype: str) -> list[str]:
    """Rows of single tables -> rows of the packed ones, [B, C] each."""
    found = list[str]()
    for j, (row, part) in enumerate(zip(rows, parts, strict=True)):
        if any(part.offsets):
            offsets = graph.constant(f"{name}/offsets.{j}", np.array(part.offsets, dtype))
            row = graph.node(f"{name}/row.{j}", "Add", row, offsets)
        found.append(row)
    return found
