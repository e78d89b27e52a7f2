"""Rows: a file of raw values becomes the encoder's columns, batch by batch.

A file's values are read one by one; `cells` makes a feature's column of them.
"""

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..protos import manifest_pb2 as pb
from ..protos.encode import Column
from ..protos.errors import DataError, MissingColumn, UnknownColumn, WrongLength
from .cells import column

Row = Sequence[object]  # one value per feature, in schema order; None is missing


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file: the first one's number (from 0), how many, and their columns."""

    first: int
    rows: int
    columns: dict[str, Column]


def read(path: Path, schema: pb.Schema, batch_rows: int, *, ignored: Collection[str] = ()) -> Iterator[Batch]:
    """Read a .csv (with header), .jsonl, .ndjson or .parquet file.

    Args:
        path: the file.
        schema: the features, each of which has a column.
        batch_rows: rows of a batch; the last may have fewer.
        ignored: columns that are no features.

    Raises:
        DataError: no such file, or not of its format.
        UnknownColumn, MissingColumn: the file's columns are not the schema's; `ignored` ones are passed over.
        WrongType, WrongLength, OutOfRange: a value that its feature cannot take, with its line.
    """
    readers = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(
            f"rows are a file ending in one of {list(readers)}",
            found="another ending" if reader is None else "no such file",
            where=str(path),
            remedy="Convert it, or name another file",
        )
    rows = reader(path, [feature.name for feature in schema.features], frozenset(ignored))
    first = 0
    try:
        while batch := list(islice(rows, batch_rows)):
            where = [place for place, _ in batch]
            columns = {
                feature.name: column(feature, [row[position] for _, row in batch], where)
                for position, feature in enumerate(schema.features)
            }
            yield Batch(first, len(batch), columns)
            first += len(batch)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"a {path.suffix} file is UTF-8 text of that format", found=str(error), where=str(path), remedy="Mend it"
        ) from None


def _csv(path: Path, names: Sequence[str], ignored: frozenset[str]) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        header = next(lines, [])
        _check_names(header, names, ignored, f"{path}, line 1")
        if len(set(header)) != len(header):
            raise DataError("a column stands once", found=f"header {header}", where=str(path), remedy="Rename it")
        positions = [header.index(name) for name in names]
        for cells in lines:
            where = f"{path}, line {lines.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise WrongLength(
                    "a line has as many cells as the header",
                    found=f"{len(cells)} cells under {len(header)} names",
                    where=where,
                    remedy="Quote cells that hold commas",
                )
            yield where, [cells[position] or None for position in positions]


def _json_lines(path: Path, names: Sequence[str], ignored: frozenset[str]) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    "every line is a JSON object", found=str(error), where=where, remedy="Mend it"
                ) from None
            if not isinstance(row, dict):
                raise DataError(
                    "every line is a JSON object", found=type(row).__name__, where=where, remedy="Write {…} a row"
                )
            _check_names(row.keys(), names, ignored, where)
            yield where, [row[name] for name in names]


def _parquet(path: Path, names: Sequence[str], ignored: frozenset[str]) -> Iterator[tuple[str, Row]]:
    from pyarrow import ArrowInvalid, parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, names, ignored, str(path))
            number = 0
            for batch in file.iter_batches(columns=list(names)):
                values = batch.to_pydict()
                for row in zip(*(values[name] for name in names), strict=True):
                    yield f"{path}, row {number}", row
                    number += 1
    except ArrowInvalid as error:
        raise DataError(
            "a .parquet file is Parquet", found=str(error), where=str(path), remedy="Write it again"
        ) from None


def _check_names(found: Collection[str], names: Sequence[str], ignored: frozenset[str], where: str) -> None:
    for name in found:
        if name not in names and name not in ignored:
            raise UnknownColumn(
                "every column is a feature of the model",
                found=f"column {name!r}",
                where=where,
                remedy=f"Remove it, or pass --ignore {name}",
            )
    for name in names:
        if name not in found:
            raise MissingColumn(
                "every feature of the model has a column",
                found=f"no column {name!r}",
                where=where,
                remedy="Add it; leave cells empty (null in JSON) where the value is not known",
            )
