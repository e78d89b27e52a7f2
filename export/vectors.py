"""Layers of vectors in the graph: what makes them of one dim, what pairs them, and what lets them attend to each other.

Legend: B rows; V vectors of width D.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..protos import manifest_pb2 as pb
from .graph import Graph, Read, Value


def unify(graph: Graph, layer: pb.Layer, sources: Sequence[Value], read: Read) -> Value:
    """Vectors of several dims made as wide as the widest: a product and a sum for each run of equal dims, or zeros."""
    name, dim, found = layer.name, layer.unify.dim, list[str]()
    for k, (own, vectors) in enumerate(_runs(graph, layer, sources[0])):
        if layer.unify.pad:
            zeros = graph.integers(0, 0, 0, 0, 0, dim - own)  # behind the last axis
            found.append(graph.node(f"unify.padded.{k}/{name}", "Pad", vectors, zeros) if own < dim else vectors)
            continue
        weight = graph.constant(f"unify.weight.{own}/{name}", read(f"{name}.{own}.weight").T)
        bias = graph.constant(f"unify.bias.{own}/{name}", read(f"{name}.{own}.bias"))
        product = graph.node(f"unify.product.{k}/{name}", "MatMul", vectors, weight)
        found.append(graph.node(f"unify.mapped.{k}/{name}", "Add", product, bias))
    return Value(graph.concat(f"layer/{name}", found), (len(layer.unify.dims), dim))


def _runs(graph: Graph, layer: pb.Layer, source: Value) -> list[tuple[int, str]]:
    """(d, [B, vectors, d]) for each run of vectors of equal dims.

    Parts of the value are taken as they come where every run consists of whole ones; otherwise the value is split.
    """
    runs = [(dim, dim * len(list(same))) for dim, same in groupby(layer.unify.dims)]
    parts, held = list(source.parts or (source,)), list[list[Value]]()
    for dim, width in runs:
        own = list[Value]()
        while parts and parts[0].width % dim == 0 and sum(part.width for part in own) < width:
            own.append(parts.pop(0))
        held.append(own)
    if any(sum(part.width for part in own) != width for own, (_, width) in zip(held, runs, strict=True)):
        pieces = graph.split(f"unify.runs/{layer.name}", graph.flat(source), [width for _, width in runs])
        held = [[Value(piece, (width,))] for piece, (_, width) in zip(pieces, runs, strict=True)]
    found = list[tuple[int, str]]()
    for k, (own, (dim, _)) in enumerate(zip(held, runs, strict=True)):
        found.append((dim, graph.concat(f"unify.run.{k}/{layer.name}", [graph.cube(part, dim) for part in own])))
    return found


def fm(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """(|sum of v|^2 - sum of |v|^2) / 2, Rendle, ICDM'10."""
    pairs = _pairs(graph, layer.name, graph.cube(sources[0], layer.fm.dim))
    twice = graph.node(f"pairs.twice/{layer.name}", "ReduceSum", pairs, graph.integers(1), keepdims=1)
    return Value(_halved(graph, layer.name, twice), (1,))


def bi_interaction(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """((sum of v)^2 - sum of v^2) / 2, component by component, He and Chua, SIGIR'17."""
    dim = layer.bi_interaction.dim
    return Value(_halved(graph, layer.name, _pairs(graph, layer.name, graph.cube(sources[0], dim))), (dim,))


def _pairs(graph: Graph, name: str, vectors: str) -> str:
    """Twice the sum over pairs of products, component by component: [B, V, D] -> [B, D].

    The difference is taken before components are added: the two squares are large beside it.
    """
    first = graph.integers(1)
    total = graph.node(f"pairs.sum/{name}", "ReduceSum", vectors, first, keepdims=0)
    square = graph.node(f"pairs.square/{name}", "Mul", total, total)
    own = graph.node(f"pairs.own/{name}", "Mul", vectors, vectors)
    own = graph.node(f"pairs.squares/{name}", "ReduceSum", own, first, keepdims=0)
    return graph.node(f"pairs/{name}", "Sub", square, own)


def _halved(graph: Graph, name: str, twice: str) -> str:
    return graph.node(f"layer/{name}", "Mul", twice, graph.constant("number/0.5", np.array([0.5], np.float32)))


def dot(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """<v_i, v_j> for i > j, row by row, Naumov et al. 2019: all products, then the lower triangle.

    GatherElements over one flat index per row takes three quarters of the time that a Gather along the width takes.
    """
    name, count, dim = layer.name, layer.dot.vectors, layer.dot.dim
    if all(source.width % dim == 0 for source in sources):
        vectors = graph.concat(f"dot.vectors/{name}", [graph.cube(source, dim) for source in sources])
    else:
        vectors = graph.cube(Value(graph.side_by_side(f"dot.inputs/{name}", sources), (count * dim,)), dim)
    transposed = graph.node(f"dot.transposed/{name}", "Transpose", vectors, perm=(0, 2, 1))
    products = graph.node(f"dot.products/{name}", "MatMul", vectors, transposed)
    products = graph.node(f"dot.flat/{name}", "Flatten", products)
    i, j = np.tril_indices(count, -1)
    triangle = graph.constant(f"dot.triangle/{name}", (i * count + j).astype(np.int64)[None])
    rows = graph.node(f"dot.rows/{name}", "Shape", products, start=0, end=1)
    shape = graph.concat(f"dot.shape/{name}", [rows, graph.integers(len(i))], axis=0)
    triangles = graph.node(f"dot.triangles/{name}", "Expand", triangle, shape)
    output = graph.node(f"layer/{name}", "GatherElements", products, triangles, axis=1)
    return Value(output, (len(i),))


def attend(graph: Graph, layer: pb.Layer, sources: Sequence[Value], read: Read) -> Value:
    """relu(softmax(Q K^T) V + R x) of each head, Song et al., CIKM'19: one product for all maps of all heads.

    Heads one after the other take four fifths of the time of an axis for them, whose tensors must be transposed.
    """
    name, count, heads, width = layer.name, layer.attention.vectors, layer.attention.heads, layer.attention.width
    maps = np.concatenate([read(f"{name}.{role}") for role in ("query", "key", "value", "residual")])
    weight = graph.constant(f"attention.maps/{name}", maps.T)
    mapped = graph.node(f"attention.mapped/{name}", "MatMul", graph.cube(sources[0], layer.attention.dim), weight)
    sizes = [*[width] * (3 * heads), heads * width]
    *own, residual = graph.split(f"attention.parts/{name}", mapped, sizes, axis=2)
    found = list[str]()
    for h, (query, key, value) in enumerate(zip(own[:heads], own[heads : 2 * heads], own[2 * heads :], strict=True)):
        key = graph.node(f"attention.key.{h}/{name}", "Transpose", key, perm=(0, 2, 1))
        scores = graph.node(f"attention.scores.{h}/{name}", "MatMul", query, key)  # [B, V, V]
        shares = graph.node(f"attention.shares.{h}/{name}", "Softmax", scores, axis=2)
        found.append(graph.node(f"attention.found.{h}/{name}", "MatMul", shares, value))
    joined = graph.concat(f"attention.joined/{name}", found, axis=2)
    joined = graph.node(f"attention.sum/{name}", "Add", joined, residual)
    return Value(graph.node(f"layer/{name}", "Relu", joined), (count, heads * width))
