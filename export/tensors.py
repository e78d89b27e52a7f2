"""Tensors of a run directory, read from a memory-mapped safetensors file: whole, or a stretch of rows at a time."""

import contextlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors import safe_open

from ..protos.errors import Malformed
from .graph import Array

STRETCH_BYTES = 64 << 20
DTYPES = {"F32": "float32", "I64": "int64", "I32": "int32"}  # all that a run or a bundle may hold
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # name -> (dtype, shape)


class Tensors:
    """The tensors of one open file."""

    def __init__(self, path: Path, file: safe_open) -> None:
        self.path, self._file, self.shapes = path, file, Shapes()
        names = file.keys()
        for name in names:
            part = file.get_slice(name)
            dtype = str(part.get_dtype())
            self.shapes[name] = (DTYPES.get(dtype, dtype), tuple(part.get_shape()))

    def read(self, name: str) -> Array:
        """A whole tensor."""
        return self._file.get_tensor(name)

    def rows(self, name: str, indices: npt.NDArray[np.int64]) -> Array:
        """The rows of a tensor with these numbers, each below the tensor's: no other page of the file is read."""
        dtype, shape = self.shapes[name]
        start, end = self._places[name]
        return self._bytes[start:end].view(dtype).reshape(shape)[indices]

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.asarray(np.memmap(self.path, np.uint8, "r"))

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Where each tensor stands in the file: 8 bytes of a length, a header of that length, and the tensors."""
        begin = 8 + int.from_bytes(self._bytes[:8].tobytes(), "little")
        header = json.loads(self._bytes[8:begin].tobytes())
        return {
            name: (begin + facts["data_offsets"][0], begin + facts["data_offsets"][1])
            for name, facts in header.items()
            if name != "__metadata__"
        }

    def stretches(self, name: str) -> Iterator[Array]:
        """A tensor's rows in order, about `STRETCH_BYTES` at a time."""
        dtype, shape = self.shapes[name]
        row_bytes = max(int(np.prod(shape[1:])) * np.dtype(dtype).itemsize, 1)
        step = max(STRETCH_BYTES // row_bytes, 1)
        part = self._file.get_slice(name)
        for start in range(0, shape[0], step):
            yield part[start : min(start + step, shape[0])]


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Tensors]:
    """Open a safetensors file.

    Raises:
        Malformed: not a safetensors file, or cut short.
    """
    try:
        opened = safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise Malformed(
            "weights and reference rows are safetensors files",
            found=str(error),
            where=str(path),
            remedy="Train the model again, or copy the run directory again",
        ) from None
    with opened as file:
        yield Tensors(path, file)
