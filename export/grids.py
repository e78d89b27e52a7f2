"""Grids: packed tables of few bits, kept as the codes of their numbers, of which a graph makes the very numbers.

A kept row has its codes plane by plane (protos/low_bits.py). A byte of a plane of 1 or 2 bits holds 8 or 4 neighbours,
the first of them lowest; one of 4 bits a column of the first half low, and one of the second half high. So a byte is
looked up and gives whole neighbours, or all bytes are cut in two at once: the fastest ways that ONNX has for each
(benchmarks/graphs). The scales stand in `tables.bin` too, and ONNX Runtime gathers them and makes offsets of them once,
when it opens the graph.
Legend: B rows of a request; C columns of ids; D width of a vector; R rows of a stretch; F fields of a packed table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ..protos import low_bits
from ..protos import manifest_pb2 as pb
from .graph import Array, Coded, Graph, Part, Read

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Grid:
    """How one packed table of few bits is kept: the tables of one partition of a group.

    bits: of a number.
    number: the partition's.
    features: of the tables, in order.
    absent: the numbers of the fields that take no part; None where all do.
    read: a tensor of the run's weights, by name: scales and offsets.
    """

    bits: int
    number: int
    features: tuple[str, ...]
    absent: float | None
    read: Read

    code = pb.COLUMN_SCALE
    dtype = "uint8"

    def width(self, dim: int) -> int:
        """Bytes of a kept row of D."""
        return low_bits.stride(self.bits, dim)

    def part(self, feature: str, tensor: str) -> Part:
        """A feature's table as a part of the packed one."""
        return Coded(tensor, partial(self.encode, feature))

    def neutral(self, dim: int, *, ones: bool) -> Array:
        """The row of fields that take no part, [1, width]; their levels make ones or zeros of any code."""
        assert self.absent == ones
        return np.zeros((1, self.width(dim)), np.uint8)

    def encode(self, feature: str, rows: npt.NDArray[np.float32]) -> Codes:
        """Rows [R, D] of a feature's table as they are kept, [R, width].

        Raises:
            OffGrid: a number that no code gives.
        """
        return pack(low_bits.encode(rows, *self._grid(feature), self.bits, self._where(feature)), self.bits)

    def gather(self, graph: Graph, name: str, table: str, rows: str, dim: int, columns: Sequence[str]) -> str:
        """Rows of the packed table: int64 [B, C] -> float32 [B, C, D]; the arguments are those of `Kept.gather`."""
        codes = self._codes(graph, name, graph.node(f"{name}/kept", "Gather", table, rows), dim)
        scale, offset = self._levels(graph, name, table, dim, columns)
        return graph.node(name, "Add", graph.node(f"{name}/scaled", "Mul", codes, scale), offset)

    def _codes(self, graph: Graph, name: str, kept: str, dim: int) -> str:
        """Kept rows uint8 [B, C, width] as codes, float32 [B, C, D]."""
        planes = low_bits.PLANES[self.bits]
        if self.bits == 8:
            return graph.node(f"{name}/codes", "Cast", kept, to=TensorProto.FLOAT)
        if self.bits == 4:
            return _halves(graph, name, kept, self.width(dim), dim)
        sizes = [low_bits.stride(plane, dim) for plane in planes]
        found, below = list[str](), 0
        for plane, part, size in zip(planes, graph.split(f"{name}/planes", kept, sizes, axis=2), sizes, strict=True):
            found.append(_neighbours(graph, f"{name}/plane.{plane}", part, plane, below, size, dim))
            below += plane
        return found[0] if len(found) == 1 else graph.node(f"{name}/codes", "Add", *found)

    def _levels(self, graph: Graph, name: str, table: str, dim: int, columns: Sequence[str]) -> tuple[str, str]:
        """Scales and offsets of each column of ids, float32 [C, D] each: scales are kept by field, [F, D].

        The scale of fields that take no part is 0, and their offset the centre.
        """
        parts: list[Part] = [low_bits.scale_name(feature, self.number) for feature in self.features]
        centres = [low_bits.centre_of(*self._grid(each), self.bits, self._where(each)) for each in self.features]
        if self.absent is not None:
            parts.append(np.zeros((1, dim), np.float32))
            centres.append(self.absent)
        kept = graph.table(f"{table}.scales", "float32", (dim,), parts, len(parts))
        places = {feature: place for place, feature in enumerate(self.features)}
        wanted = [places.get(feature, len(self.features)) for feature in columns]
        scale = graph.pick(f"{name}/scales", kept, wanted, len(parts), axis=0)
        centre = graph.constant(f"{name}/centres", np.array([[centres[place]] for place in wanted], np.float32))
        half = low_bits.half(self.bits)
        below = graph.node(
            f"{name}/below", "Mul", scale, graph.constant(f"number.half/{half}", np.array([half], np.float32))
        )
        return scale, graph.node(f"{name}/offsets", "Sub", centre, below)

    def _grid(self, feature: str) -> tuple[Array, Array]:
        scale, offset = (name(feature, self.number) for name in (low_bits.scale_name, low_bits.offset_name))
        return self.read(scale), self.read(offset)

    def _where(self, feature: str) -> str:
        return f"feature {feature!r}, table {self.number}"


def pack(codes: Codes, bits: int) -> Codes:
    """Codes [R, D] as kept rows, [R, width]."""
    found, below, rows = list[Codes](), 0, len(codes)
    for plane in low_bits.PLANES[bits]:
        size, together = low_bits.stride(plane, codes.shape[1]), 8 // plane
        whole = np.zeros((rows, size * together), np.uint8)
        whole[:, : codes.shape[1]] = codes >> below & (2**plane - 1)
        cut = whole.reshape(rows, together, size) if plane == 4 else whole.reshape(rows, size, together).swapaxes(1, 2)
        shifts = np.arange(0, 8, plane, dtype=np.uint8)[:, None]
        found.append(np.bitwise_or.reduce(cut << shifts, axis=1))
        below += plane
    return np.hstack(found)


def _halves(graph: Graph, name: str, kept: str, size: int, dim: int) -> str:
    """Bytes of two codes of 4 bits, [B, C, size] -> float32 [B, C, D]: all low ones, then all high ones."""
    fifteen, four = (graph.constant(f"number.byte/{number}", np.array(number, np.uint8)) for number in (15, 4))
    low = graph.node(f"{name}/low", "BitwiseAnd", kept, fifteen)
    high = graph.node(f"{name}/high", "BitShift", kept, four, direction="RIGHT")
    both = graph.pick(f"{name}/cut", graph.concat(f"{name}/both", [low, high], axis=2), range(dim), 2 * size, axis=2)
    return graph.node(f"{name}/codes", "Cast", both, to=TensorProto.FLOAT)


def _neighbours(graph: Graph, name: str, kept: str, plane: int, below: int, size: int, dim: int) -> str:
    """Bytes of neighbours of 2 bits or 1, [B, C, size], as codes times 2^below, float32 [B, C, D]."""
    codes = (np.arange(256)[:, None] >> np.arange(0, 8, plane) & (2**plane - 1)) << below
    known = graph.constant(f"{name}/known", codes.astype(np.float32))
    index = graph.node(f"{name}/index", "Cast", kept, to=TensorProto.INT32)
    whole = graph.node(f"{name}/neighbours", "Gather", known, index)
    flat = graph.node(f"{name}/flat", "Reshape", whole, graph.integers(0, 0, size * codes.shape[1]))
    return graph.pick(f"{name}/cut", flat, range(dim), size * codes.shape[1], axis=2)
