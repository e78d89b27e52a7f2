"""Load: the requests of a bench, built and serialized before its clock starts.

Legend: N rows of a request.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from ..protos import encode, manifest_pb2
from ..protos import open_inference_pb2 as inference
from ..protos.encode import Column
from ..protos.errors import DataError
from ..protos.ids import Int64s
from .exchange import Description, request_of
from .rows import read

Protocol = Literal["score", "infer"]

ZIPF_EXPONENT = 1.1  # of drawn ids: few are hot, most are rare, as in click logs
DISTINCT_IDS = 1 << 20  # drawn values of a feature whose encoding names no range
MOST_REQUESTS, LEAST_REQUESTS, ROWS_IN_ALL = 256, 8, 1 << 16


def requests(served: Description, protocol: Protocol, rows: int, columns: Iterator[dict[str, Column]]) -> list[bytes]:
    """Serialized requests of N rows each, the context of each taken from its first row."""
    count = min(MOST_REQUESTS, max(LEAST_REQUESTS, ROWS_IN_ALL // rows))
    build = _score_request if protocol == "score" else _infer_request
    return [build(served, each, rows) for each in islice(columns, count)]


def drawn(schema: manifest_pb2.Schema, rows: int, seed: int) -> Iterator[dict[str, Column]]:
    """Endless batches of N rows: Zipf-distributed ids, bags of every length, log-normal numbers."""
    rng = np.random.default_rng(seed)
    while True:
        yield {feature.name: _draw(feature, rows, rng) for feature in schema.features}


def from_file(
    path: Path, schema: manifest_pb2.Schema, rows: int, *, ignored: Collection[str]
) -> Iterator[dict[str, Column]]:
    """Batches of N consecutive rows of a file; rows that do not fill the last one are left out.

    Raises:
        DataError: fewer than N rows in all, and as `rows.read`.
    """
    found = 0
    for batch in read(path, schema, rows, ignored=ignored):
        found += batch.rows
        if batch.rows == rows:
            yield batch.columns
    if found < rows:
        raise DataError(
            f"a bench of {rows} rows per call has that many rows to send",
            found=f"{found} rows",
            where=str(path),
            remedy="Ask for fewer --rows, or give a longer file",
        )


def _score_request(served: Description, columns: dict[str, Column], rows: int) -> bytes:
    shared = {feature.name for feature in served.schema.features if feature.side == manifest_pb2.CONTEXT}
    context = {name: _first(column) for name, column in columns.items() if name in shared}
    candidates = {name: column for name, column in columns.items() if name not in shared}
    request = request_of(candidates, rows, context)
    request.model, request.version = served.model, served.version
    return request.SerializeToString()


def _infer_request(served: Description, columns: dict[str, Column], rows: int) -> bytes:
    encoded = encode.encode(served.schema, columns, rows, long_bags="refuse")
    tensor = inference.ModelInferRequest.InferInputTensor
    request = inference.ModelInferRequest(model_name=served.model, model_version=str(served.version))
    for name, datatype, array in (("ids", "INT64", encoded.ids), ("dense", "FP32", encoded.dense)):
        if array.shape[1]:
            request.inputs.append(tensor(name=name, datatype=datatype, shape=array.shape))
            request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def _first(column: Column) -> Column:
    """The first row of a column."""
    count = 1 if column.lengths is None else int(column.lengths[0])
    return Column(
        integers=None if column.integers is None else column.integers[:count],
        strings=None if column.strings is None else column.strings[:count],
        floats=None if column.floats is None else column.floats[:count],
        lengths=None if column.lengths is None else column.lengths[:1],
        missing=None if column.missing is None else column.missing[:count],
    )


def _draw(feature: manifest_pb2.Feature, rows: int, rng: np.random.Generator) -> Column:
    if feature.values == manifest_pb2.FLOAT:
        return Column(floats=rng.lognormal(size=rows).astype(np.float32))
    lengths = rng.integers(0, feature.bag.max_length + 1, rows) if feature.HasField("bag") else None
    ranks = _zipf(feature, rows if lengths is None else int(lengths.sum()), rng)
    if feature.values == manifest_pb2.INTEGER:
        return Column(integers=ranks, lengths=lengths)
    return Column(strings=[b"%d" % rank for rank in ranks], lengths=lengths)


def _zipf(feature: manifest_pb2.Feature, count: int, rng: np.random.Generator) -> Int64s:
    """(count,) int64 values within the feature's range, the smallest the most frequent."""
    kind = feature.WhichOneof("encoding")
    sizes = {"id": feature.id.size, "hash": feature.hash.buckets, "vocabulary": feature.vocabulary.size}
    return (rng.zipf(ZIPF_EXPONENT, count) - 1) % (max(1, sizes[kind]) if kind in sizes else DISTINCT_IDS)
