"""The reserve: ids that a vocabulary holds free at its first training, and the values of later rows that take them."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded
from ..protos.ids import MISSING, VocabularyValues, grow_vocabulary
from ..protos.schema import layout
from .fit import encode_table, fit_schema
from .recipe import FeatureConfig, Recipe

Grown = tuple[pb.Schema, dict[str, VocabularyValues], Encoded]
"""What fitting gives: the schema, the values of its vocabularies, and the encoded training rows."""


def fit_fresh(recipe: Recipe, table: pa.Table) -> Grown:
    """A schema fitted to training rows (fit.py), whose vocabularies hold the reserve that the recipe says."""
    schema, vocabularies, encoded = fit_schema(recipe.features, table)
    hold_reserve(schema, recipe)
    return schema, vocabularies, encoded


def hold_reserve(schema: pb.Schema, recipe: Recipe) -> None:
    """Give every fitted vocabulary the free ids that the recipe holds for it, rounded up."""
    for feature in schema.features:
        if feature.WhichOneof("encoding") == "vocabulary":
            own, field = recipe.features[feature.name].reserve, recipe.embedding.fields.get(feature.name)
            semantic = field is not None and field.scheme == "semantic"
            share = own if own is not None else 0.0 if semantic else recipe.embedding.reserve
            feature.vocabulary.reserve = math.ceil(round(share * feature.vocabulary.size, 6))


def grow_schema(
    before: pb.Schema,
    vocabularies: Mapping[str, VocabularyValues],
    features: Mapping[str, FeatureConfig],
    table: pa.Table,
) -> Grown:
    """A fitted schema for new training rows: values that are new and not rare take ids of the reserve.

    All else stays as it was fitted: ids of known values, means, scales, boundaries.
    """
    schema = pb.Schema()
    schema.CopyFrom(before)
    encoded, places, grown = encode_table(schema, features, table), layout(schema), dict[str, VocabularyValues]()
    for feature in schema.features:
        if feature.WhichOneof("encoding") == "vocabulary":
            start, length = places.slots[feature.name]
            raw, held = encoded.ids[:, start : start + length].ravel(), feature.vocabulary
            raw = raw[raw != MISSING] if feature.HasField("bag") else raw
            distinct, counts = np.unique(raw, return_counts=True)
            often = counts >= held.min_count
            known, room = vocabularies[feature.name], held.reserve
            values, turned_away = grow_vocabulary(known, distinct[often], counts[often], room)
            note_growth(held, len(values.values), turned_away)
            grown[feature.name] = values
    return schema, grown, encoded


def note_growth(held: pb.Vocabulary, size: int, turned_away: int) -> None:
    """Write down that a vocabulary has grown to `size` values, and how many more found no room."""
    taken = size - held.size
    held.size, held.reserve, held.taken = size, held.reserve - taken, held.taken + taken
    held.turned_away = turned_away


def told_growth(before: pb.Schema, after: pb.Schema) -> dict[str, dict[str, int]]:
    """What new rows did to each vocabulary: values that took an id, those that found none, and ids left."""
    return {
        new.name: {
            "new": new.vocabulary.taken - old.vocabulary.taken,
            "turned_away": new.vocabulary.turned_away,
            "left": new.vocabulary.reserve,
        }
        for old, new in zip(before.features, after.features, strict=True)
        if new.WhichOneof("encoding") == "vocabulary"
    }


def growth_lines(vocabularies: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What told_growth says, in words, of the vocabularies to which something was done."""
    for feature, told in vocabularies.items():
        if told["new"] or told["turned_away"]:
            line = f"{feature}: new values that took ids of the reserve: {told['new']:,}, ids left: {told['left']:,}"
            away = f"; {told['turned_away']:,} more found none and stay rare: train afresh, with a larger `reserve`"
            yield line + (away if told["turned_away"] else "")
