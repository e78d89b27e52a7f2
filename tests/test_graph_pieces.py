"""Pieces: a net reads inputs whose columns come in any pieces, in any order, some once and some for every row."""

from itertools import pairwise

import numpy as np
import pytest
from graphs import layer, net_in_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.export.values import Piece
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets

WIDTHS = {"a": 12, "b": 12, "c": 5}
ROWS = 5
RELU, SIGMOID = (pb.Activation(function=function) for function in (pb.RELU, pb.SIGMOID))


def linear(name: str, source: str, inputs: int, outputs: int) -> pb.Layer:
    return layer(name, source, linear=pb.Linear(inputs=inputs, outputs=outputs))


def crosses(count: int, first: str = "a", source: str = "a", width: int = 12) -> list[pb.Layer]:
    """Cross layers of DCN: cross.0 reads `source`."""
    names = [source, *(f"cross.{k}" for k in range(count))]
    return [layer(own, first, before, cross=pb.Cross(width=width)) for before, own in pairwise(names)]


def matrices(count: int, first: str = "a", source: str = "a", rank: int = 0) -> list[pb.Layer]:
    """Cross layers of DCN-v2."""
    kind, names = pb.CrossMatrix(width=12, rank=rank), [source, *(f"cross.{k}" for k in range(count))]
    return [layer(own, first, before, cross_matrix=kind) for before, own in pairwise(names)]


def joined(name: str, *sources: str) -> pb.Layer:
    return layer(name, *sources, concat=pb.Concat())


def norm(name: str, source: str, width: int = 12) -> pb.Layer:
    return layer(name, source, batchnorm=pb.BatchNorm(width=width, epsilon=1e-3))


DIMS = [3, 1, 2, 3, 2, 1]
NETS: dict[str, list[pb.Layer]] = {
    "linear": [linear("out", "a", 12, 4)],
    "linear of one": [linear("out", "a", 12, 1)],
    "linear and norm": [linear("x", "a", 12, 3), norm("n", "x", 3), layer("r", "n", activation=RELU)],
    "norm of inputs": [norm("n", "a"), layer("d", "n", dropout=pb.Dropout(probability=0.5)), linear("out", "d", 12, 2)],
    "activations": [layer("s", "a", activation=SIGMOID), layer("r", "b", activation=RELU), joined("out", "s", "r")],
    "bias": [layer("out", "a", bias=pb.Bias(width=12))],
    "sum": [layer("out", "a", "b", "a", sum=pb.Sum())],
    "sum of one": [layer("s", "a", sum=pb.Sum()), linear("out", "s", 12, 2)],
    "row sum": [layer("out", "a", row_sum=pb.RowSum())],
    "row sum of weights": [joined("ab", "a", "c"), layer("out", "ab", row_sum=pb.RowSum())],
    "concat": [joined("abc", "a", "b", "c"), joined("out", "abc", "a")],
    "mlp": [
        joined("in", "a", "c"),
        linear("x", "in", 17, 6),
        layer("r", "x", activation=RELU),
        linear("out", "r", 6, 1),
    ],
    "fm": [layer("out", "a", fm=pb.FactorizationMachine(vectors=4, dim=3))],
    "fm of weights": [layer("out", "c", fm=pb.FactorizationMachine(vectors=5, dim=1))],
    "bi-interaction": [
        layer("p", "a", bi_interaction=pb.BiInteraction(vectors=3, dim=4)),
        norm("n", "p", 4),
        linear("out", "n", 4, 2),
    ],
    "dot": [layer("out", "a", dot=pb.Dot(vectors=4, dim=3))],
    "dot of several": [layer("d", "a", "b", dot=pb.Dot(vectors=6, dim=4)), linear("out", "d", 15, 3)],
    "dot beside": [
        layer("d", "a", "b", dot=pb.Dot(vectors=6, dim=4)),
        joined("i", "c", "d"),
        linear("out", "i", 20, 1),
    ],
    "unify": [layer("out", "a", unify=pb.Unify(dims=DIMS, dim=3))],
    "unify by zeros": [layer("out", "a", unify=pb.Unify(dims=DIMS, dim=3, pad=True))],
    "unify, dot": [
        layer("u", "a", unify=pb.Unify(dims=DIMS, dim=3)),
        layer("out", "u", "b", dot=pb.Dot(vectors=10, dim=3)),
    ],
    "unify, fm": [
        layer("u", "a", unify=pb.Unify(dims=[2, 2, 4, 4], dim=4, pad=True)),
        layer("out", "u", fm=pb.FactorizationMachine(vectors=4, dim=4)),
    ],
    "crosses": [*crosses(3), joined("both", "cross.2", "c"), linear("out", "both", 17, 1)],
    "crosses of all": [joined("all", "a", "c"), *crosses(2, "all", "all", 17), linear("out", "cross.1", 17, 3)],
    "crosses alone": crosses(2),
    "crosses that two read": [
        *crosses(2),
        layer("r", "cross.0", activation=RELU),
        layer("out", "r", "cross.1", sum=pb.Sum()),
    ],
    "a cross of others": [*crosses(2, "a", "b"), linear("out", "cross.1", 12, 1)],
    "a cross of a cross of others": [
        *crosses(1),
        layer("other", "b", "cross.0", cross=pb.Cross(width=12)),
        linear("out", "other", 12, 2),
    ],
    "a cross of crosses side by side": [
        *crosses(1),
        joined("both", "cross.0", "c"),
        joined("first", "a", "c"),
        layer("out", "first", "both", cross=pb.Cross(width=17)),
    ],
    "matrices alone": matrices(2),
    "one matrix, one number": [*matrices(1), linear("out", "cross.0", 12, 1)],
    "matrices, one number": [*matrices(3), joined("both", "c", "cross.2"), linear("out", "both", 17, 1)],
    "matrices, one number and a norm": [*matrices(2), linear("x", "cross.1", 12, 1), norm("out", "x", 1)],
    "matrices, several numbers": [*matrices(2), joined("both", "cross.1", "c"), linear("out", "both", 17, 3)],
    "matrices that two read": [
        *matrices(2),
        layer("s", "cross.1", activation=SIGMOID),
        joined("both", "s", "cross.1"),
        linear("out", "both", 24, 1),
    ],
    "matrices of others": [*matrices(2, "a", "b"), joined("both", "cross.1", "b"), linear("out", "both", 24, 1)],
    "low": [*matrices(3, rank=2), joined("both", "c", "cross.2"), linear("out", "both", 17, 1)],
    "low of others": [*matrices(2, "a", "b", rank=3), linear("out", "cross.1", 12, 2)],
    "matrices of crosses": [
        *crosses(1),
        layer("m.0", "a", "cross.0", cross_matrix=pb.CrossMatrix(width=12)),
        layer("m.1", "b", "m.0", cross_matrix=pb.CrossMatrix(width=12)),
        layer("last", "a", "m.1", cross=pb.Cross(width=12)),
        linear("out", "last", 12, 1),
    ],
    "crosses over crosses": [
        *crosses(1),
        layer("y", "cross.0", "cross.0", cross=pb.Cross(width=12)),
        linear("out", "y", 12, 1),
    ],
    "vectors of crosses": [
        *crosses(2),
        layer("u", "cross.1", unify=pb.Unify(dims=DIMS, dim=3, pad=True)),
        layer("d", "u", "cross.0", dot=pb.Dot(vectors=10, dim=3)),
        layer("f", "cross.1", fm=pb.FactorizationMachine(vectors=6, dim=2)),
        joined("both", "d", "f"),
        linear("out", "both", 46, 1),
    ],
}


@st.composite
def inputs_in_pieces(draw: st.DrawFn, name: str, width: int) -> list[Piece]:
    """Columns in their order, vectors of 1 to 4 in any order, or columns in any order; cut anywhere."""
    own = draw(st.sampled_from([size for size in (1, 2, 3, 4, width) if width % size == 0]))
    order = draw(st.permutations(range(width // own)))
    columns = np.concatenate([np.arange(own) + own * vector for vector in order])
    cuts = sorted(draw(st.sets(st.integers(1, width - 1), max_size=4)))
    found = list[Piece]()
    for k, part in enumerate(np.split(columns, cuts)):
        dim = draw(st.sampled_from([size for size in range(1, 5) if len(part) % size == 0]))
        shape = draw(st.sampled_from([(len(part),), (len(part) // dim, dim)]))
        found.append(Piece(f"{name}.{k}", shape, part, draw(st.booleans())))
    return found


@pytest.mark.parametrize("kind", NETS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_net_reads_its_inputs_in_any_pieces(kind: str, data: st.DataObject) -> None:
    net, rng = pb.Net(layers=NETS[kind]), np.random.default_rng(0)
    weights = {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if name.endswith("variance")
        else (rng.normal(size=shape) * 0.3).astype(np.float32)
        for name, shape in nets.weight_shapes(net).items()
    }
    read = {source for each in net.layers for source in each.inputs if source in WIDTHS}
    inputs = {name: rng.normal(size=(ROWS, WIDTHS[name])).astype(np.float32) for name in sorted(read)}
    pieces = {name: data.draw(inputs_in_pieces(name, WIDTHS[name])) for name in inputs}
    for name, several in pieces.items():
        for piece in several:
            if piece.once:
                inputs[name][:, piece.columns] = inputs[name][0, piece.columns]
    _, distance = net_in_graph(net, inputs, weights, pieces)
    assert distance < 2e-5
