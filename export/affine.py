"""Affine maps of values: y = W x + b, the context's part once a request, the rest for every row.

W [c; k] = W_c c + W_k k. What a cross layer left to its reader is done here too: see cross.py.
Legend: B rows; W width of the source; O outputs.
"""

import numpy as np

from . import int8
from .graph import Array, Graph
from .values import Crossed, Piece, Range, Scaled, Value, at, flat, joined


def affine(
    graph: Graph,
    role: str,
    name: str,
    source: Value,
    weight: Array,
    bias: Array,
    known: Range | None = None,
    output: float | None = None,
) -> Piece:
    """W x + b: [B, O], or [1, O] where all of x is the context's.

    Args:
        graph: gets the nodes.
        role: what the result is to the layer: nodes are named `role/name`.
        name: of the layer.
        source: x.
        weight: float64 [O, W], in the order of the value's columns.
        bias: float64 [O].
        known: the range of x, for a product in int8.
        output: with `known`: the positive part in uint8, in such steps, where nothing of x is deferred.
    """
    plain = Value(tuple(each for each in source.pieces if not each.deferred))
    deferred = [each for each in source.pieces if each.deferred]
    output = None if deferred else output  # what is added to the product is in float32
    for each in deferred:
        if isinstance(each.deferred, Scaled):
            bias = bias + weight[:, each.columns] @ each.deferred.plus
    shared, own = (joined(graph, f"{role}/{name}", plain, once=once) for once in (True, False))
    total: Array | str = bias
    if shared:
        total = _gemm(graph, role, name, shared, weight, total)
    if own and known:
        total = int8.product(graph, role, name, own, weight[:, own.columns], total, known, output)
    elif own:
        total = _gemm(graph, role, name, own, weight, total)
    for number, each in enumerate(deferred):
        read, part = (_scaled, each.deferred) if isinstance(each.deferred, Scaled) else (_crossed, each.deferred)
        term = read(graph, f"{role}.{number}", name, part, weight[:, each.columns])  # pyright: ignore[reportArgumentType]  # each with its own
        if not isinstance(total, str):
            total = graph.constant(f"bias.{role}/{name}", total.astype(np.float32))
        total = graph.node(f"{role}.plus.{number}/{name}", "Add", term, total)
    assert isinstance(total, str), "a value has pieces"
    once = source.once
    return Piece(total, (len(bias),), np.arange(len(bias)), once, code=output if own and known else None)


def _gemm(graph: Graph, role: str, name: str, source: Piece, weight: Array, addend: Array | str) -> str:
    where = f"{at(source.once)}{role}/{name}"
    matrix = graph.constant(f"weight.{where}", weight[:, source.columns].astype(np.float32))
    if not isinstance(addend, str):
        addend = graph.constant(f"bias.{where}", addend.astype(np.float32))
    if len(weight) == 1 and not source.once:  # one output: a product by a row takes half the time of one by a column
        row = graph.node(f"{role}.row/{name}", "Gemm", matrix, flat(graph, source), addend, transB=1)
        return graph.node(where, "Transpose", row, perm=(1, 0))
    return graph.node(where, "Gemm", flat(graph, source), matrix, addend, transB=1)


def _scaled(graph: Graph, role: str, name: str, part: Scaled, weight: Array) -> str:
    """W (x0 * times) = (W x0) * times; the constant is in the bias."""
    inner = affine(graph, role, name, part.first, weight, np.zeros(len(weight)))
    return graph.node(f"{role}.times/{name}", "Mul", inner.tensor, part.times)


def _crossed(graph: Graph, role: str, name: str, part: Crossed, weight: Array) -> str:
    """w . (x0 * (M x + b) + x) = ((w * x0) M + w) . x + (w * b) . x0, of which x0's context is known once a request.

    The rows of M that belong to the context become one vector, so that the candidates' own are all that is multiplied
    for every row: the last cross layer of a ranking graph costs as much as the share of the candidates' columns.
    """
    (w,), (shared, own) = weight, (joined(graph, f"{role}/{name}", part.first, once=once) for once in (True, False))
    x = joined(graph, f"{role}.source/{name}", part.source, once=False)
    assert shared, "a cross is turned where it has a context"
    assert own, "and candidates"
    assert x, "whose rows it has"
    order, w_shared = x.columns, graph.constant(f"{role}.of/{name}", w[shared.columns].astype(np.float32))
    weighted = graph.node(f"{at(True)}{role}.weighted/{name}", "Mul", flat(graph, shared), w_shared)
    each = Piece(weighted, (shared.width,), np.arange(shared.width), once=True)
    once = _gemm(graph, f"{role}.once", name, each, part.matrix[np.ix_(shared.columns, order)].T, w[order])
    rows = (part.matrix[np.ix_(own.columns, order)] * w[own.columns, None]).T
    if part.int8:
        factor = int8.product(graph, f"{role}.factor", name, own, rows, once, part.int8, None)
    else:
        own_rows = Piece(own.tensor, own.shape, np.arange(own.width))
        factor = _gemm(graph, f"{role}.factor", name, own_rows, rows, once)
    products = graph.node(f"{role}.products/{name}", "Mul", factor, flat(graph, x))
    total = graph.node(f"{role}.sum/{name}", "ReduceSum", products, graph.integers(1), keepdims=1)
    biases = affine(graph, f"{role}.bias", name, part.first, (w * part.bias)[None], np.zeros(1))
    return graph.node(f"{role}.crossed/{name}", "Add", total, biases.tensor)
