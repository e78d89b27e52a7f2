"""Split: which rows of one file are train, valid and test, by share or by time."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...protos.errors import DataError
from .counter import bits, stream

Index = NDArray[np.int64]


class _Shares(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    valid: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if Fraction(repr(self.valid)) + Fraction(repr(self.test)) >= 1:
            raise ValueError(
                f"valid and test leave rows to train on; found valid = {self.valid} and test = {self.test}; lower one"
            )
        return self


class ByShare(_Shares):
    """`{ by = "share", valid = 0.1, test = 0.1, seed = 1 }`: rows drawn at random, each split in file order."""

    by: Literal["share"]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1


class ByTime(_Shares):
    """`{ by = "time", column = "timestamp", valid = 0.1, test = 0.1 }`: the newest rows are test, then valid."""

    by: Literal["time"]
    column: str


Split = Annotated[ByShare | ByTime, Field(discriminator="by")]


def by_share(rows: int, split: ByShare) -> Mapping[str, Index]:
    """The rows of each split, drawn with the split's seed.

    Args:
        rows: how many there are.
        split: the shares and the seed.

    Returns:
        For train, valid and test the row numbers (n,) int64, ascending; together each row once.
    """
    order = np.argsort(bits(stream(split.seed), np.arange(rows, dtype=np.uint64)), kind="stable")
    return _cut(order, split)


def by_time(times: pa.ChunkedArray, split: ByTime, source: str) -> Mapping[str, Index]:
    """The rows of each split: the newest are test, the next newest valid; of equal times the later row is newer.

    Args:
        times: (N,) integers, floats, timestamps, dates, or text of numbers or of ISO 8601 times.
        split: the shares and the column.
        source: the file, for errors.

    Returns:
        As `by_share`.

    Raises:
        DataError: a time is missing, or the column holds no times.
    """
    values = _comparable(times, f"{source}, column {split.column!r}")
    return _cut(np.argsort(values, kind="stable"), split)


def sizes(rows: int, split: ByShare | ByTime) -> tuple[int, int, int]:
    """How many of so many rows are train, valid and test."""
    test, valid = (math.floor(Fraction(repr(share)) * rows) for share in (split.test, split.valid))
    return rows - test - valid, valid, test


def _cut(order: NDArray[np.intp], split: ByShare | ByTime) -> Mapping[str, Index]:
    train, valid, _ = sizes(len(order), split)
    parts = {"train": order[:train], "valid": order[train : train + valid], "test": order[train + valid :]}
    return {name: np.sort(part).astype(np.int64) for name, part in parts.items()}


def _comparable(times: pa.ChunkedArray, where: str) -> np.ndarray:
    kind = times.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        times = _parsed(times, where)
        kind = times.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)):
        raise _not_times(f"a column of type {kind}", where)
    missing = times.is_null(nan_is_null=True).to_numpy()
    if missing.any():
        raise DataError(
            "every row has a time where rows are split by time",
            found="a missing value",
            where=f"row {int(missing.argmax()) + 1} of {where}",
            remedy='Fill it in or drop the row, or split by = "share"',
        )
    return times.to_numpy()


def _parsed(times: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    for target in (pa.int64(), pa.float64(), pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return times.cast(target)
        except pa.ArrowInvalid:
            continue
    raise _not_times("text such as " + repr(next((value.as_py() for value in times if value.is_valid), ""))[:60], where)


def _not_times(found: str, where: str) -> DataError:
    return DataError(
        "a time column holds numbers, or times in ISO 8601 (2024-05-31 23:59:59)",
        found=found,
        where=where,
        remedy='Rewrite the column, name another in data.split.column, or split by = "share"',
    )
