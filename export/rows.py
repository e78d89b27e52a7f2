"""Rows in the graph: ids become rows of their tables, (x // divide) % rows or a class that is given, as int64.

Source: Shi et al., KDD'20, section 3.1. Legend: C columns of ids; one partition of a group is the j-th table of each of
its fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx

from ..protos import manifest_pb2 as pb
from ..protos import packing
from ..protos.manifest import class_name
from .graph import Array, Graph, value_info

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


def partitions(fields: Sequence[pb.Field], columns: Sequence[int], classes: Classes) -> list[Partition]:
    """The partitions of a group's fields, of which field i takes `columns[i]` columns."""
    found = list[Partition]()
    for j in range(len(fields[0].tables)):
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


def local_rows(
    graph: Graph, name: str, ids: str, parts: Sequence[Partition], cardinalities: Sequence[int]
) -> list[str]:
    """Each id's row in its own table of each partition: ids int64 [B, C] -> int64 [B, C] each.

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
                f"{name}/quotient.{j}", "Div", ids, graph.constant(f"{name}/divide.{j}", _int64(divide))
            )
        quotients.append(quotient)
    found = list[str]()
    for j, part in enumerate(parts):
        if part.classes:
            found.append(_class_rows(graph, f"{name}/class.{j}", ids, part.classes))
            continue
        tables = list(zip(part.divide, part.rows, cardinalities, strict=True))
        row = quotients[j]
        if any((n - 1) // divide >= rows for divide, rows, n in tables):
            modulus = graph.constant(f"{name}/rows.{j}", _int64(part.rows))
            if j + 1 < len(parts) and list(parts[j + 1].divide) == [divide * rows for divide, rows, _ in tables]:
                whole = graph.node(f"{name}/whole.{j}", "Mul", quotients[j + 1], modulus)
                row = graph.node(f"{name}/remainder.{j}", "Sub", row, whole)
            else:
                row = graph.node(f"{name}/remainder.{j}", "Mod", row, modulus)
        found.append(row)
    return found


def _class_rows(graph: Graph, name: str, ids: str, starts: Sequence[int]) -> str:
    if any(starts):
        ids = graph.node(f"{name}/place", "Add", ids, graph.constant(f"{name}/starts", _int64(starts)))
    return graph.node(name, "Cast", graph.node(f"{name}/given", "Gather", CLASSES, ids), to=onnx.TensorProto.INT64)


def packed_rows(graph: Graph, name: str, rows: Sequence[str], parts: Sequence[Partition]) -> list[str]:
    """Rows of single tables -> rows of the packed ones, int64 [B, C] each."""
    found = list[str]()
    for j, (row, part) in enumerate(zip(rows, parts, strict=True)):
        if any(part.offsets):
            row = graph.node(f"{name}/row.{j}", "Add", row, graph.constant(f"{name}/offsets.{j}", _int64(part.offsets)))
        found.append(row)
    return found


def rows_graph(fields: Sequence[pb.Field], given: Mapping[str, Array] = MappingProxyType({})) -> onnx.ModelProto:
    """The rows of a plan alone: `ids` int64 [B, fields] -> `rows.<group>.<j>` int64 [B, fields of the group].

    A field that has no j-th table has row 0 there. `given` has the classes of semantic fields, by their tensors' names.
    """
    graph, outputs, classes = Graph(), list[onnx.ValueInfoProto](), classes_of(fields)
    if classes.size:
        graph.constant(CLASSES, np.concatenate([given[name] for name in classes.names]))
    for g, group in enumerate(packing.groups(fields)):
        members = [fields[position] for position in group.fields]
        ids = graph.pick(f"group.{g}/ids", "ids", group.fields, len(fields))
        parts = partitions(members, [1] * len(members), classes)
        for j, rows in enumerate(local_rows(graph, f"group.{g}", ids, parts, [field.cardinality for field in members])):
            outputs.append(value_info(f"rows.{g}.{j}", "int64", len(members)))
            graph.nodes.append(onnx.helper.make_node("Identity", [rows], [outputs[-1].name], name=outputs[-1].name))
    return graph.model([value_info("ids", "int64", len(fields))], outputs)


def _int64(values: Sequence[int]) -> Array:
    return np.array(values, np.int64)
