"""The per-field graph: what an exporter makes of a list of embedding modules, one chain of nodes a field.

ids int64 [B, 26] -> Split, Squeeze -> for each field Div, Mod, Gather, Gather, Mul -> Concat -> [B, 416].
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto
from quorem.export.graph import Graph, Packed
from quorem.protos import manifest_pb2 as pb

from .ends import End, finish

Places = Mapping[str, int]  # tensor -> its first byte in tables.bin


def places(packed: Sequence[Packed], found: Sequence[pb.Field]) -> dict[str, int]:
    """Where each field's tables stand in the packed ones."""
    rows = {f"embedding.{field.feature}.{j}": table.rows for field in found for j, table in enumerate(field.tables)}
    starts = dict[str, int]()
    for each in packed:
        start = each.offset
        for part in each.parts:
            if isinstance(part, str):
                starts[part] = start
                start += rows[part] * each.size // each.shape[0]
    return starts


def per_field(found: Sequence[pb.Field], starts: Places, end: End, *, every: bool) -> ModelProto:
    """The graph, on the product's own tables.bin; `every`: fields of one table have a chain too, and quotients of ones.

    Without `every` such a field is one Gather, as a careful author would write it.
    """
    graph, vectors = Graph(), list[str]()
    columns = graph.split("columns", "ids", [1] * len(found))
    for field, column in zip(found, columns, strict=True):
        name = field.feature
        ids = graph.node(f"{name}/ids", "Squeeze", column, graph.integers(1))
        tables = [_table(graph, field, j, starts) for j in range(len(field.tables))]
        if len(tables) == 1 and every:
            tables.append(graph.constant(f"{name}/ones", np.ones((1, field.dim), np.float32)))
        if len(tables) == 1:
            vectors.append(graph.node(f"{name}/vector", "Gather", tables[0], ids))
            continue
        modulus = graph.constant(f"{name}/rows", np.array(field.tables[0].rows, np.int64))
        quotients = graph.node(f"{name}/quotients", "Gather", tables[1], graph.node(f"{name}/div", "Div", ids, modulus))
        remainders = graph.node(
            f"{name}/remainders", "Gather", tables[0], graph.node(f"{name}/mod", "Mod", ids, modulus)
        )
        vectors.append(graph.node(f"{name}/vector", "Mul", remainders, quotients))
    return finish(graph, graph.concat("vectors", vectors), end)


def _table(graph: Graph, field: pb.Field, j: int, starts: Places) -> str:
    tensor, table = f"embedding.{field.feature}.{j}", field.tables[j]
    graph.table(tensor, "float32", (table.dim,), [tensor], table.rows)
    graph.store.packed[tensor] = Packed(tensor, "float32", (table.rows, table.dim), (tensor,), starts[tensor])
    return tensor
