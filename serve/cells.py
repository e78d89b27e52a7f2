"""Cells: one feature's values out of a file, as text or as JSON and Parquet type them, become a column.

Legend: R cells; L items of a bag over them.
"""

import re
from collections.abc import Sequence
from math import isnan

import numpy as np

from ..protos import manifest_pb2 as pb
from ..protos.encode import Column
from ..protos.errors import OutOfRange, WrongType

INTEGER = re.compile(r"\s*[+-]?[0-9]{1,30}\s*")
EXACT = 2**53  # beyond it, not every integer is a float
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def column(feature: pb.Feature, values: Sequence[object], where: Sequence[str]) -> Column:
    """A column of R cells, `None` where a value is missing; a missing bag is an empty one.

    Args:
        feature: whose cells they are.
        values: the cells.
        where: the place of each, for errors.

    Raises:
        WrongType, OutOfRange: a value that the feature cannot take.
    """
    lengths = None
    if feature.HasField("bag"):
        bags = [_items(feature, value, place) for value, place in zip(values, where, strict=True)]
        lengths = np.array([len(bag) for bag in bags], np.int64)
        where = [place for bag, place in zip(bags, where, strict=True) for _ in bag]
        values = [item for bag in bags for item in bag]
    values = [None if isinstance(value, float) and isnan(value) else value for value in values]
    missing = np.array([value is None for value in values], np.bool_)
    pairs = zip(values, where, strict=True)
    if feature.values == pb.INTEGER:
        return Column(
            integers=np.array([_integer(feature, value, place) for value, place in pairs], np.int64),
            lengths=lengths,
            missing=missing,
        )
    if feature.values == pb.STRING:
        return Column(strings=[_string(feature, *pair) for pair in pairs], lengths=lengths, missing=missing)
    floats = np.array([_float(feature, *pair) for pair in pairs], np.float64)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the server refuses
        return Column(floats=floats.astype(np.float32), lengths=lengths)


def _items(feature: pb.Feature, value: object, where: str) -> Sequence[object]:
    delimiter = feature.bag.delimiter or " "
    if value is None:
        return ()
    if isinstance(value, str):
        return [item for item in value.split(delimiter) if item]
    if isinstance(value, list):
        return value
    raise _wrong(feature, f"a list, or a string with {delimiter!r} between the values", value, where)


def _integer(feature: pb.Feature, value: object, where: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer() and abs(value) <= EXACT):
        value = int(value)  # as training takes the columns that data frames write
    if isinstance(value, str) and INTEGER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(feature, "an integer", value, where)
    if not INT64_MIN <= value <= INT64_MAX:
        raise OutOfRange(
            "an integer fits 64 bits with a sign",
            found=str(value)[:64],
            where=f"{where}, column {feature.name!r}",
            remedy="Subtract 2^64 from unsigned values of 2^63 and more, as in training",
        )
    return value


def _string(feature: pb.Feature, value: object, where: str) -> bytes:
    if value is None:
        return b""
    try:
        if isinstance(value, str):
            return value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        pass
    raise _wrong(feature, "a string", value, where)


def _float(feature: pb.Feature, value: object, where: str) -> float:
    if value is None:
        return float("nan")
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise _wrong(feature, "a number", value, where)


def _wrong(feature: pb.Feature, expected: str, value: object, where: str) -> WrongType:
    return WrongType(
        f"feature {feature.name!r} takes {expected}",
        found=repr(value)[:64],
        where=f"{where}, column {feature.name!r}",
        remedy="Mend the value, or leave it empty (null in JSON) if it is not known",
    )
