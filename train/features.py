"""Features: fit a schema to the training rows, and turn rows into the tensors that training reads.

Legend: N rows; S slots of raw64 values and D' numbers as a graph takes them (encode.py); T slots of ids, D dense
numbers as the torch model takes them (model.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded, encode
from ..protos.errors import DataError
from ..protos.ids import MISSING, VocabularyValues, bucket_ids, count_vocabulary, ids_of
from ..protos.schema import has_ids, layout
from .columns import to_columns
from .model import id_slots
from .recipe import FeatureConfig

SIDES = {"context": pb.CONTEXT, "candidate": pb.CANDIDATE}
TRANSFORMS = {"none": pb.NONE, "log1p": pb.LOG1P, "standard": pb.STANDARD}
Vocabularies = Mapping[str, VocabularyValues]


@dataclass(frozen=True)
class Rows:
    """Rows ready for the model.

    ids: (N, T) int64, -1 = padding. numbers: (N, D) float32, NaN = missing. labels: (N,) float32.
    weights: (N,) float32 or None. groups: (N,) int64 or None, for the grouped AUC.
    """

    ids: Tensor
    numbers: Tensor
    labels: Tensor
    weights: Tensor | None
    groups: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Rows":
        """The same rows on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Rows(self.ids.to(device), self.numbers.to(device), self.labels.to(device), weights, self.groups)


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
            feature.id.size = config.size or 0
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
        elif feature.name in places.dense:
            numbers = encoded.dense[:, places.dense[feature.name]]
            if kind == "bucket":
                feature.bucket.boundaries.extend(_boundaries(features[feature.name], numbers).tolist())
            elif feature.dense.transform == pb.STANDARD:
                filled = np.where(np.isnan(numbers), np.float32(feature.dense.missing), numbers).astype(np.float64)
                feature.dense.mean = float(np.float32(filled.mean()))
                feature.dense.scale = float(np.float32(filled.std())) or 1.0
    return schema, vocabularies, encoded


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


def model_rows(
    schema: pb.Schema,
    vocabularies: Vocabularies,
    encoded: Encoded,
    labels: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
) -> Rows:
    """Raw values -> ids and dense numbers, as tensors."""
    places, slots = layout(schema), id_slots(schema)
    ids = np.empty((len(labels), sum(length for _, length in slots.values())), np.int64)
    dense = [places.dense[each.name] for each in schema.features if each.WhichOneof("encoding") == "dense"]
    for feature in schema.features:
        if not has_ids(feature):
            continue
        first, length = slots[feature.name]
        if feature.name in places.dense:
            edges = np.array(feature.bucket.boundaries, np.float32)
            ids[:, first] = bucket_ids(edges, encoded.dense[:, places.dense[feature.name]])
            continue
        start, _ = places.slots[feature.name]
        raw = encoded.ids[:, start : start + length]
        found = ids_of(feature, raw, vocabularies.get(feature.name))
        ids[:, first : first + length] = np.where(raw == MISSING, -1, found) if feature.HasField("bag") else found
    return Rows(
        torch.from_numpy(ids),
        torch.from_numpy(np.ascontiguousarray(encoded.dense[:, dense])),
        torch.from_numpy(labels),
        None if weights is None else torch.from_numpy(weights),
        groups,
    )


def numbers_of(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    """A column of labels or weights, checked by the source, (N,) float32."""
    return np.array(table.column(name).to_numpy(), np.float32)  # a copy: torch wants to own it


def groups_of(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Group numbers for the grouped AUC, (N,) int64, from a column of any flat type.

    Raises:
        DataError: a column of lists.
    """
    column = table.column(name).combine_chunks()
    if pa.types.is_list(column.type):
        raise DataError(
            "a row belongs to one group", found="lists", where=f"column {name!r}", remedy="Name another data.group"
        )
    return column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
