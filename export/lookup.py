"""The lookup in the graph: ids become composed vectors, one Gather per partition of a group.

Fields of a group are looked up together in packed tables; bags compose first, then pool. Source: Shi et al., KDD'20,
section 3 (the joins), Naumov et al. 2019 (one lookup for many tables). Legend: C columns of ids; D width of a vector.
"""

from collections.abc import Sequence

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos import packing
from .bags import pool
from .graph import Array, Graph, Value
from .ids import Ids
from .rows import local_rows, packed_rows, partitions


def look_up(graph: Graph, name: str, schema: pb.Schema, fields: Sequence[pb.Field], ids: Ids) -> Value:
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
        vectors = _compose(graph, label, name, each, counts, split[g], group.combine)
        vectors = pool(graph, label, vectors, [features[field.feature] for field in each], schema)
        found.append(Value(vectors, (len(each), group.dim)))
    if len({value.shape[1] for value in found}) == 1:
        cubes = [value.tensor for value in found]
        return Value(graph.concat(f"{name}/vectors", cubes), (len(fields), found[0].shape[1]))
    flats = [graph.flat(value) for value in found]
    return Value(graph.concat(f"{name}/vectors", flats), (sum(field.dim for field in fields),))


def _compose(
    graph: Graph,
    label: str,
    prefix: str,
    fields: Sequence[pb.Field],
    columns: Sequence[int],
    ids: str,
    combine: pb.Combine,
) -> str:
    """The vectors of a group: ids int64 [B, C] -> float32 [B, C, D]."""
    parts = partitions(fields, columns)
    cardinalities = [field.cardinality for field, count in zip(fields, columns, strict=True) for _ in range(count)]
    rows = packed_rows(graph, label, local_rows(graph, label, ids, parts, cardinalities), parts)
    vectors = list[str]()
    for j, part in enumerate(parts):
        dim = fields[0].tables[j].dim
        tables: list[str | Array] = [f"{prefix}.{feature}.{j}" for feature, _ in part.tables]
        if part.neutral:  # ones change no product, zeros no sum
            tables.append(np.full((1, dim), combine == pb.MULT, np.float32))
        height = sum(count for _, count in part.tables) + part.neutral
        table = graph.table(f"{label}/table.{j}", "float32", (dim,), tables, height)
        vectors.append(graph.node(f"{label}/vectors.{j}", "Gather", table, rows[j]))
    if combine == pb.CONCAT:
        return graph.concat(f"{label}/composed", vectors, axis=2)
    composed = vectors[0]
    for j, vector in enumerate(vectors[1:], 1):
        composed = graph.node(f"{label}/composed.{j}", "Mul" if combine == pb.MULT else "Add", composed, vector)
    return composed
