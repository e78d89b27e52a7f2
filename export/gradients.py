"""Gradients of the logit: a net's layers on a tape, one function per layer kind.

They are evaluated in float64 in the steps of the graph (layers.py, vectors.py), so that the tape knows what float32
rounds. Legend: R rows; V vectors of width D.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

import numpy as np

from ..protos import manifest_pb2 as pb
from .int8 import WIDEST_WEIGHT, weight_scales
from .tape import Float64s, Int64s, Node, Tape

Weights = Callable[[str], Float64s]  # a layer's weight, by name, in float64


@dataclass(frozen=True)
class InInt8:
    """How a layer multiplies by a matrix in int8.

    source: the value that is multiplied: a layer's x.
    columns: those of its columns that are; the others are multiplied in float32.
    step, low, high: what they are rounded to, and the limits.
    turned: the x of a cross whose reader asks for one number, w . y: x0 goes through the matrix times w, and the
        product is multiplied by x (affine.py); empty for others.
    """

    source: str
    columns: Int64s
    step: float
    low: float
    high: float
    turned: str = ""


@dataclass(frozen=True)
class Trace:
    """A net's calculation.

    values: of the net's inputs and layers, by name.
    quantised: of the sources of products in int8, by source and step: what several layers read is rounded once.
    """

    values: dict[str, Node]
    quantised: dict[tuple[str, float], Node]


def trace(
    tape: Tape,
    net: pb.Net,
    inputs: Mapping[str, Node],
    weights: Weights,
    int8: Mapping[str, InInt8] = MappingProxyType({}),
) -> Trace:
    """Evaluate a net; `inputs` are [R, width] each. The last layer's value is [R, 1]."""
    found = Trace(dict(inputs), {})
    for layer in net.layers:
        sources, kind, coarse = (
            [found.values[name] for name in layer.inputs],
            layer.WhichOneof("kind"),
            int8.get(layer.name),
        )
        if coarse:
            key = coarse.source, coarse.step
            if key not in found.quantised:
                source, limits = found.values[coarse.source], (coarse.low, coarse.high)
                found.quantised[key] = tape.quantise(source, coarse.step, *limits, coarse.columns)
            value = _in_int8(tape, layer, sources, found.quantised[key], weights, coarse)
        else:
            value = _KINDS[str(kind)](tape, layer, sources, weights)
        found.values[layer.name] = value
    return found


def weight_squares(weight: Float64s, x: Float64s, step: float) -> Float64s:
    """The squares of the ranges of what is wrong with W x where W [O, K] is int8, x [R, K] in steps; [R, O].

    Every weight is off by a range of its output's scale; what is added to the product is a whole number of steps.
    """
    scales = np.abs(weight).max(axis=1) / WIDEST_WEIGHT
    return (x**2).sum(axis=1, keepdims=True) * scales**2 + (step * weight_scales(weight).astype(np.float64)) ** 2


def _in_int8(
    tape: Tape, layer: pb.Layer, sources: Sequence[Node], quantised: Node, weights: Weights, coarse: InInt8
) -> Node:
    weight, bias = weights(f"{layer.name}.weight"), weights(f"{layer.name}.bias")
    if coarse.turned:  # what its weights are wrong by is known with w alone: see tolerance.py
        first, x = sources
        crossed = tape.product("rd,rd->rd", quantised, tape.product("rj,ij->ri", x, weight))
        return tape.total(crossed, tape.product("rd,d->rd", first, bias), x)
    squares = weight_squares(weight[:, coarse.columns], quantised.value[:, coarse.columns], coarse.step)
    product = tape.total(tape.product("rj,ij->ri", quantised, weight, squares), bias)
    return _crossed(tape, sources[0], sources[1], product) if layer.HasField("cross_matrix") else product


def _linear(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    product = tape.product("rj,ij->ri", sources[0], weights(f"{layer.name}.weight"))
    return tape.total(product, weights(f"{layer.name}.bias"))


def _cross_matrix(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    first, x = sources
    if layer.cross_matrix.rank:
        low = tape.product("rj,jk->rk", x, weights(f"{layer.name}.v"))
        product = tape.product("rk,ik->ri", low, weights(f"{layer.name}.u"))
    else:
        product = tape.product("rj,ij->ri", x, weights(f"{layer.name}.weight"))
    return _crossed(tape, first, x, tape.total(product, weights(f"{layer.name}.bias")))


def _crossed(tape: Tape, first: Node, x: Node, factor: Node) -> Node:
    return tape.total(tape.product("rd,rd->rd", first, factor), x)


def _batchnorm(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    weight, bias, mean, variance = (weights(f"{layer.name}.{role}") for role in ("weight", "bias", "mean", "variance"))
    factor = weight / np.sqrt(variance + layer.batchnorm.epsilon)
    return tape.total(tape.product("rj,j->rj", sources[0], factor), -mean * factor, bias)


def _cross(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    first, x = sources
    factor = tape.product("rd,d->r", x, weights(f"{layer.name}.weight"))
    return tape.total(tape.product("rd,r->rd", first, factor), weights(f"{layer.name}.bias"), x)


def _bias(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    return tape.total(sources[0], weights(f"{layer.name}.bias"))


def _concat(tape: Tape, _layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    return tape.concat(sources)


def _sum(tape: Tape, _layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    return tape.total(*sources)


def _row_sum(tape: Tape, _layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    return tape.reshape(tape.add_up(sources[0], 1), 1)


def _activation(tape: Tape, layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    return (tape.relu if layer.activation.function == pb.RELU else tape.sigmoid)(sources[0])


def _dropout(_tape: Tape, _layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    return sources[0]


def _pairs(tape: Tape, vectors: Node) -> Node:
    """Twice the sum over pairs of products, component by component: [R, V, D] -> [R, D]."""
    total = tape.add_up(vectors, 1)
    own = tape.add_up(tape.product("rvd,rvd->rvd", vectors, vectors), 1)
    return tape.total(tape.product("rd,rd->rd", total, total), tape.times(own, -1))


def _fm(tape: Tape, layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    pairs = _pairs(tape, tape.reshape(sources[0], layer.fm.vectors, layer.fm.dim))
    return tape.reshape(tape.times(tape.add_up(pairs, 1), 0.5), 1)


def _bi_interaction(tape: Tape, layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    vectors = tape.reshape(sources[0], layer.bi_interaction.vectors, layer.bi_interaction.dim)
    return tape.times(_pairs(tape, vectors), 0.5)


def _dot(tape: Tape, layer: pb.Layer, sources: Sequence[Node], _weights: Weights) -> Node:
    count = layer.dot.vectors
    vectors = tape.reshape(tape.concat(sources), count, layer.dot.dim)
    products = tape.product("rid,rjd->rij", vectors, vectors)
    i, j = np.tril_indices(count, -1)
    return tape.columns(tape.reshape(products, count * count), i * count + j)


def _unify(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    wide, start, found = layer.unify.dim, 0, list[Node]()
    for dim, same in groupby(layer.unify.dims):
        count = len(list(same))
        vectors = tape.reshape(tape.columns(sources[0], slice(start, start + count * dim)), count, dim)
        start += count * dim
        if layer.unify.pad:
            zeros = tape.leaf(np.zeros((len(vectors.value), count, wide - dim)))
            unified = tape.concat([vectors, zeros], axis=2)
        else:
            weight, bias = (weights(f"{layer.name}.{dim}.{role}") for role in ("weight", "bias"))
            unified = tape.total(tape.product("rkd,od->rko", vectors, weight), bias)
        found.append(tape.reshape(unified, count * wide))
    return tape.concat(found)


def _attention(tape: Tape, layer: pb.Layer, sources: Sequence[Node], weights: Weights) -> Node:
    count, width, name = layer.attention.vectors, layer.attention.width, layer.name
    vectors = tape.reshape(sources[0], count, layer.attention.dim)
    query, key, value, residual = (
        tape.product("rvd,od->rvo", vectors, weights(f"{name}.{role}"))
        for role in ("query", "key", "value", "residual")
    )
    found = list[Node]()
    for start in range(0, layer.attention.heads * width, width):
        q, k, v = (tape.columns(each, slice(start, start + width)) for each in (query, key, value))
        found.append(tape.product("rij,rjw->riw", tape.softmax(tape.product("riw,rjw->rij", q, k)), v))
    attended = tape.relu(tape.total(tape.concat(found, axis=2), residual))
    return tape.reshape(attended, count * layer.attention.heads * width)


_KINDS: dict[str, Callable[[Tape, pb.Layer, Sequence[Node], Weights], Node]] = {
    "linear": _linear,
    "batchnorm": _batchnorm,
    "cross_matrix": _cross_matrix,
    "cross": _cross,
    "bias": _bias,
    "concat": _concat,
    "sum": _sum,
    "row_sum": _row_sum,
    "activation": _activation,
    "dropout": _dropout,
    "fm": _fm,
    "bi_interaction": _bi_interaction,
    "dot": _dot,
    "unify": _unify,
    "attention": _attention,
}
