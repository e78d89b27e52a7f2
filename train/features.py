"""Features: rows become the tensors that training reads.

Legend: N rows; S slots of raw64 values and D' numbers as a graph takes them (encode.py); T slots of ids, D dense
numbers as the torch model takes them (model.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ..protos import manifest_pb2 as pb
from ..protos.encode import Encoded
from ..protos.errors import DataError
from ..protos.ids import MISSING, VocabularyValues, bucket_ids, ids_of
from ..protos.schema import has_ids, layout
from .batches import WHOLE, Batch, batch_of, batches_of, part_of, shuffled
from .model import id_slots

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

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.labels.device

    def batches(
        self, seed: int, epoch: int, size: int, first: int = 0, part: tuple[int, int] = WHOLE
    ) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, as `Source` has it."""
        order = shuffled(len(self), seed, epoch).to(self.device)
        for number in range(first, batches_of(len(self), size)):
            whole = batch_of(order, number, size)
            rows = part_of(whole, part)
            weights = None if self.weights is None else self.weights[rows]
            yield Batch(self.ids[rows], self.numbers[rows], self.labels[rows], weights, rows, len(whole))

    def in_memory(self) -> "Rows":
        """These rows."""
        return self

    def to(self, device: torch.device) -> "Rows":
        """The same rows on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Rows(self.ids.to(device), self.numbers.to(device), self.labels.to(device), weights, self.groups)


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
