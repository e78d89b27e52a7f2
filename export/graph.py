"""The graph under construction: nodes, small constants, and packed tensors that stand outside the model file.

Legend: B rows of a request.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ..protos.tables_bin import lay_out

Array = npt.NDArray[Any]
Read = Callable[[str], Array]  # a tensor of the run's weights, by name

# The lowest opset that has BitwiseXor, and the format of its day: what every runtime since early 2023 reads.
OPSET, IR_VERSION = 18, 8
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
BATCH = "batch"
TABLES = "tables.bin"


@dataclass(frozen=True)
class Columns:
    """Columns `start` to `end` of a tensor of the run's weights, [rows, columns]."""

    tensor: str
    start: int
    end: int


@dataclass(frozen=True)
class Coded:
    """A tensor of the run's weights, [rows, columns], each stretch of whose rows is kept as `encode` gives it."""

    tensor: str
    encode: Callable[[Array], Array]


Part = str | Columns | Coded | Array


@dataclass(frozen=True)
class Packed:
    """A constant of `tables.bin`: its parts one after the other along the first axis, of rows or of parts of rows.

    parts: tensors of the run's weights, by name, or columns of them, or their codes, or arrays of a few rows.
    offset: where it begins in the file: see protos/tables_bin.py.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class Store:
    """The constants of `tables.bin`, which all graphs of a bundle share: a name stands for one of them.

    Where they stand is known once all are: no graph is made a model before.
    """

    def __init__(self) -> None:
        self._named = dict[str, Packed]()

    @property
    def packed(self) -> dict[str, Packed]:
        """The constants so far, as they were named, each where it stands if no other one comes."""
        offsets = lay_out({name: each.size for name, each in self._named.items()})
        return {name: replace(each, offset=offsets[name]) for name, each in self._named.items()}

    def add(self, name: str, dtype: str, width: tuple[int, ...], parts: Sequence[Part], rows: int) -> str:
        """A constant [rows, *width]: `parts` one after the other; nothing where the name is known."""
        if name not in self._named:
            self._named[name] = Packed(name, dtype, (rows, *width), tuple(parts))
        return name


class Graph:
    """Collects nodes in order of evaluation. The same operator on the same inputs is one node, equal constants are one.

    A node and its only output share a name. Names are made by the callers, from features, groups and layers; what comes
    before the first slash is theirs, so a feature or a layer of any name collides with nothing.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.nodes, self.constants = list[onnx.NodeProto](), list[onnx.TensorProto]()
        self._known, self._tables = dict[tuple[object, ...], str](), set[str]()

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
            self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
            self._known[key] = name
        return self._known[key]

    def integers(self, *values: int) -> str:
        """An int64 vector: axes, sizes, a number."""
        return self.constant("integers/" + ".".join(map(str, values)), np.array(values, np.int64))

    def table(self, name: str, dtype: str, width: tuple[int, ...], parts: Sequence[Part], rows: int) -> str:
        """A constant of `tables.bin`, [rows, *width]: `parts` one after the other."""
        self._tables.add(name)
        return self.store.add(name, dtype, width, parts, rows)

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
        key = ("Split", tensor, tuple(sizes), axis)
        if key not in self._known:
            parts = [f"{name}.{k}" for k in range(len(sizes))]
            self.nodes.append(helper.make_node("Split", [tensor, self.integers(*sizes)], parts, name=name, axis=axis))
            self._known[key] = name
        return [f"{self._known[key]}.{k}" for k in range(len(sizes))]

    def concat(self, name: str, tensors: Sequence[str], axis: int = 1) -> str:
        """Tensors side by side; the tensor itself where there is one."""
        return tensors[0] if len(tensors) == 1 else self.node(name, "Concat", *tensors, axis=axis)

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The model: the same calls give the same bytes."""
        tables = [_external(packed) for name, packed in self.store.packed.items() if name in self._tables]
        constants = [*self.constants, *tables]
        graph = helper.make_graph(self.nodes, "quorem", inputs, outputs, initializer=constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == MICROSOFT for node in self.nodes):
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="quorem")


def value_info(name: str, dtype: str, *width: int, once: bool = False) -> onnx.ValueInfoProto:
    """An input or output [B, *width], or [1, *width]."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, [1 if once else BATCH, *width])


def _external(packed: Packed) -> onnx.TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(packed.dtype))
    tensor = onnx.TensorProto(name=packed.name, data_type=kind, dims=packed.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", TABLES), ("offset", str(packed.offset)), ("length", str(packed.size))):
        tensor.external_data.add(key=key, value=text)
    return tensor
