"""The lookup in the graph: ids become composed vectors, one Gather per partition of a group.

Fields of a group are looked up together in packed tables; bags compose first, then pool. Source: Shi et al., KDD'20,
section 3 (the joins) and 4.1 (paths), Naumov et al. 2019 (one lookup for many tables).
Legend: B rows of a request; C columns of ids; D width of a vector.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos import packing
from ..protos.plan import SIDE_BY_SIDE, path_steps
from .bags import pool
from .codes import Codes
from .graph import Columns, Graph, Part
from .ids import Ids
from .rows import Classes, Looked, Partition, rows_of_groups
from .side import CONTEXT, Side
from .values import Piece


def look_up(
    graph: Graph, name: str, side: Side, fields: Sequence[pb.Field], ids: Ids, classes: Classes, codes: Codes
) -> list[Piece]:
    """The composed vectors of a side's fields, a piece [rows, fields, D] for each group, of a value of all fields.

    `name` is the prefix of the tables' names in the weights: "embedding" or "first_order"; `codes` tells how the packed
    tables are kept.
    """
    features, starts = {feature.name: feature for feature in side.schema.features}, _starts(fields)
    wanted = list[Looked]()
    for g, group in enumerate(packing.groups(fields)):
        members = [fields[position] for position in group.fields]
        spans = [ids.columns.get(field.feature, (0, 0)) for field in members]
        if any(count for _, count in spans):
            wanted.append(Looked(f"{side.prefix}{name}.{g}", members, spans, classes))
    found = list[Piece]()
    for group, rows in rows_of_groups(graph, f"{side.prefix}{name}", ids.tensor, ids.width, wanted, ids.dtype):
        owners = [field.feature for field in group.columns]
        if group.members[0].combine == pb.PATH:
            vectors = _walk(graph, group.label, name, group.members[0], group.parts, rows, codes, owners)
        else:
            vectors = _join(graph, group.label, name, group.members[0], group.parts, rows, codes, owners)
        present, dim = list(dict.fromkeys(field.feature for field in group.columns)), group.members[0].dim
        vectors = pool(graph, group.label, vectors, [features[feature] for feature in present], side)
        positions = np.concatenate([starts[feature] + np.arange(dim) for feature in present])
        found.append(Piece(vectors, (len(present), dim), positions, side.once))
    return found


def in_order(fields: Sequence[pb.Field]) -> list[pb.Field]:
    """Fields in the order in which they are looked up, if all are and all groups have as many partitions."""
    found = list[pb.Field]()
    for group in packing.groups(fields):
        found.extend(sorted((fields[k] for k in group.fields), key=lambda field: -field.tables[0].rows))
    return found


def _starts(fields: Sequence[pb.Field]) -> dict[str, int]:
    """Where each field's vector begins in the value of all fields."""
    ends = np.cumsum([0, *(field.dim for field in fields)]).tolist()
    return {field.feature: start for field, start in zip(fields, ends, strict=False)}


def _join(
    graph: Graph,
    label: str,
    prefix: str,
    head: pb.Field,
    parts: Sequence[Partition],
    rows: Sequence[str],
    codes: Codes,
    columns: Sequence[str],
) -> str:
    """Vectors multiplied, added or side by side, as in the group's first field: rows [B, C] -> float32 [B, C, D].

    `codes` tells how the packed tables are kept, `columns` the feature of each column.
    """
    vectors = [
        _gather(graph, label, prefix, head, j, part, row, codes, columns)
        for j, (part, row) in enumerate(zip(parts, rows, strict=True))
    ]
    if head.combine in SIDE_BY_SIDE:
        return graph.concat(f"{label}/composed", vectors, axis=2)
    composed = vectors[0]
    for j, vector in enumerate(vectors[1:], 1):
        composed = graph.node(f"{label}/composed.{j}", "Mul" if head.combine == pb.MULT else "Add", composed, vector)
    return composed


def _gather(
    graph: Graph,
    label: str,
    prefix: str,
    head: pb.Field,
    j: int,
    part: Partition,
    rows: str,
    codes: Codes,
    columns: Sequence[str],
) -> str:
    """Vectors of the group's j-th packed table: rows [B, C] -> float32 [B, C, D]."""
    dim, kept = head.tables[j].dim, codes.of(table_of(label), j)
    tables = [kept.part(feature, f"{prefix}.{feature}.{j}") for feature, _ in part.tables]
    if part.neutral:  # ones change no product, zeros no sum
        tables.append(kept.neutral(dim, ones=head.combine == pb.MULT))
    table = graph.table(f"{table_of(label)}/table.{j}", kept.dtype, (kept.width(dim),), tables, _height(part))
    return kept.gather(graph, f"{label}/vectors.{j}", table, rows, dim, columns)


def _walk(
    graph: Graph,
    label: str,
    prefix: str,
    head: pb.Field,
    parts: Sequence[Partition],
    rows: Sequence[str],
    codes: Codes,
    columns: Sequence[str],
) -> str:
    """The first table's vector through the functions of the later ones: rows [B, C] -> float32 [B, C, D].

    A function's matrices and biases stand in tables of their own, in the shape that they are multiplied in, so that no
    weight is copied but by its Gather: up to twice as fast as whole rows, split.
    """

    def gathered(name: str, j: int, start: int, *shape: int) -> str:
        end = start + math.prod(shape)
        columns: list[Part] = [Columns(f"{prefix}.{feature}.{j}", start, end) for feature, _ in parts[j].tables]
        table = graph.table(f"{table_of(label)}/{name}.table", "float32", shape, columns, _height(parts[j]))
        return graph.node(f"{label}/{name}", "Gather", table, rows[j])

    dim, hidden = head.dim, head.hidden
    if codes.of(table_of(label), 0).code:
        start = _gather(graph, label, prefix, head, 0, parts[0], rows[0], codes, columns)
        vector = graph.node(f"{label}/start", "Unsqueeze", start, graph.integers(3))
    else:
        vector = gathered("start", 0, 0, dim, 1)
    for j in range(1, len(parts)):
        start = 0
        for step, (inputs, outputs) in enumerate(path_steps(dim, hidden)):
            name = f"step.{j}.{step}"
            matrix = gathered(f"{name}/matrix", j, start, outputs, inputs)
            bias = gathered(f"{name}/bias", j, start + outputs * inputs, outputs, 1)
            start += outputs * inputs + outputs
            if step:
                vector = graph.node(f"{label}/{name}/hidden", "Relu", vector)
            # One column is no sum: a product of tensors is one pass, of matrices a call for each id.
            product = graph.node(f"{label}/{name}/product", "MatMul" if inputs > 1 else "Mul", matrix, vector)
            vector = graph.node(f"{label}/{name}/value", "Add", product, bias)
    return graph.node(f"{label}/composed", "Squeeze", vector, graph.integers(3))


def table_of(label: str) -> str:
    """The name that a group's packed tables begin with, whichever side looks them up."""
    return label.removeprefix(CONTEXT)


def _height(part: Partition) -> int:
    """Rows of a packed table."""
    return sum(count for _, count in part.tables) + part.neutral
