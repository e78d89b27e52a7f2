"""Layers in the graph: a net alone gives the oracle's values, whatever its layers read."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.export.graph import Graph, Value, value_info
from quorem.export.layers import build
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets


def layers_in_graph(
    net: pb.Net,
    inputs: dict[str, runs.Array],
    weights: dict[str, runs.Array],
    parts: Mapping[str, Sequence[tuple[int, ...]]] = MappingProxyType({}),
) -> tuple[list[str], float]:
    """Operators of a net alone, and how far its result is from the oracle's; `parts`: shapes in which inputs come."""
    graph, values, given = Graph(), dict[str, Value](), dict[str, runs.Array]()
    for name, array in inputs.items():
        shapes, start = parts.get(name, [array.shape[1:]]), 0
        pieces = [Value(f"{name}.{k}", shape) for k, shape in enumerate(shapes)]
        for piece in pieces:
            given[piece.tensor] = array[:, start : start + piece.width].reshape(-1, *piece.shape).astype(np.float32)
            start += piece.width
        values[name] = Value(name, array.shape[1:], tuple(pieces)) if name in parts else pieces[0]
    last = build(graph, net, values, weights.__getitem__)
    model = graph.model(
        [value_info(name, "float32", *array.shape[1:]) for name, array in given.items()],
        [value_info(last.tensor, "float32", *last.shape)],
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, given)[0]).reshape(-1, last.width)
    expected: dict[str, runs.Array] = dict(inputs)
    for layer in net.layers:
        sources = [expected[name].astype(np.float64) for name in layer.inputs]
        expected[layer.name] = oracle.LAYERS[str(layer.WhichOneof("kind"))](layer, weights, sources)
    return [node.op_type for node in graph.nodes], float(np.abs(found - expected[net.layers[-1].name]).max())


@pytest.mark.parametrize("also_read", [False, True])
def test_a_batchnorm_is_folded_where_it_alone_reads_a_linear_layer(also_read: bool) -> None:
    net = pb.Net(
        layers=[
            pb.Layer(name="linear", inputs=["dense"], linear=pb.Linear(inputs=5, outputs=3)),
            pb.Layer(name="norm", inputs=["linear"], batchnorm=pb.BatchNorm(width=3, epsilon=1e-3)),
            pb.Layer(name="both", inputs=["norm", "linear" if also_read else "norm"], sum=pb.Sum()),
            pb.Layer(name="out", inputs=["both"], row_sum=pb.RowSum()),
        ]
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(0.5, 2, shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {"dense": rng.normal(size=(9, 5)).astype(np.float32)}
    operators, distance = layers_in_graph(net, inputs, weights)
    assert distance < 1e-5
    assert ("Mul" in operators) == also_read


@settings(max_examples=50)
@given(data=st.data(), dims=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=7), pad=st.booleans())
def test_vectors_are_unified_whatever_parts_they_come_in(data: st.DataObject, dims: list[int], pad: bool) -> None:
    """Parts that end within a vector, that hold vectors of several dims, or whose own shape says another dim."""
    width = sum(dims)
    ends = sorted({*data.draw(st.sets(st.integers(1, width))), width})
    shapes = list[tuple[int, ...]]()
    for start, end in pairwise([0, *ends]):
        own = data.draw(st.sampled_from([d for d in range(1, 5) if (end - start) % d == 0]))
        shapes.append(data.draw(st.sampled_from([(end - start,), ((end - start) // own, own)])))
    unify = pb.Unify(dims=dims, dim=max(dims), pad=pad)
    net = pb.Net(layers=[pb.Layer(name="vectors", inputs=["embeddings"], unify=unify)])
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in nets.weight_shapes(net).items()}
    inputs = {"embeddings": rng.normal(size=(3, width))}
    for parts in ({}, {"embeddings": shapes}):
        _, distance = layers_in_graph(net, inputs, weights, parts)
        assert distance < 1e-5


def test_layers_read_any_value_in_any_shape() -> None:
    def layer(name: str, *inputs: str, **kind: object) -> pb.Layer:
        return pb.Layer(name=name, inputs=inputs, **kind)

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
    _, distance = layers_in_graph(net, inputs, weights)
    assert distance < 1e-4


def test_pairs_that_two_layers_read_are_computed_once() -> None:
    net = pb.Net(
        layers=[
            pb.Layer(name="fm", inputs=["dense"], fm=pb.FactorizationMachine(vectors=3, dim=2)),
            pb.Layer(name="bi", inputs=["dense"], bi_interaction=pb.BiInteraction(vectors=3, dim=2)),
            pb.Layer(name="sum", inputs=["bi"], row_sum=pb.RowSum()),
            pb.Layer(name="logit", inputs=["fm", "sum"], sum=pb.Sum()),
        ]
    )
    operators, distance = layers_in_graph(net, {"dense": np.random.default_rng(0).normal(size=(9, 6))}, {})
    assert distance < 1e-5
    assert operators.count("Sub") == 1
