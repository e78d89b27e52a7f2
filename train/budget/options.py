"""The options of a field: its schemes, dims and bits, and the bytes that each of them takes.

Legend: F fields; S schemes of a field at most; N dims; K numbers of bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...protos import manifest_pb2 as pb
from ...protos import plan
from ..recipe import EmbeddingConfig
from ..search.config import SearchConfig
from .schemes import Ladder

Option = tuple[int, int, int]  # numbers of a scheme, a dim and of bits


@dataclass(frozen=True)
class Options:
    """What may be chosen.

    ladders: the schemes of each field, by feature, in the schema's order.
    dims, bits: candidates of all fields; bits 0 stand for float32.
    allowed: (F, S, N, K) bool. sizes: (F, S, N, K) int64, bytes of the field's tables, those of first order with them.
    """

    ladders: Mapping[str, Ladder]
    dims: Sequence[int]
    bits: Sequence[int]
    allowed: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]

    @property
    def features(self) -> list[str]:
        """The fields' names."""
        return list(self.ladders)

    def field(self, number: int, option: Option) -> tuple[pb.Field, int, int]:
        """A field's scheme, dim and bits under an option."""
        scheme, dim, bits = option
        return self.ladders[self.features[number]][scheme], self.dims[dim], self.bits[bits]

    def of(self, number: int) -> list[Option]:
        """All options of a field."""
        schemes, dims, bits = np.nonzero(self.allowed[number])
        return list(zip(schemes.tolist(), dims.tolist(), bits.tolist(), strict=True))

    def smallest(self) -> int:
        """Bytes of the tables where every field takes as few as it can."""
        return int(np.where(self.allowed, self.sizes, np.iinfo(np.int64).max).reshape(len(self.sizes), -1).min(1).sum())


def options_of(
    ladders: Mapping[str, Ladder], config: SearchConfig, embedding: EmbeddingConfig, *, first_order: bool
) -> Options:
    """All options of the fields; `first_order`: whether the model has first-order tables beside."""
    dims = sorted({dim for name in ladders for dim in config.candidates_of(name)})
    bits = list(config.bits)
    shape = (len(ladders), max(map(len, ladders.values())), len(dims), len(bits))
    sizes, allowed = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for number, (name, ladder) in enumerate(ladders.items()):
        own = np.isin(dims, config.candidates_of(name))
        for scheme, field in enumerate(ladder):
            terms = _terms(field, embedding) if first_order else 0
            allowed[number, scheme] = own[:, None]
            sizes[number, scheme] = [[plan.bytes_at(field, dim, each) + terms for each in bits] for dim in dims]
    return Options(ladders, dims, bits, allowed, sizes)


def _terms(field: pb.Field, embedding: EmbeddingConfig) -> int:
    """Bytes of the field's first-order tables: as the recipe has them, in float32."""
    if embedding.first_order == "none":
        return 0
    rows = field.cardinality if embedding.first_order == "full" else sum(table.rows for table in field.tables)
    return rows * plan.FLOAT_BYTES
