"""The graph under construction: nodes, small constants, and packed tensors that stand outside the model file.

Legend: B rows of a request; W width of a value [B, W]; V vectors of width D in a value [B, V, D].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Read = Callable[[str], Array]  # a tensor of the run's weights, by name

# The lowest opset that has BitwiseXor, and the format of its day: what every runtime since early 2023 reads.
OPSET, IR_VERSION = 18, 8
BATCH = "batch"
TABLES = "tables.bin"
ALIGNMENT = 4096  # a page: memory-mapping runtimes ask for it on some systems


@dataclass(frozen=True)
class Columns:
    """Columns `start` to `end` of a tensor of the run's weights, [rows, columns]."""

    tensor: str
    start: int
    end: int


Part = str | Columns | Array


@dataclass(frozen=True)
class Packed:
    """A constant of `tables.bin`: its parts one after the other along the first axis.

    parts: tensors of the run's weights, by name, or columns of them, or arrays of a few rows.
    offset: where it begins in the file; a multiple of `ALIGNMENT`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Value:
    """A tensor and its shape without the batch: (W,) or (V, D).

    parts: the values that it consists of, while no node has joined them (`Graph.whole` does): side by side for (W,), or
        of shapes (V', D).
    """

    tensor: str
    shape: tuple[int, ...]
    parts: tuple["Value", ...] = ()

    @property
    def width(self) -> int:
        """W, or V * D."""
        return math.prod(self.shape)


class Graph:
    """Collects nodes in order of evaluation. The same operator on the same inputs is one node, equal constants are one.

    A node and its only output share a name. Names are made by the callers, from features, groups and layers; what comes
    before the first slash is theirs, so a feature or a layer of any name collides with nothing.
    """

    def __init__(self) -> None:
        self.nodes, self.constants, self.packed = list[onnx.NodeProto](), list[onnx.TensorProto](), list[Packed]()
        self._known = dict[tuple[object, ...], str]()

    def node(self, name: str, operator: str, *inputs: str, **attributes: Any) -> str:
        """Apply an operator of one output and return the output's name."""
        key = (operator, inputs, tuple(sorted(attributes.items())))
        if key not in self._known:
            self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
            self._known[key] = name
        return self._known[key]

    def constant(self, name: str, array: Array) -> str:
        """A constant inside the model file."""
        key = ("constant", array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            self._known[key] = name
        return self._known[key]

    def integers(self, *values: int) -> str:
        """An int64 vector: axes, sizes, a number."""
        return self.constant("integers/" + ".".join(map(str, values)), np.array(values, np.int64))

    def table(self, name: str, dtype: str, width: tuple[int, ...], parts: Sequence[Part], rows: int) -> str:
        """A constant of `tables.bin`, [rows, *width]: `parts` one after the other."""
        end = self.packed[-1].offset + self.packed[-1].size if self.packed else 0
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        self.packed.append(Packed(name, dtype, (rows, *width), tuple(parts), offset))
        return name

    def pick(self, name: str, tensor: str, positions: Sequence[int], width: int, axis: int = 1) -> str:
        """The named positions of an axis of `width`: the tensor itself, a slice of neighbours, or a gather."""
        wanted = list(positions)
        if wanted == list(range(width)):
            return tensor
        start, end = wanted[0], wanted[-1] + 1
        if wanted == list(range(start, end)):
            bounds = (self.integers(start), self.integers(end), self.integers(axis))
            return self.node(name, "Slice", tensor, *bounds)
        return self.node(name, "Gather", tensor, self.integers(*wanted), axis=axis)

    def split(self, name: str, tensor: str, sizes: Sequence[int], axis: int = 1) -> list[str]:
        """Consecutive parts of an axis; the tensor itself where there is one part."""
        if len(sizes) == 1:
            return [tensor]
        parts = [f"{name}.{k}" for k in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [tensor, self.integers(*sizes)], parts, name=name, axis=axis))
        return parts

    def concat(self, name: str, tensors: Sequence[str], axis: int = 1) -> str:
        """Tensors side by side; the tensor itself where there is one."""
        return tensors[0] if len(tensors) == 1 else self.node(name, "Concat", *tensors, axis=axis)

    def whole(self, value: Value) -> str:
        """A value's tensor, of its shape; its parts are joined where it has any."""
        if not value.parts:
            return value.tensor
        if len(value.shape) == 2:
            return self.concat(value.tensor, [part.tensor for part in value.parts])
        return self.side_by_side(value.tensor, value.parts)

    def flat(self, value: Value) -> str:
        """A value as [B, W]."""
        tensor = self.whole(value)
        return tensor if len(value.shape) == 1 else self.node(f"flat/{tensor}", "Flatten", tensor)

    def side_by_side(self, name: str, values: Sequence[Value]) -> str:
        """Values as one tensor, [B, sum of W]; parts of several dims are joined with the others, not before."""
        pieces = [part for value in values for part in (value.parts if len(value.shape) == 1 else ()) or (value,)]
        return self.concat(name, [self.flat(piece) for piece in pieces])

    def cube(self, value: Value, dim: int) -> str:
        """A value as [B, W / dim, dim]."""
        tensor = self.whole(value)
        if value.shape[-1] == dim and len(value.shape) == 2:
            return tensor
        vectors = self.integers(0, value.width // dim, dim)  # 0: the batch as it is
        return self.node(f"cube.{dim}/{tensor}", "Reshape", tensor, vectors)

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The model: the same calls give the same bytes."""
        constants = [*self.constants, *(_external(packed) for packed in self.packed)]
        graph = helper.make_graph(self.nodes, "quorem", inputs, outputs, initializer=constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="quorem")


def value_info(name: str, dtype: str, *width: int) -> onnx.ValueInfoProto:
    """An input or output [B, *width]."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, [BATCH, *width])


def _external(packed: Packed) -> onnx.TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(packed.dtype))
    tensor = onnx.TensorProto(name=packed.name, data_type=kind, dims=packed.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", TABLES), ("offset", str(packed.offset)), ("length", str(packed.size))):
        tensor.external_data.add(key=key, value=text)
    return tensor
