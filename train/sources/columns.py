"""Columns: whatever types a file has become the few that encoding takes, or one error that says where."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import numpy as np
import pyarrow as pa

from ...protos.errors import DataError

Type = Literal["string", "integer", "float"]

_EXACT = 2**53  # above it, a float64 skips integers


@dataclass(frozen=True)
class Request:
    """What is asked of a file.

    Attributes:
        features: the columns that features read.
        label: the column of 0 and 1.
        weight: the column of row weights, or None.
        group: the column of groups, or None.
        time: the column that rows are split by, or None; it is read as it stands.
        types: the type that a column's values are to have; a column not named keeps its file's.
        rows: at most so many rows, or None.
    """

    features: tuple[str, ...]
    label: str
    weight: str | None = None
    group: str | None = None
    time: str | None = None
    types: Mapping[str, Type] = field(default_factory=dict[str, Type])
    rows: int | None = None

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns of the result, each once: features, label, weight, group."""
        names = (*self.features, self.label, self.weight, self.group)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def read(self) -> tuple[str, ...]:
        """The columns to read: those kept, and the time."""
        return self.kept if self.time is None or self.time in self.kept else (*self.kept, self.time)


@dataclass(frozen=True)
class Place:
    """Where a value stands: a column of a file, after so many earlier rows."""

    source: str
    column: str
    before: int = 0

    def at(self, index: int) -> str:
        """The place of row `index` of the batch at hand, rows counted from 1."""
        return f"row {self.before + index + 1} of {self.source}, column {self.column!r}"

    def __str__(self) -> str:
        return f"{self.source}, column {self.column!r}"


def require(wanted: Iterable[str], present: Sequence[str], source: str) -> None:
    """Refuse a file that lacks a wanted column, or has it twice.

    Raises:
        DataError: names the column, the closest match and the columns that are there.
    """
    for name in wanted:
        if present.count(name) > 1:
            raise DataError(
                "every column has a name of its own",
                found=f"{present.count(name)} columns {name!r}",
                where=source,
                remedy="Rename all but one",
            )
        if name not in present:
            close = get_close_matches(name, present, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise DataError(
                "every column that the recipe names is in the data",
                found=f"no column {name!r}{hint}; there are {', '.join(present)}",
                where=source,
                remedy=f"Correct the name in the recipe, or add a column {name!r} to the file",
            )


def conform(array: pa.Array, declared: Type | None, place: Place) -> pa.Array:
    """One column as int64, float32, string, or a list of int64 or string; missing values stay null.

    NaN is missing. Text is parsed where numbers are declared, and floats become integers where integers are and
    each is one; numbers never become text, and a list keeps its own type.

    Args:
        array: (N,) values as the file has them.
        declared: what the values are to be, or None for what they are.
        place: the column, for errors.

    Raises:
        DataError: a value or a type that does not fit.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = array.type
    whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    if declared == "string" and (whole or pa.types.is_floating(kind)):
        raise DataError(
            "a feature of strings reads text",
            found=f"a column of type {kind}",
            where=str(place),
            remedy='Say values = "integer" where it holds ids, or write the column as text',
        )
    if whole:
        integers = _cast(array, pa.int64(), place, "an integer column holds int64 values")
        return _floats(array, integers, place) if declared == "float" else integers
    if pa.types.is_floating(kind):
        return _integers(array, place) if declared == "integer" else _floats(array, array, place)
    if _is_text(kind):
        text = _cast(array, pa.string(), place, "text is UTF-8")
        if declared == "integer":
            return _cast(text, pa.int64(), place, "a value of an integer column is a 64-bit integer")
        if declared == "float":
            return _floats(text, _cast(text, pa.float64(), place, "a value of a float column is a number"), place)
        return text
    if pa.types.is_null(kind) and declared is not None:
        target = {"integer": pa.int64(), "float": pa.float32(), "string": pa.string()}[declared]
        return array.cast(target)
    if _is_list(kind) and pa.types.is_integer(kind.value_type):
        return _cast(array, pa.list_(pa.int64()), place, "the ids of a bag are int64 values")
    if _is_list(kind) and _is_text(kind.value_type):
        return _cast(array, pa.list_(pa.string()), place, "text is UTF-8")
    raise DataError(
        "a column holds integers, floats or text, or lists of integers or text",
        found=f"a column of type {kind}" + (f" where the recipe says {declared}" if declared else ""),
        where=str(place),
        remedy="Write it with another type, or leave it out of the recipe",
    )


def check_labels(labels: pa.Array, raw: pa.Array, place: Place) -> None:
    """Refuse a label that is neither 0 nor 1.

    Args:
        labels: (N,) float32.
        raw: (N,) the same values as the file has them, for the error.
        place: the column, for errors.
    """
    values = labels.to_numpy(zero_copy_only=False)
    _refuse(
        ~((values == 0) | (values == 1)),
        raw,
        place,
        rule="a label is 0 or 1",
        remedy="Write the label as 0 or 1, drop the row, or name another column in data.label",
    )


def check_weights(weights: pa.Array, raw: pa.Array, place: Place) -> None:
    """Refuse a sample weight that is missing or negative; arguments as for `check_labels`."""
    values = weights.to_numpy(zero_copy_only=False)
    _refuse(
        ~(values >= 0),
        raw,
        place,
        rule="a sample weight is a number that is not negative",
        remedy="Correct or drop the row, or name another column in data.sample_weight",
    )


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _cast(array: pa.Array, target: pa.DataType, place: Place, rule: str) -> pa.Array:
    try:
        return array.cast(target)
    except pa.ArrowInvalid:
        bad = np.array([not _casts(value, target) for value in array])
        _refuse(
            bad, array, place, rule=rule, remedy="Correct the value, or give the feature another type in the recipe"
        )
        raise


def _casts(value: pa.Scalar, target: pa.DataType) -> bool:
    try:
        value.cast(target)
    except pa.ArrowInvalid:
        return False
    return True


def _floats(raw: pa.Array, numbers: pa.Array, place: Place) -> pa.Array:
    # By way of float64 from every type: the same number gives the same float32 whether a file has it as text or not.
    values = numbers.to_numpy(zero_copy_only=False).astype(np.float64)  # a null becomes NaN
    _refuse(
        np.abs(values) > np.finfo(np.float32).max,
        raw,
        place,
        rule="a value of a float column fits float32",
        remedy="Correct the value; leave it empty where it is not known",
    )
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def _integers(array: pa.Array, place: Place) -> pa.Array:
    values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    missing = np.isnan(values)
    whole = (values == np.floor(values)) & (np.abs(values) <= _EXACT)
    _refuse(
        ~(missing | whole),
        array,
        place,
        rule="a value of an integer column is an integer; as a float, at most 2^53",
        remedy="Write the column as integers, or give the feature another type in the recipe",
    )
    return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)


def _refuse(bad: np.ndarray, raw: pa.Array, place: Place, *, rule: str, remedy: str) -> None:
    if not bad.any():
        return
    index = int(bad.argmax())
    value = raw[index].as_py()
    found = "a missing value" if value is None else repr(value)
    raise DataError(rule, found=found[:80], where=place.at(index), remedy=remedy)
