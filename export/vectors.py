"""Layers of vectors in the graph: what makes them of one dim, what pairs them, and what lets them attend to each other.

Legend: B rows; V vectors of width D; context and candidate vectors have 1 and N rows.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..protos import manifest_pb2 as pb
from .affine import affine
from .graph import Graph, Read
from .values import Piece, Positions, Value, at, beside, cube, flat, in_vectors, joined, mapped, piece, vectors


def unify(graph: Graph, layer: pb.Layer, source: Value, read: Read) -> Value:
    """Vectors of several dims made as wide as the widest: a product and a sum for each dim of a side, or zeros."""
    found, source = list[Piece](), in_vectors(graph, f"unify/{layer.name}", source, layer.unify.dims)
    for once in (True, False):
        for own, (tensor, numbers) in _by_dim(graph, layer, source, once=once).items():
            columns = (numbers[:, None] * layer.unify.dim + np.arange(layer.unify.dim)).ravel()
            mapped = _unified(graph, layer, own, tensor, once, read)
            found.append(Piece(mapped, (len(numbers), layer.unify.dim), columns, once))
    return Value(tuple(found))


def _unified(graph: Graph, layer: pb.Layer, own: int, tensor: str, once: bool, read: Read) -> str:
    name, where = layer.name, f"{at(once)}unify"
    if layer.unify.pad:
        if own == layer.unify.dim:
            return tensor
        zeros = graph.integers(0, 0, 0, 0, 0, layer.unify.dim - own)  # behind the last axis
        return graph.node(f"{where}.padded.{own}/{name}", "Pad", tensor, zeros)
    weight = graph.constant(f"unify.weight.{own}/{name}", read(f"{name}.{own}.weight").T)
    bias = graph.constant(f"unify.bias.{own}/{name}", read(f"{name}.{own}.bias"))
    product = graph.node(f"{where}.product.{own}/{name}", "MatMul", tensor, weight)
    return graph.node(f"{where}.mapped.{own}/{name}", "Add", product, bias)


def _by_dim(graph: Graph, layer: pb.Layer, source: Value, *, once: bool) -> dict[int, tuple[str, Positions]]:
    """d -> (a side's vectors of d numbers [rows, vectors, d], which of the layer's vectors they are)."""
    dims = np.array(layer.unify.dims)
    owner = np.repeat(np.arange(len(dims)), dims)  # column -> vector
    held = dict[int, list[tuple[str, Positions]]]()
    for k, each in enumerate(source.side(once=once)):
        numbers = owner[each.columns]
        runs = [(own, len(list(same))) for own, same in groupby(dims[numbers].tolist())]
        pieces = [each]
        if len(runs) > 1:  # a field's tables side by side, of dims of their own
            name = f"{at(once)}unify.runs.{k}/{layer.name}"
            tensors = graph.split(name, flat(graph, each), [width for _, width in runs])
            ends = np.cumsum([width for _, width in runs])[:-1]
            columns = np.split(each.columns, ends)
            pieces = [Piece(*parts, once) for parts in zip(tensors, ((len(c),) for c in columns), columns, strict=True)]
        for (own, _), part in zip(runs, pieces, strict=True):
            held.setdefault(own, []).append((cube(graph, part, own), owner[part.columns[::own]]))
    return {
        own: (
            graph.concat(f"{at(once)}unify.dim.{own}/{layer.name}", [tensor for tensor, _ in parts]),
            np.concatenate([numbers for _, numbers in parts]),
        )
        for own, parts in sorted(held.items())
    }


def fm(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """(|sum of v|^2 - sum of |v|^2) / 2, Rendle, ICDM'10."""
    pairs, once = _pairs(graph, layer.name, sources[0], layer.fm.dim), at(sources[0].once)
    twice = graph.node(f"{once}pairs.twice/{layer.name}", "ReduceSum", pairs, graph.integers(1), keepdims=1)
    return Value((piece(_halved(graph, layer.name, twice, once), 1, once=sources[0].once),))


def bi_interaction(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """((sum of v)^2 - sum of v^2) / 2, component by component, He and Chua, SIGIR'17."""
    dim, once = layer.bi_interaction.dim, sources[0].once
    halved = _halved(graph, layer.name, _pairs(graph, layer.name, sources[0], dim), at(once))
    return Value((piece(halved, dim, once=once),))


def _pairs(graph: Graph, name: str, value: Value, dim: int) -> str:
    """Twice the sum over pairs of products, component by component, [B, D]: (sum of v)^2 - sum of v^2.

    The sums are products by ones, which take half the time of sums along an axis and join both sides of a request. The
    difference is taken before components are added: the two squares are large beside it.
    """
    ones = np.tile(np.eye(dim), value.width // dim)
    total = affine(graph, "pairs.sum", name, value, ones, np.zeros(dim))
    both = Value(tuple(each for once in (True, False) if (each := joined(graph, f"pairs/{name}", value, once=once))))
    own = mapped(both, lambda each: graph.node(f"{at(each.once)}pairs.own/{name}", "Mul", *[flat(graph, each)] * 2))
    squares = affine(graph, "pairs.squares", name, own, ones, np.zeros(dim))
    where = at(value.once)
    square = graph.node(f"{where}pairs.square/{name}", "Mul", total.tensor, total.tensor)
    return graph.node(f"{where}pairs/{name}", "Sub", square, squares.tensor)


def _halved(graph: Graph, name: str, twice: str, where: str) -> str:
    return graph.node(f"{where}layer/{name}", "Mul", twice, graph.constant("number/0.5", np.array([0.5], np.float32)))


def dot(graph: Graph, layer: pb.Layer, sources: Sequence[Value]) -> Value:
    """<v_i, v_j> for i > j, Naumov et al. 2019: within the context once, across as one product, within candidates."""
    name, dim = layer.name, layer.dot.dim
    value = in_vectors(graph, f"dot/{name}", beside(sources), [dim] * layer.dot.vectors)
    shared, own = (vectors(graph, f"dot/{name}", value, dim, once=once) for once in (True, False))
    found = list[Piece]()
    for side, once in ((shared, True), (own, False)):
        if side and len(side[1]) > 1:
            found.append(_within(graph, name, *side, once=once))
    if shared and own:
        found.append(_across(graph, name, *shared, *own, dim))
    return Value(tuple(found))


def _within(graph: Graph, name: str, tensor: str, numbers: Positions, *, once: bool) -> Piece:
    """Products of a side's own vectors: all of them, then the lower triangle.

    GatherElements over one flat index per row takes three quarters of the time that a Gather along the width takes.
    """
    where, count = at(once), len(numbers)
    transposed = graph.node(f"{where}dot.transposed/{name}", "Transpose", tensor, perm=(0, 2, 1))
    products = graph.node(f"{where}dot.products/{name}", "MatMul", tensor, transposed)
    products = graph.node(f"{where}dot.flat/{name}", "Flatten", products)
    i, j = np.tril_indices(count, -1)
    triangle = graph.constant(f"{where}dot.triangle/{name}", (i * count + j).astype(np.int64)[None])
    rows = graph.node(f"{where}dot.rows/{name}", "Shape", products, start=0, end=1)
    shape = graph.concat(f"{where}dot.shape/{name}", [rows, graph.integers(len(i))], axis=0)
    triangles = graph.node(f"{where}dot.triangles/{name}", "Expand", triangle, shape)
    output = graph.node(f"{where}layer/{name}", "GatherElements", products, triangles, axis=1)
    return Piece(output, (len(i),), _pair(numbers[i], numbers[j]), once)


def _across(graph: Graph, name: str, shared: str, theirs: Positions, own: str, ours: Positions, dim: int) -> Piece:
    """Products of every candidate vector with every context vector: one plain product, [N * V, D] by [D, Vc]."""
    matrix = graph.node(f"context.dot.matrix/{name}", "Reshape", shared, graph.integers(len(theirs), dim))
    rows = graph.node(f"dot.vectors/{name}", "Reshape", own, graph.integers(-1, dim))
    products = graph.node(f"dot.across/{name}", "Gemm", rows, matrix, transB=1)
    output = graph.node(f"dot.crossed/{name}", "Reshape", products, graph.integers(-1, len(ours) * len(theirs)))
    pairs = _pair(np.repeat(ours, len(theirs)), np.tile(theirs, len(ours)))
    return Piece(output, (len(pairs),), pairs)


def _pair(i: Positions, j: Positions) -> Positions:
    """Which of the layer's products is that of vectors i and j."""
    high, low = np.maximum(i, j), np.minimum(i, j)
    return high * (high - 1) // 2 + low


def attend(graph: Graph, layer: pb.Layer, source: Value, read: Read) -> Value:
    """relu(softmax(Q K^T) V + R x) of each head, Song et al., CIKM'19: one product for all maps of all heads.

    Heads one after the other take four fifths of the time of an axis for them, whose tensors must be transposed.
    """
    name, heads, width = layer.name, layer.attention.heads, layer.attention.width
    maps = np.concatenate([read(f"{name}.{role}") for role in ("query", "key", "value", "residual")])
    weight = graph.constant(f"attention.maps/{name}", maps.T)
    source = in_vectors(graph, f"attention/{name}", source, [layer.attention.dim] * layer.attention.vectors)
    found = vectors(graph, f"attention/{name}", source, layer.attention.dim, once=False)
    assert found, "no ranking graph is made of an attention"
    mapped = graph.node(f"attention.mapped/{name}", "MatMul", found[0], weight)
    sizes = [*[width] * (3 * heads), heads * width]
    *own, residual = graph.split(f"attention.parts/{name}", mapped, sizes, axis=2)
    attended = list[str]()
    for h, (query, key, value) in enumerate(zip(own[:heads], own[heads : 2 * heads], own[2 * heads :], strict=True)):
        key = graph.node(f"attention.key.{h}/{name}", "Transpose", key, perm=(0, 2, 1))
        scores = graph.node(f"attention.scores.{h}/{name}", "MatMul", query, key)  # [B, V, V]
        shares = graph.node(f"attention.shares.{h}/{name}", "Softmax", scores, axis=2)
        attended.append(graph.node(f"attention.found.{h}/{name}", "MatMul", shares, value))
    together = graph.concat(f"attention.joined/{name}", attended, axis=2)
    together = graph.node(f"attention.sum/{name}", "Add", together, residual)
    output = graph.node(f"layer/{name}", "Relu", together)
    columns = (found[1][:, None] * (heads * width) + np.arange(heads * width)).ravel()
    return Value((Piece(output, (len(found[1]), heads * width), columns),))
