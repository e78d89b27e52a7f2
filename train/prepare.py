"""Prepare: a recipe's rows become a schema, its vocabularies and classes, and the tensors that training reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded
from ..protos.errors import DataError
from ..protos.ids import Int64s
from .columns import column_types
from .data import DataConfig, Facts, read
from .features import Rows, Vocabularies, encode_table, fit_schema, groups_of, model_rows, numbers_of
from .recipe import Recipe
from .semantic import Semantics, read_semantics

CALIBRATION_ROWS, VALIDATION_ROWS, REFERENCE_ROWS = 4096, 65_536, 2048


@dataclass(frozen=True)
class Kept:
    """Rows of a split that stay as a graph takes them, evenly spaced, in order.

    places: (R,) int64, their numbers in the split. raw: R rows.
    """

    places: Int64s
    raw: Encoded


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs of the data; the raw tables are let go.

    semantics: the classes of the fields whose scheme is semantic. heldout: the test rows, or the validation rows where
    there is no test split. calibration, validation, reference: of train, valid and heldout, what a run directory keeps.
    """

    schema: pb.Schema
    vocabularies: Vocabularies
    semantics: Mapping[str, Semantics]
    train: Rows
    valid: Rows
    heldout: Rows
    calibration: Kept
    validation: Kept
    reference: Kept
    facts: Facts


def prepare(recipe: Recipe, base: Path) -> Prepared:
    """Read, fit and encode the rows of a recipe whose relative paths start from `base`.

    Raises:
        DataError: rows that break a rule; validation rows of one class.
        InputError: a bag or an id that the schema refuses.
        WrongClasses, NotComplementary: see semantic.py.
    """
    data, features = recipe.data, recipe.features
    splits = read(data, list(features), base, column_types(features))
    schema, vocabularies, encoded = fit_schema(features, splits.train)
    if len(splits.train) < 2:
        raise DataError(
            "there are at least two rows to learn from", found=str(len(splits.train)), where="training split"
        )
    semantics = read_semantics(recipe.embedding, features, base, schema, vocabularies, splits.train)
    train = _rows(data, schema, vocabularies, encoded, splits.train)
    heldout_table = splits.valid if splits.test is None else splits.test
    heldout_raw = encode_table(schema, features, heldout_table)
    heldout = _rows(data, schema, vocabularies, heldout_raw, heldout_table)
    valid, valid_raw = heldout, heldout_raw
    if splits.test is not None:
        valid_raw = encode_table(schema, features, splits.valid)
        valid = _rows(data, schema, vocabularies, valid_raw, splits.valid)
    _check_classes(valid)
    kept = (
        keep(encoded, CALIBRATION_ROWS),
        keep(valid_raw, VALIDATION_ROWS),
        keep(heldout_raw, REFERENCE_ROWS),
    )
    return Prepared(schema, vocabularies, semantics, train, valid, heldout, *kept, splits.facts)


def keep(raw: Encoded, most: int) -> Kept:
    """At most so many rows, from the first to the last."""
    count = len(raw.ids)
    places = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
    return Kept(places, Encoded(raw.ids[places], raw.dense[places]))


def _rows(data: DataConfig, schema: pb.Schema, vocabularies: Vocabularies, encoded: Encoded, table: pa.Table) -> Rows:
    weights = numbers_of(table, data.sample_weight) if data.sample_weight else None
    groups = groups_of(table, data.group) if data.group else None
    return model_rows(schema, vocabularies, encoded, numbers_of(table, data.label), weights, groups)


def _check_classes(valid: Rows) -> None:
    counted = valid.labels if valid.weights is None else valid.labels[valid.weights > 0]
    if len(torch.unique(counted)) < 2:
        raise DataError(
            "validation rows hold clicks and non-clicks, so that an AUC exists",
            found=f"{len(counted)} rows of one class",
            where="validation split",
            remedy="Take more rows, or another split",
        )
