"""Layers in the graph: a net alone gives the oracle's values, whatever its layers read."""

from itertools import pairwise

import numpy as np
import pytest
import runs
from graphs import layer, net_in_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.export.int8 import Calibrated
from quorem.export.values import Piece, Range
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets


@pytest.mark.parametrize("also_read", [False, True])
def test_a_batchnorm_is_folded_where_it_alone_reads_a_linear_layer(also_read: bool) -> None:
    net = pb.Net(
        layers=[
            layer("linear", "dense", linear=pb.Linear(inputs=5, outputs=3)),
            layer("norm", "linear", batchnorm=pb.BatchNorm(width=3, epsilon=1e-3)),
            layer("both", "norm", "linear" if also_read else "norm", sum=pb.Sum()),
            layer("out", "both", row_sum=pb.RowSum()),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {"dense": rng.normal(size=(9, 5)).astype(np.float32)}
    operators, distance = net_in_graph(net, inputs, weights)
    assert distance < 1e-5
    assert ("Mul" in operators) == also_read


@settings(max_examples=50)
@given(data=st.data(), dims=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=7), pad=st.booleans())
def test_vectors_are_unified_whatever_parts_they_come_in(data: st.DataObject, dims: list[int], pad: bool) -> None:
    """Parts that end within a vector, that hold vectors of several dims, or whose own shape says another dim."""
    width = sum(dims)
    ends = sorted({*data.draw(st.sets(st.integers(1, width))), width})
    pieces = list[Piece]()
    for start, end in pairwise([0, *ends]):
        own = data.draw(st.sampled_from([d for d in range(1, 5) if (end - start) % d == 0]))
        shape = data.draw(st.sampled_from([(end - start,), ((end - start) // own, own)]))
        pieces.append(Piece(f"embeddings.{start}", shape, np.arange(start, end)))
    unify = pb.Unify(dims=dims, dim=max(dims), pad=pad)
    net = pb.Net(layers=[layer("vectors", "embeddings", unify=unify)])
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {"embeddings": rng.normal(size=(3, width)).astype(np.float32)}
    for parts in ({}, {"embeddings": pieces}):
        _, distance = net_in_graph(net, inputs, weights, parts)
        assert distance < 1e-5


def test_layers_read_any_value_in_any_shape() -> None:
    net = pb.Net(
        layers=[
            layer("norm", "dense", batchnorm=pb.BatchNorm(width=6, epsilon=1e-5)),
            layer("drop", "norm", dropout=pb.Dropout(probability=0.5)),
            layer("sigmoid", "drop", activation=pb.Activation(function=pb.SIGMOID)),
            layer("fm", "sigmoid", fm=pb.FactorizationMachine(vectors=2, dim=3)),
            layer("odd", "embeddings", "dense", "sigmoid", dot=pb.Dot(vectors=4, dim=4)),
            layer("even", "dense", "sigmoid", dot=pb.Dot(vectors=4, dim=3)),
            layer("crossed", "dense", "sigmoid", cross=pb.Cross(width=6)),
            layer("whole", "crossed", "dense", cross_matrix=pb.CrossMatrix(width=6)),
            layer("low", "whole", "dense", cross_matrix=pb.CrossMatrix(width=6, rank=2)),
            layer("unified", "low", unify=pb.Unify(dims=[1, 2, 2, 1], dim=2)),
            layer("padded", "unified", unify=pb.Unify(dims=[3, 1, 4], dim=4, pad=True)),
            layer("attention", "padded", attention=pb.Attention(vectors=6, dim=2, heads=3, width=2)),
            layer("again", "attention", attention=pb.Attention(vectors=4, dim=9, heads=1, width=3)),
            layer("bias", "again", bias=pb.Bias(width=12)),
            layer("pairs", "bias", bi_interaction=pb.BiInteraction(vectors=3, dim=4)),
            layer("c", "pairs", row_sum=pb.RowSum()),
            layer("one", "odd", sum=pb.Sum()),
            layer("alone", "one", concat=pb.Concat()),
            layer("a", "alone", row_sum=pb.RowSum()),
            layer("b", "even", row_sum=pb.RowSum()),
            layer("logit", "a", "b", "c", "fm", "fm", sum=pb.Sum()),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.1, 0.5, shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {
        "dense": rng.normal(size=(9, 6)).astype(np.float32),
        "embeddings": rng.normal(size=(9, 4)).astype(np.float32),
    }
    _, distance = net_in_graph(net, inputs, weights)
    assert distance < 1e-4


def test_a_layer_in_int8_reads_a_cross_beside_numbers() -> None:
    """What the cross left to its reader is added in float32, so its positive part is not uint8 yet."""
    net = pb.Net(
        layers=[
            layer("cross", "x", "x", cross=pb.Cross(width=64)),
            layer("all", "cross", "x", concat=pb.Concat()),
            layer("one", "all", linear=pb.Linear(inputs=128, outputs=64)),
            layer("relu", "one", activation=pb.Activation(function=pb.RELU)),
            layer("two", "relu", linear=pb.Linear(inputs=64, outputs=16)),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) / 8 for name, shape in nets.weight_shapes(net).items()}
    inputs = {"x": rng.normal(size=(9, 64)).astype(np.float32)}
    ranges = {"all": Range(np.full(128, -4.0), np.full(128, 4.0)), "relu": Range(np.zeros(64), np.full(64, 16.0))}
    _, exact = net_in_graph(net, inputs, weights)
    operators, distance = net_in_graph(net, inputs, weights, calibrated=Calibrated(frozenset({"one", "two"}), ranges))
    assert operators.count("QGemm") == 2
    assert exact < 1e-5 < distance < 0.5


def test_pairs_that_two_layers_read_are_computed_once() -> None:
    net = pb.Net(
        layers=[
            layer("fm", "dense", fm=pb.FactorizationMachine(vectors=3, dim=2)),
            layer("bi", "dense", bi_interaction=pb.BiInteraction(vectors=3, dim=2)),
            layer("sum", "bi", row_sum=pb.RowSum()),
            layer("logit", "fm", "sum", sum=pb.Sum()),
        ]
    )
    inputs: dict[str, runs.Array] = {"dense": np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)}
    operators, distance = net_in_graph(net, inputs, {})
    assert distance < 1e-5
    assert operators.count("Sub") == 1
