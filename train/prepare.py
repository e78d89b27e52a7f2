"""Prepare: a recipe's rows become a schema, its vocabularies and classes, and the tensors that training reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded
from ..protos.errors import DataError
from .columns import column_types
from .data import DataConfig, Facts, read
from .encode.prepared import Opened
from .encode.source import Cached
from .features import Rows, Vocabularies, groups_of, model_rows, numbers_of
from .fit import encode_table
from .kept import CALIBRATION_ROWS, REFERENCE_ROWS, VALIDATION_ROWS, Kept, keep
from .recipe import Recipe
from .reserve import Grown, fit_fresh, hold_reserve
from .semantic import Semantics, read_semantics


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs of the data; the raw tables are let go.

    semantics: the classes of the fields whose scheme is semantic. train: in memory, or in a cache. heldout: the test
    rows, or the validation rows where there is no test split. calibration, validation, reference: of train, valid and
    heldout, what a run directory keeps.
    """

    schema: pb.Schema
    vocabularies: Vocabularies
    semantics: Mapping[str, Semantics]
    train: Rows | Cached
    valid: Rows
    heldout: Rows
    calibration: Kept
    validation: Kept
    reference: Kept
    facts: Facts


def prepare(
    recipe: Recipe, base: Path, fit: Callable[[Recipe, pa.Table], Grown] = fit_fresh, origin: str = ""
) -> Prepared:
    """Read, fit and encode the rows of a recipe whose relative paths start from `base`; or open the cache it names.

    Args:
        recipe: whose rows.
        base: a directory.
        fit: what makes the schema, vocabularies and encoded rows of the training rows; a cache has them.
        origin: digest of the run that `fit` goes on from, "" for none; a cache must have been encoded from it.

    Raises:
        DataError: rows that break a rule; validation rows of one class.
        InputError: a bag or an id that the schema refuses.
        WrongClasses, NotComplementary: see semantic.py. ArtifactError, RecipeError: a cache, see encode/prepared.py.
    """
    data, features = recipe.data, recipe.features
    if data.cache is not None:
        return _from_cache(recipe, base, origin)
    splits = read(data, list(features), base, column_types(features))
    schema, vocabularies, encoded = fit(recipe, splits.train)
    if len(splits.train) < 2:
        raise _too_few(len(splits.train))
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


def _from_cache(recipe: Recipe, base: Path, origin: str) -> Prepared:
    opened = Opened(recipe, base, origin)
    schema = opened.cache.fitted()
    if not origin:
        hold_reserve(schema, recipe)
    semantics = read_semantics(recipe.embedding, recipe.features, base, schema, opened.vocabularies, None)
    train, valid = opened.split("train"), opened.split("valid").in_memory()
    if len(train) < 2:
        raise _too_few(len(train))
    _check_classes(valid)
    heldout = opened.split("test").in_memory() if "test" in opened.cache.splits else valid
    kept = (opened.kept("calibration"), opened.kept("validation"), opened.kept("reference"))
    return Prepared(schema, opened.vocabularies, semantics, train, valid, heldout, *kept, opened.facts)


def _too_few(rows: int) -> DataError:
    return DataError("there are at least two rows to learn from", found=str(rows), where="training split")


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
