"""Scan: the first pass over a piece: its rows, checked, become parts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...protos import manifest_pb2 as pb
from ...protos.encode import encode
from ...protos.errors import DataError, QuoremError
from ...protos.ids import MISSING, Int64s, offsets
from ...protos.manifest import write_atomically
from ...protos.schema import layout, told_range
from ..columns import to_columns
from ..recipe import FeatureConfig
from ..sources.columns import Place, Request
from ..sources.delimited import Layout
from ..sources.tables import conform_batch
from .arrays import map_arrays, write_arrays
from .hashing import raw64_of_array
from .parts import narrow, times_of
from .pieces import Piece
from .reading import Reader

SHOWN = 5  # bad rows that are told
MOST = 10_000  # bad rows that a batch may have: each costs time to find


@dataclass(frozen=True)
class Scan:
    """What all pieces of an encoding have in common.

    schema: serialized, as it is before it has seen a row. work: where parts go. stretch: bytes of text at a time.
    tolerant: whether bad rows are left out; else the first one ends it.
    """

    schema: bytes
    features: Mapping[str, FeatureConfig]
    source: str
    layout: Layout
    request: Request
    work: Path
    stretch: int
    tolerant: bool


@dataclass(frozen=True)
class Scanned:
    """What came of a piece.

    parts: their files and rows. types: the columns' types, as text. bad: rows left out, and some of them in words.
    """

    parts: list[tuple[str, int]]
    types: str
    bad: int
    told: list[str]


def done(scan: Scan, piece: Piece) -> Scanned | None:
    """What came of a piece that an earlier run has finished."""
    path = _note(scan, piece)
    return Scanned(**json.loads(path.read_text())) if path.exists() else None


def scan_piece(scan: Scan, piece: Piece) -> Scanned:
    """Read a piece and write its parts. What is there already is kept.

    Raises:
        DataError: a file or a column that breaks a rule; a row that does, unless such are left out.
    """
    reader = Reader(piece, scan.source, scan.layout, scan.request.read, scan.stretch)
    parts, types, told, bad, before = list[tuple[str, int]](), "", list[str](), 0, 0
    for number, batch in enumerate(reader.batches()):
        path = scan.work / f"{piece.number:06}-{number:06}.part"
        notes = map_arrays(path)[1] if path.exists() else _write_part(scan, reader, batch, before, path)
        before += len(batch)
        if int(notes["rows"]):
            parts.append((str(path), int(notes["rows"])))
        types = types or notes["types"]
        bad += int(notes["bad"])
        told += json.loads(notes["told"])[: SHOWN - len(told)]
    for number, found in reader.skipped[:SHOWN]:
        told.append(f"row {number + reader.before()} of {piece.path}: {found}")
    if reader.lost:
        told.append(f"{reader.lost} rows of row group {piece.first} of {piece.path}: {reader.reason}")
    if not scan.tolerant and (reader.skipped or reader.lost):
        raise DataError(
            "every row can be read, and has as many fields as the others",
            found=told[-1].partition(": ")[2],
            where=told[-1].partition(": ")[0],
            remedy="Correct or drop the row, or leave bad rows out with --bad-rows SHARE",
        )
    scanned = Scanned(parts, types, bad + len(reader.skipped) + reader.lost, told[:SHOWN])
    write_atomically(_note(scan, piece), json.dumps(scanned.__dict__).encode())
    return scanned


def _note(scan: Scan, piece: Piece) -> Path:
    return scan.work / f"{piece.number:06}.json"


def _write_part(scan: Scan, reader: Reader, batch: pa.RecordBatch, before: int, path: Path) -> dict[str, str]:
    good, kept, told = _conformed(scan, reader, batch, before)
    notes = {"rows": str(good.num_rows), "bad": str(len(batch) - good.num_rows), "told": json.dumps(told[:SHOWN])}
    notes["types"] = str(good.schema.to_string(show_schema_metadata=False))
    if scan.request.time is not None:
        times = batch.column(scan.request.time)
        with pa.OSFile(str(times_of(str(path))), "wb") as file:
            table = pa.table({"time": times if kept is None else times.take(pa.array(kept))})
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
    write_arrays(path, _arrays(scan, good), notes, lasting=False)
    return notes


def _conformed(
    scan: Scan, reader: Reader, batch: pa.RecordBatch, before: int
) -> tuple[pa.Table, list[int] | None, list[str]]:
    """The good rows, their numbers in the batch (None for all), and the others in words."""
    path = reader.piece.path
    try:
        return pa.Table.from_batches([_checked(scan, batch, path, before)]), None, []
    except QuoremError:
        none = _checked(scan, batch.slice(0, 0), path, before)  # which refuses a column as a whole
    good, told = list[tuple[int, pa.RecordBatch]](), list[str]()

    def keep(first: int, count: int) -> None:
        """Keep the good rows of a stretch: all, or those of its halves."""
        place = reader.row(before + first) - 1 if count == 1 else 0
        try:
            good.append((first, _checked(scan, batch.slice(first, count), path, place)))
        except QuoremError as error:
            if count > 1:
                keep(first, count // 2)
                keep(first + count // 2, count - count // 2)
                return
            if not scan.tolerant:
                raise
            told.append(str(error))
            if len(told) > MOST:
                raise _hopeless(error) from None

    keep(0, len(batch))
    kept = [row for first, part in good for row in range(first, first + len(part))]
    return pa.Table.from_batches([none, *(part for _, part in good)]), kept, told


def _checked(scan: Scan, batch: pa.RecordBatch, path: str, before: int) -> pa.RecordBatch:
    """The columns that are kept, of the types that encoding takes, ids in the range that they may not leave."""
    whole = conform_batch(batch, scan.request, path, before)
    for name, config in scan.features.items():
        if config.kind == "categorical" and config.out_of_range == "error":
            ids, size = whole.column(name).fill_null(config.first).to_numpy(), config.size or 0
            outside = np.flatnonzero(offsets(ids, config.first) >= np.uint64(size))
            if len(outside):
                raise DataError(
                    f"an id lies in {told_range(config.first, size)}",
                    found=str(ids[outside[0]]),
                    where=Place(path, name, before).at(int(outside[0])),
                    remedy='Correct it, leave it empty, or say out_of_range = "rare"',
                )
    return whole


def _hopeless(error: QuoremError) -> DataError:
    """The error of a batch that is bad throughout."""
    return DataError(
        f"few rows are bad: at most {MOST:,} of those that are read at a time",
        found=f"more than that, the last: {error.found}; {error.rule}",
        where=error.where,
        remedy="Check that the recipe says what the columns hold",
    )


def _arrays(scan: Scan, table: pa.Table) -> dict[str, NDArray[Any]]:
    schema = pb.Schema.FromString(scan.schema)
    places, rows = layout(schema), table.num_rows
    numbers = np.empty((rows, places.dense_count), np.float32)
    arrays: dict[str, NDArray[Any]] = {"numbers": numbers}
    for index, feature in enumerate(schema.features):
        name, config = feature.name, scan.features[feature.name]
        if name in places.dense:
            numbers[:, places.dense[name]] = to_columns(table.select([name]), {name: config})[name].floats
        else:
            values, codes = _coded(feature, config, table)
            arrays[f"values.{index}"], arrays[f"codes.{index}"] = values, narrow(codes, len(values))
    arrays["labels"] = _floats(table, scan.request.label)
    if scan.request.weight is not None:
        arrays["weights"] = _floats(table, scan.request.weight)
    if scan.request.group is not None:
        values, codes = _of_flat(_group(table, scan.request.group))
        arrays["groups"] = values[codes]
    return arrays


def _floats(table: pa.Table, name: str) -> NDArray[np.float32]:
    return np.array(table.column(name).to_numpy(), np.float32)


def _group(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    if pa.types.is_list(column.type):
        raise DataError(
            "a row belongs to one group", found="lists", where=f"column {name!r}", remedy="Name another data.group"
        )
    if pa.types.is_floating(column.type):  # their bits tell them apart
        bits = column.to_numpy(zero_copy_only=False).astype(np.float32).view(np.int32)
        return pa.array(bits.astype(np.int64), mask=column.is_null().to_numpy(zero_copy_only=False))
    return column


def _coded(feature: pb.Feature, config: FeatureConfig, table: pa.Table) -> tuple[Int64s, NDArray[Any]]:
    """The distinct raw64 of a feature, rising, (V,) int64, and the place in it of every value, (n,) or (n, L)."""
    name = feature.name
    if feature.HasField("bag"):
        alone = pb.Schema(features=[feature])
        columns = to_columns(table.select([name]), {name: config})
        raw = encode(alone, columns, table.num_rows, long_bags="cut").ids
        values, codes = _of_flat(pa.array(raw.ravel()))
        return values, codes.reshape(raw.shape)
    column = table.column(name).combine_chunks()
    expected = pa.types.is_integer if config.integers else pa.types.is_string
    if not expected(column.type):
        to_columns(table.select([name]), {name: config})  # which says what is wrong
    return _of_flat(column)


def _of_flat(column: pa.Array) -> tuple[Int64s, NDArray[Any]]:
    coded = column.dictionary_encode()
    if pa.types.is_string(column.type):
        raw = raw64_of_array(coded.dictionary)
    else:
        raw = coded.dictionary.to_numpy(zero_copy_only=False).astype(np.int64)
    indices = coded.indices
    if indices.null_count:
        indices, raw = indices.fill_null(len(raw)), np.append(raw, MISSING)
    order = np.argsort(raw)
    places = np.empty(len(raw), np.uint32)
    places[order] = np.arange(len(raw), dtype=np.uint32)
    return raw[order], places[indices.to_numpy(zero_copy_only=False)]
