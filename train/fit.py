"""Fit: a recipe's features and its training rows become a schema: vocabularies, means, scales, boundaries."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded, encode
from ..protos.ids import MISSING, VocabularyValues, count_vocabulary
from ..protos.schema import layout
from .columns import to_columns
from .recipe import FeatureConfig

SIDES = {"context": pb.CONTEXT, "candidate": pb.CANDIDATE}
TRANSFORMS = {"none": pb.NONE, "log1p": pb.LOG1P, "standard": pb.STANDARD}


def provisional_schema(features: Mapping[str, FeatureConfig]) -> pb.Schema:
    """The schema before it has seen a row: vocabularies and boundaries are empty."""
    schema = pb.Schema()
    for name, config in features.items():
        feature = schema.features.add(name=name, side=SIDES[config.side])
        if config.kind == "dense":
            feature.values = pb.FLOAT
            if config.transform == "bucket":
                feature.bucket.SetInParent()
            else:
                feature.dense.CopyFrom(
                    pb.Dense(transform=TRANSFORMS[config.transform], missing=config.missing, scale=1)
                )
            continue
        feature.values = pb.INTEGER if config.integers else pb.STRING
        if config.encoding == "id":
            feature.id.first, feature.id.size = config.first, config.size or 0
            feature.id.out_of_range = pb.ERROR if config.out_of_range == "error" else pb.RARE
        elif config.encoding == "hash":
            feature.hash.buckets, feature.hash.seed = int(config.buckets or 0), config.seed
        else:
            feature.vocabulary.min_count = config.min_count
        if config.kind == "bag":
            feature.bag.max_length = config.max_length or 0
            feature.bag.pooling = pb.MEAN if config.pooling == "mean" else pb.SUM
            feature.bag.delimiter = config.delimiter
    return schema


def encode_table(schema: pb.Schema, features: Mapping[str, FeatureConfig], table: pa.Table) -> Encoded:
    """A table's rows as a graph takes them; over-long bags are cut."""
    return encode(schema, to_columns(table, features), table.num_rows, long_bags="cut")


def fit_schema(
    features: Mapping[str, FeatureConfig], table: pa.Table
) -> tuple[pb.Schema, dict[str, VocabularyValues], Encoded]:
    """Fit vocabularies, means, scales and boundaries to the training rows.

    Returns:
        The schema, the values of its vocabularies, and the encoded training rows.
    """
    schema = provisional_schema(features)
    encoded = encode_table(schema, features, table)
    places, vocabularies = layout(schema), dict[str, VocabularyValues]()
    for feature in schema.features:
        kind = feature.WhichOneof("encoding")
        if kind == "vocabulary":
            start, length = places.slots[feature.name]
            raw = encoded.ids[:, start : start + length].ravel()
            counted = count_vocabulary(
                raw[raw != MISSING] if feature.HasField("bag") else raw, feature.vocabulary.min_count
            )
            vocabularies[feature.name] = counted
            feature.vocabulary.size = len(counted.values)
        elif needs_numbers(feature):
            fit_numbers(feature, features[feature.name], encoded.dense[:, places.dense[feature.name]])
    return schema, vocabularies, encoded


def needs_numbers(feature: pb.Feature) -> bool:
    """Whether a feature is fitted to numbers: buckets and standardised ones are."""
    return feature.WhichOneof("encoding") == "bucket" or feature.dense.transform == pb.STANDARD


def fit_numbers(feature: pb.Feature, config: FeatureConfig, numbers: npt.NDArray[np.float32]) -> None:
    """Set the boundaries, or mean and scale, of a feature from its training numbers, (N,) float32, NaN = missing."""
    if feature.WhichOneof("encoding") == "bucket":
        feature.bucket.boundaries.extend(_boundaries(config, numbers).tolist())
    else:
        filled = np.where(np.isnan(numbers), np.float32(feature.dense.missing), numbers).astype(np.float64)
        feature.dense.mean = float(np.float32(filled.mean()))
        feature.dense.scale = float(np.float32(filled.std())) or 1.0


def _boundaries(config: FeatureConfig, numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Quantiles of the numbers; or, as Criteo's winners bucketed counts: below 0, 0, 1, 2, then by floor(ln(x)^2)."""
    known = numbers[~np.isnan(numbers)].astype(np.float64)
    if not len(known):
        return np.zeros(0, np.float32)
    if config.buckets == "log2":
        top = int(np.log(max(known.max(), 3.0)) ** 2)
        just_above_two = np.nextafter(np.float32(2), np.float32(3))
        edges = np.r_[0.0, 1.0, 2.0, just_above_two, np.exp(np.sqrt(np.arange(2, top + 1)))]
    else:
        assert isinstance(config.buckets, int)
        edges = np.quantile(known, np.arange(1, config.buckets) / config.buckets)
    return np.unique(edges.astype(np.float32))
