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
from ..protos.plan import SIDE_BY_SIDE
from .bags import pool
from .graph import Columns, Graph, Part, Value
from .ids import Ids
from .rows import Classes, Partition, local_rows, packed_rows, partitions


def look_up(
    graph: Graph, name: str, schema: pb.Schema, fields: Sequence[pb.Field], ids: Ids, classes: Classes
) -> Value:
    """The composed vectors of a plan's fields: [B, fields, D], or [B, sum of D] where dims differ.

    `name` is the prefix of the tables' names in the weights: "embedding" or "first_order".
    """
    features = {feature.name: feature for feature in schema.features}
    groups = packing.groups(fields)
    members = [[fields[position] for position in group.fields] for group in groups]
    columns = [[ids.columns[field.feature] for field in each] for each in members]
    order = [first + k for each in columns for first, count in each for k in range(count)]
    ordered = graph.pick(f"{name}/ids", ids.tensor, order, ids.width)
    split = graph.split(f"{name}/groups", ordered, [sum(count for _, count in each) for each in columns])
    found = list[Value]()
    for g, (group, each) in enumerate(zip(groups, members, strict=True)):
        counts, label = [count for _, count in columns[g]], f"{name}.{g}"
        parts = partitions(each, counts, classes)
        sizes = [field.cardinality for field, count in zip(each, counts, strict=True) for _ in range(count)]
        rows = packed_rows(graph, label, local_rows(graph, label, split[g], parts, sizes), parts)
        compose = _walk if group.combine == pb.PATH else _join
        vectors = compose(graph, label, name, each[0], parts, rows)
        vectors = pool(graph, label, vectors, [features[field.feature] for field in each], schema)
        found.append(Value(vectors, (len(each), group.dim)))
    if len(found) == 1:
        return found[0]
    one_dim = len({value.shape[1] for value in found}) == 1
    shape = (len(fields), found[0].shape[1]) if one_dim else (sum(field.dim for field in fields),)
    return Value(f"{name}/vectors", shape, tuple(found))


def _join(
    graph: Graph, label: str, prefix: str, head: pb.Field, parts: Sequence[Partition], rows: Sequence[str]
) -> str:
    """Vectors multiplied, added or side by side, as in the group's first field: rows [B, C] -> float32 [B, C, D]."""
    vectors = list[str]()
    for j, part in enumerate(parts):
        dim = head.tables[j].dim
        tables: list[Part] = [f"{prefix}.{feature}.{j}" for feature, _ in part.tables]
        if part.neutral:  # ones change no product, zeros no sum
            tables.append(np.full((1, dim), head.combine == pb.MULT, np.float32))
        table = graph.table(f"{label}/table.{j}", "float32", (dim,), tables, _height(part))
        vectors.append(graph.node(f"{label}/vectors.{j}", "Gather", table, rows[j]))
    if head.combine in SIDE_BY_SIDE:
        return graph.concat(f"{label}/composed", vectors, axis=2)
    composed = vectors[0]
    for j, vector in enumerate(vectors[1:], 1):
        composed = graph.node(f"{label}/composed.{j}", "Mul" if head.combine == pb.MULT else "Add", composed, vector)
    return composed


def _walk(
    graph: Graph, label: str, prefix: str, head: pb.Field, parts: Sequence[Partition], rows: Sequence[str]
) -> str:
    """The first table's vector through the functions of the later ones: rows [B, C] -> float32 [B, C, D].

    A function's matrices and biases stand in tables of their own, in the shape that they are multiplied in, so that no
    weight is copied but by its Gather: up to twice as fast as whole rows, split.
    """

    def gathered(name: str, j: int, start: int, *shape: int) -> str:
        end = start + math.prod(shape)
        columns: list[Part] = [Columns(f"{prefix}.{feature}.{j}", start, end) for feature, _ in parts[j].tables]
        table = graph.table(f"{label}/{name}.table", "float32", shape, columns, _height(parts[j]))
        return graph.node(f"{label}/{name}", "Gather", table, rows[j])

    dim, hidden = head.dim, head.hidden
    vector = gathered("start", 0, 0, dim, 1)
    for j in range(1, len(parts)):
        start = 0
        for step, (inputs, outputs) in enumerate([(dim, hidden), (hidden, dim)] if hidden else [(dim, dim)]):
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


def _height(part: Partition) -> int:
    """Rows of a packed table."""
    return sum(count for _, count in part.tables) + part.neutral
