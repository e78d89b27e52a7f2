"""Codes: how packed tables are kept, in float32, float16 or int8 with scales, chosen by their bytes and their error.

Those of few bits are kept as they were trained: see grids.py.

Vectors are gathered as they are kept and made float32 after that, so that a request reads no more than its own rows.
Scales are of the whole range and clip nothing: in trained tables the greatest rows are those of frequent ids, and the
clipping that makes the mean error over all rows least made that over the rows of requests up to 20 times as great.
Legend: B rows of a request; C columns of ids; D width of a vector; R rows of a stretch.
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ..protos import manifest_pb2 as pb
from ..protos import packing
from .graph import Array, Coded, Graph, Part
from .grids import Grid
from .tensors import Tensors

Floats = npt.NDArray[np.float32]

LEVELS = 127  # int8 without -128: codes of x and -x are opposite
STEP = 1.0442737824274138  # 2^(1/16): the scales of rows are 1, STEP, STEP^2 … times smaller than the greatest
STEPS = 255  # then the scale 1, of the neutral row: 256 in all, down to 2^-15.9 of the greatest
TINIEST = float(np.finfo(np.float32).tiny)
# The error that a code may have in any of a packed table's fields, relative, over all rows. Rounding to float16 alone
# stays within 2^-11: beyond it numbers have left its range. In int8, rows of frequent ids are half as wrong.
HALF_ERROR, INT8_ERROR = 2.0**-11, 2.0**-5


@dataclass(frozen=True)
class Kept:
    """How one packed table is kept: the tables of one partition of a group.

    code: CODE_UNSPECIFIED for float32.
    scales: FIELD_SCALE: the scale of each feature's table.
    greatest: ROW_SCALE: the greatest scale of a row.
    """

    code: pb.Code = pb.CODE_UNSPECIFIED
    scales: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    greatest: float = 0

    @property
    def dtype(self) -> str:
        """Of the numbers in `tables.bin`."""
        return {pb.CODE_UNSPECIFIED: "float32", pb.HALF: "float16"}.get(self.code, "int8")

    @cached_property
    def ladder(self) -> Floats:
        """ROW_SCALE: the scales of rows by their last byte, [256]: falling from the greatest, then 1."""
        falling = itertools.accumulate([self.greatest] + [STEP] * (STEPS - 1), operator.truediv)
        return np.array([*(max(scale, TINIEST) for scale in falling), 1], np.float32)

    def width(self, dim: int) -> int:
        """Numbers of a kept row of D: D, and a byte for its scale."""
        return dim + (self.code == pb.ROW_SCALE)

    def part(self, feature: str, tensor: str) -> Part:
        """A feature's table as a part of the packed one."""
        return Coded(tensor, partial(self.encode, feature)) if self.code else tensor

    def neutral(self, dim: int, *, ones: bool) -> Array:
        """The row of fields that take no part, exactly ones or zeros: [1, width]."""
        row = np.full((1, self.width(dim)), ones, self.dtype)
        if self.code == pb.ROW_SCALE:
            row[0, -1] = -1
        return row

    def encode(self, feature: str, rows: Floats) -> Array:
        """Rows [R, D] of a feature's table as they are kept, [R, width]."""
        if self.code == pb.HALF:
            with np.errstate(over="ignore"):  # infinity is an error that `choose` sees
                return rows.astype(np.float16)
        if self.code == pb.FIELD_SCALE:
            return _levels(rows, np.float32(self.scales[feature]))
        if self.code == pb.ROW_SCALE:
            scales = self.ladder[:STEPS]
            wanted = np.max(np.abs(rows), axis=1) / np.float32(LEVELS)
            steps = np.searchsorted(-scales, -wanted, side="right") - 1  # the least scale that clips nothing
            return np.hstack([_levels(rows, scales[steps, None]), steps.astype(np.uint8).view(np.int8)[:, None]])
        return rows

    def decode(self, feature: str, kept: Array) -> Floats:
        """Kept rows [R, width] as a graph decodes them, [R, D]."""
        if self.code == pb.FIELD_SCALE:
            return kept.astype(np.float32) * np.float32(self.scales[feature])
        if self.code == pb.ROW_SCALE:
            return kept[:, :-1].astype(np.float32) * self.ladder[kept[:, -1], None]
        return kept.astype(np.float32)

    def gather(self, graph: Graph, name: str, table: str, rows: str, dim: int, columns: Sequence[str]) -> str:
        """Rows of the packed table: int64 [B, C] -> float32 [B, C, D].

        Args:
            graph: gets the nodes.
            name: of the vectors.
            table: the packed table.
            rows: the rows' numbers.
            dim: D.
            columns: the feature of each column.
        """
        if not self.code:
            return graph.node(name, "Gather", table, rows)
        kept = graph.node(f"{name}/kept", "Gather", table, rows)
        if self.code == pb.HALF:
            return graph.node(name, "Cast", kept, to=TensorProto.FLOAT)
        if self.code == pb.FIELD_SCALE:
            # A feature without a table here has the neutral row, of codes 0 or 1.
            scales = np.array([self.scales.get(feature, 1) for feature in columns], np.float32)
            scale = graph.constant(f"{name}/scales", scales)
            if len(columns) > 1:
                return graph.node(name, "DequantizeLinear", kept, scale, axis=1)
            # ONNX Runtime 1.31 takes a scale of one number for one of the whole tensor, and moves its node past others,
            # after which axis 1 is another one: results are wrong.
        else:
            kept, step = graph.split(f"{name}/parts", kept, [dim, 1], axis=2)
            index = graph.node(f"{name}/index", "Cast", step, to=TensorProto.INT32)  # below 0: counted from the end
            scale = graph.node(f"{name}/scales", "Gather", graph.constant(f"{name}/ladder", self.ladder), index)
        codes = graph.node(f"{name}/codes", "Cast", kept, to=TensorProto.FLOAT)
        return graph.node(name, "Mul", codes, scale)


@dataclass(frozen=True)
class Codes:
    """How the packed tables of an export are kept.

    kept: by a group's label ("embedding.0") and the partition's number; float32 where there is none.
    tables: of every table that is not float32, for the manifest.
    """

    kept: Mapping[tuple[str, int], Kept | Grid] = field(default_factory=lambda: MappingProxyType({}))
    tables: tuple[pb.TableCode, ...] = ()

    def of(self, label: str, partition: int) -> Kept | Grid:
        """How a packed table is kept."""
        return self.kept.get((label, partition), Kept())


FLOATS = Codes()  # all tables in float32


def choose(number: pb.Number, fields: Mapping[str, Sequence[pb.Field]], weights: Tensors) -> Codes:
    """Choose the code of every packed table: the one of fewest bytes whose error is within its bound in every field.

    FP16 tries HALF; INT8 tries FIELD_SCALE, ROW_SCALE where a row takes fewer bytes than with HALF (D > 1), then HALF.
    What no code holds stays float32: infinities, numbers beyond float16. So do functions' weights (PATH). Tables of few
    bits are kept in those bits, whatever the number.

    Args:
        number: of the tables.
        fields: the plan's fields by the prefix of their tables' names: "embedding", "first_order".
        weights: of the run; read a stretch at a time.
    """
    kept, tables = dict[tuple[str, int], Kept | Grid](), list[pb.TableCode]()
    for prefix, several in fields.items():
        for g, group in enumerate(packing.groups(several)):
            for j, bits in enumerate(group.bits):
                members = [several[position] for position in group.fields if len(several[position].tables) > j]
                tensors = {each.feature: f"{prefix}.{each.feature}.{j}" for each in members}
                if bits:
                    code, errors = _grid(group, j, list(tensors), weights), dict.fromkeys(tensors, 0.0)
                elif number == pb.FP32 or group.combine == pb.PATH:
                    continue
                else:
                    code, errors = _choose(number, members[0].tables[j].dim, tensors, weights)
                if code.code:
                    kept[f"{prefix}.{g}", j] = code
                    tables += [pb.TableCode(tensor=tensors[f], code=code.code, error=e) for f, e in errors.items()]
    return Codes(kept, tuple(tables))


def _grid(group: packing.Group, partition: int, features: Sequence[str], weights: Tensors) -> Grid:
    """How a packed table of few bits is kept."""
    absent = float(group.combine == pb.MULT) if len(features) < len(group.fields) else None
    return Grid(group.bits[partition], partition, tuple(features), absent, weights.read)


def _choose(number: pb.Number, dim: int, tensors: Mapping[str, str], weights: Tensors) -> tuple[Kept, dict[str, float]]:
    """The code of one packed table, and each feature's error."""
    tries = list[tuple[Kept, float]]()
    if number == pb.INT8:
        scales = {feature: _scale(weights, tensor) for feature, tensor in tensors.items()}
        if np.isfinite(list(scales.values())).all():
            tries.append((Kept(pb.FIELD_SCALE, MappingProxyType(scales)), INT8_ERROR))
            if dim > 1:
                tries.append((Kept(pb.ROW_SCALE, greatest=max(scales.values())), INT8_ERROR))
    for kept, bound in [*tries, (Kept(pb.HALF), HALF_ERROR)]:
        errors = {feature: _error(weights, tensor, kept, feature) for feature, tensor in tensors.items()}
        if all(error <= bound for error in errors.values()):
            return kept, errors
    return Kept(), {}


def _scale(weights: Tensors, tensor: str) -> float:
    """The scale that maps a table's greatest number to the last level."""
    greatest = np.max([np.abs(stretch).max() for stretch in weights.stretches(tensor)])  # not a number, if one is none
    return float(np.maximum(greatest / np.float32(LEVELS), np.float32(TINIEST)))


def _error(weights: Tensors, tensor: str, kept: Kept, feature: str) -> float:
    """Root mean square of (kept - trained) over that of trained, to three digits: sums differ between processors."""
    wrong = whole = 0.0
    for stretch in weights.stretches(tensor):
        trained = stretch.astype(np.float64)
        with np.errstate(invalid="ignore"):  # the difference of infinities
            wrong += float(np.square(kept.decode(feature, kept.encode(feature, stretch)) - trained).sum())
        whole += float(np.square(trained).sum())
    return float(f"{np.sqrt(wrong / whole):.2e}") if wrong else 0.0


def _levels(rows: Floats, scale: Floats | np.float32) -> Array:
    return np.rint(rows / scale).astype(np.int8)
