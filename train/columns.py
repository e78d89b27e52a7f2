"""Columns: from Arrow columns of a data source to the columns that the one encoder takes."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..protos.encode import Column
from ..protos.errors import DataError
from .recipe import FeatureConfig
from .sources.columns import Type


def column_types(features: Mapping[str, FeatureConfig]) -> dict[str, Type]:
    """Column -> "string", "integer" or "float", for sources of plain text; a bag is text until it is split."""
    types = dict[str, Type]()
    for name, config in features.items():
        if config.kind == "dense":
            types[name] = "float"
        else:
            types[name] = "integer" if config.integers and config.kind == "categorical" else "string"
    return types


def to_columns(table: pa.Table, features: Mapping[str, FeatureConfig]) -> dict[str, Column]:
    """Every feature's column of a table, R rows.

    Raises:
        DataError: a column of another type than its feature's.
    """
    return {name: _column(name, config, table.column(name).combine_chunks()) for name, config in features.items()}


def _column(name: str, config: FeatureConfig, values: pa.Array) -> Column:
    if config.kind == "dense":
        if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            raise _mismatch(name, "numbers", values.type, "Make it categorical, or clean the column")
        floats = pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        return Column(floats=np.ascontiguousarray(floats, np.float32))
    if config.kind == "categorical":
        return _flat(name, config, values)
    text = pa.types.is_string(values.type)
    if text:
        values = pc.call_function("split_pattern", [values], pc.SplitPatternOptions(config.delimiter))
    if not pa.types.is_list(values.type):
        raise _mismatch(name, "lists, or strings to split", values.type, 'Make it kind = "categorical"')
    lengths = pc.fill_null(pc.call_function("list_value_length", [values]), 0)
    items = values.flatten()
    if text:
        items = _parse_integers(name, _without_empty(items)) if config.integers else _without_empty(items)
    flat = _flat(name, config, items)
    return replace(flat, lengths=lengths.to_numpy(zero_copy_only=False).astype(np.int64))


def _flat(name: str, config: FeatureConfig, values: pa.Array) -> Column:
    missing = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
    if config.integers:
        if not pa.types.is_integer(values.type):
            raise _mismatch(name, "integers", values.type, 'Say values = "string", or clean the column')
        return Column(integers=pc.fill_null(values, 0).cast(pa.int64()).to_numpy(zero_copy_only=False), missing=missing)
    if not pa.types.is_string(values.type):
        raise _mismatch(name, "strings", values.type, 'Say values = "integer" where the column holds integers')
    coded = pc.fill_null(values, "").dictionary_encode()
    strings = [each.encode() for each in coded.dictionary.to_pylist()]
    return Column(strings=strings, codes=coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), missing=missing)


def _without_empty(items: pa.Array) -> pa.Array:
    """What stands between two delimiters that touch is no item: missing."""
    coded = items.dictionary_encode()
    return pc.take(pa.array([each or None for each in coded.dictionary.to_pylist()], pa.string()), coded.indices)


def _parse_integers(name: str, items: pa.Array) -> pa.Array:
    try:
        return pc.cast(items, pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"bag {name!r} holds integers between its delimiters",
            found=str(error),
            where=f"column {name!r}",
            remedy='Say values = "string", or clean the column',
        ) from None


def _mismatch(name: str, expected: str, found: pa.DataType, remedy: str) -> DataError:
    return DataError(
        f"feature {name!r} is a column of {expected}", found=str(found), where=f"column {name!r}", remedy=remedy
    )
