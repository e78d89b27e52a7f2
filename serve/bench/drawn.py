"""Drawn: rows that nobody clicked, drawn from a model's schema, or from the tensors that a foreign server takes.

Legend: N rows of a request; L values of a bag over them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...protos import manifest_pb2
from ...protos.encode import Column
from ...protos.errors import Unimplemented, WrongLength
from ...protos.ids import Int64s
from .target import DTYPES, Tensor

Arrays = dict[str, npt.NDArray[Any]]

ZIPF_EXPONENT = 1.1  # of drawn ids: few are hot, most are rare, as in click logs
DISTINCT_IDS = 1 << 20  # drawn values of a feature whose encoding names no range


def columns(schema: manifest_pb2.Schema, rows: int, rng: np.random.Generator) -> dict[str, Column]:
    """N rows of a schema: Zipf-distributed ids, bags of every length, log-normal numbers."""
    return {feature.name: _column(feature, rows, rng) for feature in schema.features}


def arrays(tensors: Sequence[Tensor], rows: int, rng: np.random.Generator, id_range: int) -> Arrays:
    """N rows of every input: integers by Zipf in [0, id_range), log-normal floats; unknown widths are 1.

    Raises:
        WrongLength: an input that cannot have N rows.
        Unimplemented: an input of a datatype that is not drawn.
    """
    found = Arrays()
    for each in tensors:
        where = f"input {each.name!r}"
        if not each.shape or each.shape[0] not in (-1, rows):
            raise WrongLength(
                f"an input's first dimension is the rows, here {rows}",
                found=f"shape {list(each.shape)}",
                where=where,
                remedy="Serve the model with a batch dimension of any size, or ask for --rows that fit",
            )
        shape = (rows, *(1 if width < 0 else width for width in each.shape[1:]))
        dtype = DTYPES.get(each.datatype)
        if dtype is None:
            raise Unimplemented(
                f"drawn inputs are of {', '.join(DTYPES)}", found=each.datatype, where=where, remedy="Use --bundle"
            )
        if dtype.kind == "f":
            found[each.name] = rng.lognormal(size=shape).astype(dtype)
        else:
            most = 2 if dtype.kind == "b" else min(id_range, int(np.iinfo(dtype).max) + 1)
            found[each.name] = _zipf(most, int(np.prod(shape)), rng).reshape(shape).astype(dtype)
    return found


def _column(feature: manifest_pb2.Feature, rows: int, rng: np.random.Generator) -> Column:
    if feature.values == manifest_pb2.FLOAT:
        return Column(floats=rng.lognormal(size=rows).astype(np.float32))
    lengths = rng.integers(0, feature.bag.max_length + 1, rows) if feature.HasField("bag") else None
    kind = feature.WhichOneof("encoding")
    sizes = {"id": feature.id.size, "hash": feature.hash.buckets, "vocabulary": feature.vocabulary.size}
    id_range = max(1, sizes[kind]) if kind in sizes else DISTINCT_IDS
    ranks = _zipf(id_range, rows if lengths is None else int(lengths.sum()), rng)
    if feature.values == manifest_pb2.INTEGER:
        return Column(integers=ranks + feature.id.first, lengths=lengths)  # 0 of another encoding
    return Column(strings=[b"%d" % rank for rank in ranks], lengths=lengths)


def _zipf(id_range: int, count: int, rng: np.random.Generator) -> Int64s:
    """(count,) int64 values in [0, id_range), the smallest the most frequent."""
    return (rng.zipf(ZIPF_EXPONENT, count) - 1) % id_range
