"""Columns on the wire: packed bytes become the encoder's columns, and back.

Legend: R rows; L values of a column: R, or a bag's items over all rows. All numbers are little-endian.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..protos import scoring_pb2 as pb
from ..protos.encode import Column
from ..protos.errors import InputError, WrongLength, WrongType

INT64, UINT32, FLOAT32, FLAG = (np.dtype(code) for code in ("<i8", "<u4", "<f4", "u1"))


def decode(column: pb.Column) -> Column:
    """The encoder's form of a column; numbers are views of its bytes, never copied one by one.

    Raises:
        WrongType: no values.
        WrongLength: bytes that are not whole values; strings or flags that do not add up.
        InputError: a flag that is neither 0 nor 1.
    """
    where = f"column {column.name!r}"
    kind = column.WhichOneof("values")
    lengths = packed(column.lengths, UINT32, f"{where}, lengths").astype(np.int64) if column.lengths else None
    if kind == "int64s":
        integers = packed(column.int64s, INT64, where)
        return Column(integers=integers, lengths=lengths, missing=_flags(column.missing, len(integers), where))
    if kind == "float32s":
        floats = packed(column.float32s, FLOAT32, where)
        return Column(floats=floats, lengths=lengths, missing=_flags(column.missing, len(floats), where))
    if kind == "strings":
        strings = split(column.strings, where)
        return Column(strings=strings, lengths=lengths, missing=_flags(column.missing, len(strings), where))
    raise WrongType(
        "a column has values: int64s, float32s or strings",
        found="none",
        where=where,
        remedy="Set one of the three, empty if there are no values",
    )


def encode(name: str, column: Column) -> pb.Column:
    """The wire's form of a column."""
    wire = pb.Column(name=name)
    if column.strings is not None:
        strings = column.strings
        if column.codes is not None:
            strings = [strings[code] for code in column.codes]
        wire.strings.CopyFrom(join(strings))
    elif column.integers is not None:
        wire.int64s = column.integers.astype(INT64).tobytes()
    elif column.floats is not None:
        wire.float32s = column.floats.astype(FLOAT32).tobytes()
    if column.lengths is not None:
        wire.lengths = column.lengths.astype(UINT32).tobytes()
    if column.missing is not None and column.missing.any():
        wire.missing = column.missing.astype(FLAG).tobytes()
    return wire


def packed(data: bytes, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    """A read-only view of packed numbers.

    Raises:
        WrongLength: the bytes are no whole number of values.
    """
    if len(data) % dtype.itemsize:
        raise WrongLength(
            f"packed {dtype.name} values have {dtype.itemsize} bytes each",
            found=f"{len(data)} bytes",
            where=where,
            remedy="Send the array's little-endian bytes, uncut",
        )
    return np.frombuffer(data, dtype)


def split(strings: pb.Strings, where: str) -> list[bytes]:
    """Strings that stand side by side, taken apart.

    Raises:
        WrongLength: the lengths do not add up to the bytes.
    """
    data = strings.data
    ends = np.cumsum(packed(strings.lengths, UINT32, f"{where}, string lengths"), dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if total != len(data):
        raise WrongLength(
            "the lengths of strings add up to their bytes",
            found=f"lengths of sum {total} over {len(data)} bytes",
            where=where,
            remedy="Send one length per string, in bytes of UTF-8",
        )
    stops = ends.tolist()
    return [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def join(strings: Sequence[bytes]) -> pb.Strings:
    """Strings side by side, with their lengths in bytes."""
    lengths = np.fromiter((len(each) for each in strings), UINT32, len(strings))
    return pb.Strings(data=b"".join(strings), lengths=lengths.tobytes())


def _flags(data: bytes, values: int, where: str) -> npt.NDArray[np.bool_] | None:
    if not data:
        return None
    if len(data) != values:
        raise WrongLength(
            "`missing` has one flag per value",
            found=f"{len(data)} flags for {values} values",
            where=where,
            remedy="Send one byte per value, or none at all",
        )
    flags = np.frombuffer(data, FLAG)
    if flags.max() > 1:
        raise InputError(
            "a flag of `missing` is 0 or 1", found=str(flags.max()), where=where, remedy="Send 1 for a missing value"
        )
    return flags.view(np.bool_)
