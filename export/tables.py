"""Tables: `tables.bin` written, every packed constant where protos/tables_bin.py lays it; raw little-endian.

Names, dtypes, shapes and offsets stand in model.onnx as external data. ONNX Runtime maps the file when the model is
opened by its path, so that all processes share one copy of it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..protos.tables_bin import padded
from .graph import Array, Coded, Columns, Packed, Part
from .tensors import Tensors


def write(path: Path, packed: Sequence[Packed], weights: Tensors) -> None:
    """Write the packed constants; never holds more than one stretch of a table in memory."""
    with path.open("wb") as file:
        for constant in packed:
            file.seek(constant.offset)
            for part in constant.parts:
                for stretch in _stretches(part, weights):
                    little_endian = np.dtype(constant.dtype).newbyteorder("<")
                    file.write(np.ascontiguousarray(stretch, little_endian).data)
        file.truncate(max((each.offset + padded(each.size) for each in packed), default=0))


def _stretches(part: Part, weights: Tensors) -> Iterable[Array]:
    if isinstance(part, Columns):
        return (stretch[:, part.start : part.end] for stretch in weights.stretches(part.tensor))
    if isinstance(part, Coded):
        return (part.encode(stretch) for stretch in weights.stretches(part.tensor))
    return weights.stretches(part) if isinstance(part, str) else (part,)
