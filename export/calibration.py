"""Calibration: the ranges of what layers in int8 read, over rows that the model was trained on.

Legend: R rows; W width of a value.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from .codes import Codes
from .graph import Array, Store
from .int8 import FLOAT_LAYERS, Calibrated, layers_in_int8
from .model import Blueprint
from .parity import run
from .side import whole_rows
from .values import Range, Value

PROBE = "probe.onnx"


def calibrate(blueprint: Blueprint, codes: Codes, directory: Path, rows: Mapping[str, Array]) -> Calibrated:
    """Run the graph with layers in float32 over calibration rows, and see what its wide layers read.

    Args:
        blueprint: of the model.
        codes: of its tables, which stand in `directory` already.
        directory: gets the graph for the while.
        rows: `ids` int64 [R, S] and `dense` float32 [R, D] where the model has them.
    """
    net = blueprint.manifest.net
    names = layers_in_int8(net)
    if not names:
        return FLOAT_LAYERS
    sides, store = whole_rows(blueprint.manifest.schema), Store()
    uncalibrated = Calibrated(frozenset(names))  # multiplied in float32, but reading what the layers in int8 will
    graph, values = blueprint.graph(store, sides, codes, uncalibrated)
    wanted = {source: values[source] for layer in net.layers if layer.name in names for source in layer.inputs}
    tensors = sorted({piece.tensor for value in wanted.values() for piece in value.pieces if not piece.deferred})
    outputs = [onnx.helper.make_empty_tensor_value_info(tensor) for tensor in tensors]
    path = directory / PROBE
    path.write_bytes(graph.model([each for side in sides for each in side.inputs], outputs).SerializeToString())
    try:
        low, high = dict[str, Array](), dict[str, Array]()
        for found in run(path, tensors, rows):
            for tensor, numbers in zip(tensors, found, strict=True):
                flat = numbers.reshape(len(numbers), -1)
                low[tensor] = np.minimum(low.get(tensor, np.inf), flat.min(axis=0))
                high[tensor] = np.maximum(high.get(tensor, -np.inf), flat.max(axis=0))
    finally:
        path.unlink()
    return Calibrated(frozenset(names), {name: _range(value, low, high) for name, value in wanted.items()})


def _range(value: Value, low: Mapping[str, Array], high: Mapping[str, Array]) -> Range:
    """Of a value's columns in order; 0 of those that no tensor holds."""
    found = np.zeros((2, value.width))
    for piece in value.pieces:
        if not piece.deferred:
            found[:, piece.columns] = low[piece.tensor], high[piece.tensor]
    return Range(*found)
