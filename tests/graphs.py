"""Graphs under test: nets alone and whole models, run by ONNX Runtime beside the oracle.

Legend: R rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime
import oracle
import runs
from quorem.export.bundle import export
from quorem.export.graph import Graph, value_info
from quorem.export.int8 import FLOAT_LAYERS, Calibrated
from quorem.export.layers import build
from quorem.export.precision import parse
from quorem.export.values import Piece, Value, whole
from quorem.protos import manifest_pb2 as pb
from quorem.protos.schema import layout

COMBINES = {
    "mult": (pb.MULT, 0),
    "add": (pb.ADD, 0),
    "concat": (pb.CONCAT, 0),
    "path": (pb.PATH, 0),
    "path of 3": (pb.PATH, 3),
    "feature": (pb.FEATURE, 0),
}
ENCODINGS = ("id", "hash", "vocabulary", "bucket")
NUMBERS = [runs.number("n"), runs.number("log", pb.LOG1P), runs.number("std", pb.STANDARD, 1.5, 0.5)]


def field(feature: pb.Feature, scheme: str, combine: str, dim: int, rows: int = 0, *, bits: int = 0) -> pb.Field:
    """A field under a scheme and a combine of `COMBINES`."""
    join, hidden = COMBINES[combine]
    return runs.field(feature, scheme, join, dim, rows, hidden=hidden, bits=bits)


def exported(directory: Path, manifest: pb.Manifest, precision: str = "fp32", count: int = 48) -> Path:
    """Export a run of the manifest, which compares every row with the oracle's logits; returns the bundle.

    A ranking graph, where there is one, is compared with them too, and with the row-wise one on rows that share a
    context.
    """
    runs.make_run(directory / "run", manifest, np.random.default_rng(7), count)
    return export(directory / "run", directory / "model", precision=parse(precision))


def graph_of(bundle: Path, name: str = "model.onnx") -> onnx.GraphProto:
    """A graph of a bundle."""
    return onnx.load(str(bundle / name), load_external_data=False).graph


def proved(directory: Path, manifest: pb.Manifest, count: int = 48) -> onnx.GraphProto:
    """Export a run of the manifest; returns the row-wise graph."""
    return graph_of(exported(directory, manifest, count=count))


def opened(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def scored(model: onnxruntime.InferenceSession, inputs: Mapping[str, runs.Array]) -> runs.Array:
    """A graph's logits, whose probabilities are theirs; [R]."""
    logit, ctr = (np.asarray(found) for found in model.run(["logit", "ctr"], dict(inputs)))
    np.testing.assert_allclose(ctr, 1 / (1 + np.exp(-logit.astype(np.float64))), atol=1e-6)
    return logit


def off(found: runs.Array, expected: runs.Array) -> float:
    """The greatest difference, as bounds are stated; 0 of no rows."""
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


@dataclass(frozen=True)
class Request:
    """The inputs of a ranking graph, and those of the same rows for a row-wise one."""

    ranking: dict[str, runs.Array]
    row_wise: dict[str, runs.Array]


def layer(name: str, *inputs: str, **kind: object) -> pb.Layer:
    """A layer; its kind is a keyword."""
    return pb.Layer(name=name, inputs=inputs, **kind)  # pyright: ignore[reportArgumentType]  # the kind is a key


def net_in_graph(
    net: pb.Net,
    inputs: Mapping[str, runs.Array],
    weights: Mapping[str, runs.Array],
    pieces: Mapping[str, Sequence[Piece]] = MappingProxyType({}),
    calibrated: Calibrated = FLOAT_LAYERS,
) -> tuple[list[str], float]:
    """Operators of a net alone, and how far its result is from the oracle's.

    Args:
        net: of any width.
        inputs: [R, ...] each.
        weights: by name.
        pieces: those in which inputs come; others come as they are. Columns of a piece of one row are the same in all.
        calibrated: the layers in int8.
    """
    graph, values, given = Graph(), dict[str, Value](), dict[str, runs.Array]()
    infos = list[onnx.ValueInfoProto]()
    for name, array in inputs.items():
        numbers = array.reshape(len(array), -1).astype(np.float32)
        shape = array.shape[1:]
        several = pieces.get(name, [Piece(name, (*shape,), np.arange(numbers.shape[1]))])
        for piece in several:
            held = numbers[: 1 if piece.once else None, piece.columns]
            given[piece.tensor] = np.ascontiguousarray(held).reshape(-1, *piece.shape)
            infos.append(value_info(piece.tensor, "float32", *piece.shape, once=piece.once))
        values[name] = Value(tuple(several))
    last = build(graph, net, values, weights.__getitem__, calibrated)[net.layers[-1].name]
    tensor = whole(graph, "found", last)
    model = graph.model(infos, [value_info(tensor, "float32", last.width, once=last.once)])
    onnx.checker.check_model(model, full_check=True)
    found = np.asarray(opened(model).run([tensor], given)[0])
    expected = {name: array.reshape(len(array), -1).astype(np.float64) for name, array in inputs.items()}
    for each in net.layers:
        sources = [expected[name] for name in each.inputs]
        expected[each.name] = oracle.LAYERS[str(each.WhichOneof("kind"))](each, dict(weights), sources)
    wanted = expected[net.layers[-1].name]
    assert found.shape == (1 if last.once else len(wanted), last.width)
    distance = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    return [node.op_type for node in graph.nodes], float(distance.max())


def request(schema: pb.Schema, ids: runs.Array, dense: runs.Array, context: int, candidates: Sequence[int]) -> Request:
    """The candidates of some rows under the context of another."""
    places, feeds = layout(schema), dict[str, list[runs.Array]]()
    mixed = {"ids": ids[list(candidates)], "dense": dense[list(candidates)]}
    for feature in schema.features:
        kind = "ids" if feature.name in places.slots else "dense"
        first, count = places.slots[feature.name] if kind == "ids" else (places.dense[feature.name], 1)
        columns = slice(first, first + count)
        if feature.side == pb.CONTEXT:
            own = (ids if kind == "ids" else dense)[context : context + 1, columns]
            mixed[kind][:, columns] = own
            feeds.setdefault(f"context_{kind}", []).append(own)
        else:
            feeds.setdefault(f"candidate_{kind}", []).append(mixed[kind][:, columns])
    joined = {name: np.concatenate(several, axis=1) for name, several in feeds.items()}
    return Request(joined, {name: array for name, array in mixed.items() if array.shape[1]})
