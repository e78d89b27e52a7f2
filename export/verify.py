"""Verify: a graph file is one that export could have written: valid ONNX of its schema, over tables.bin, that ends."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ..protos.errors import Malformed, UnsafePath, WrongShape
from .graph import MICROSOFT, TABLES, value_info
from .model import CTR, LOGIT
from .side import Side

AGAIN = "Export the run again"
DOMAINS = {"", MICROSOFT}
INVALID = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, DecodeError, ValueError, RuntimeError)


def verify(path: Path, sides: Sequence[Side]) -> None:
    """Verify a graph file without running it.

    Args:
        path: the file, with `tables.bin` beside it.
        sides: what it reads.

    Raises:
        UnsafePath: constants in another file.
        WrongShape: other inputs or outputs.
        Malformed: no ONNX, or with nodes that hold graphs of their own: those may loop.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        locations = {
            entry.value for each in _tensors(model.graph) for entry in each.external_data if entry.key == "location"
        }
        if locations - {TABLES}:
            raise UnsafePath(
                f"constants outside of a graph stand in {TABLES}, whose digest the manifest has",
                found=", ".join(sorted(map(repr, locations - {TABLES}))),
                where=str(path),
                remedy="Do not use this bundle; it was not written by quorem",
            )
        onnx.checker.check_model(str(path), full_check=True)
    except INVALID as error:
        raise Malformed(f"{path.name} is a valid ONNX model", found=str(error), where=str(path), remedy=AGAIN) from None
    domains = {node.domain for node in model.graph.node}
    graphs = [
        attribute.name
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.HasField("g") or attribute.graphs
    ]
    if model.functions or graphs or domains - DOMAINS:
        raise Malformed(
            "the nodes of a graph hold no graphs, and are ONNX's own or ONNX Runtime's",
            found=f"{len(model.functions)} functions, graphs {graphs}, domains {sorted(domains)}",
            where=str(path),
            remedy=AGAIN,
        )
    wanted = [each for side in sides for each in side.inputs], [value_info(name, "float32") for name in (LOGIT, CTR)]
    if (list(model.graph.input), list(model.graph.output)) != wanted:
        raise WrongShape(
            f"a graph of this schema has inputs {_told(wanted[0])} and outputs {_told(wanted[1])}",
            found=f"{_told(model.graph.input)} and {_told(model.graph.output)}",
            where=str(path),
            remedy=AGAIN,
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constants of a graph, those of nodes' attributes and sparse ones too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors, attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _told(values: Sequence[onnx.ValueInfoProto]) -> str:
    sizes = [
        (each.name, [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]) for each in values
    ]
    return ", ".join(f"{name} {list(shape)}" for name, shape in sizes)
