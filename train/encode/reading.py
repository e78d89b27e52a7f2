"""Reading: the batches of a piece, and the rows of it that have another number of fields than the others."""

import mmap
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ...protos.errors import DataError
from ..sources import libfm
from ..sources.columns import require
from ..sources.delimited import Layout
from .pieces import Piece

ROWS = 2**17
"""Rows of a batch of Parquet."""
_BLOCK = 2**22  # bytes parsed at a time, which is faster than all at once; no row is longer
_COUNTED = 2**24  # bytes in which ends of lines are counted at a time


class Reader:
    """Reads one piece; `skipped` holds (number, row), from 1 in the piece, of what was no row and left out."""

    def __init__(self, piece: Piece, source: str, layout: Layout, wanted: tuple[str, ...], stretch: int) -> None:
        self.piece, self.source, self.layout, self.wanted, self.stretch = piece, source, layout, wanted, stretch
        self.skipped = list[tuple[int, str]]()
        self.lost = 0  # rows that could not be read, and why
        self.reason = ""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, wanted columns only, as files have them; text as text.

        Raises:
            DataError: no wanted column; text that is not UTF-8, or packed text that is cut short.
        """
        if self.source == "parquet":
            yield from self._group()
        elif self.source == "libfm":
            yield from libfm.batches(Path(self.piece.path), self.wanted)
        else:
            try:
                yield from self._text()
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(
                    "a text file is UTF-8, whole, and as its name's ending says",
                    found=str(error).splitlines()[0],
                    where=self.piece.path,
                    remedy="Write the file again, or name its layout in data.source",
                ) from error

    def row(self, place: int) -> int:
        """The number in its file, from 1, of a row that is number `place`, from 0, of those that the piece gave."""
        number = place + 1
        for skipped, _ in self.skipped:
            number += skipped <= number
        return number + self.before()

    def before(self) -> int:
        """Rows of the file before the piece. This counts lines: it is for messages."""
        path, first = Path(self.piece.path), self.piece.first
        if self.piece.kind == "group":
            with pq.ParquetFile(path) as file:
                return sum(file.metadata.row_group(group).num_rows for group in range(first))
        if self.piece.kind == "stream" or not first:
            return 0
        with path.open("rb") as file:
            start = _line_start(path, first)
            lines = sum(file.read(min(_COUNTED, start - at)).count(b"\n") for at in range(0, start, _COUNTED))
        return lines - (self.layout.names is None)

    def _group(self) -> Iterator[pa.RecordBatch]:
        path, rows, given = self.piece.path, 0, 0
        try:
            with pq.ParquetFile(path, memory_map=True) as file:
                require(self.wanted, file.schema_arrow.names, path)
                rows = file.metadata.row_group(self.piece.first).num_rows
                for batch in file.iter_batches(ROWS, row_groups=[self.piece.first], columns=list(self.wanted)):
                    given += len(batch)
                    yield batch
        except (pa.ArrowInvalid, OSError) as error:
            self.lost, self.reason = rows - given, str(error).splitlines()[0][:200]

    def _text(self) -> Iterator[pa.RecordBatch]:
        path, names = self.piece.path, self.layout.names
        parse = arrow_csv.ParseOptions(
            delimiter=self.layout.delimiter,
            quote_char='"' if self.layout.quoted else False,
            newlines_in_values=self.layout.quoted and self.piece.kind == "stream",
            invalid_row_handler=self._skip,
        )
        if names is None:
            with pa.input_stream(path) as stream:
                options = arrow_csv.ReadOptions(use_threads=False)
                names = tuple(arrow_csv.open_csv(stream, options, parse).schema.names)
            self.skipped.clear()
        require(self.wanted, names, path)
        convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(self.wanted, pa.string()),
            include_columns=list(self.wanted),
            strings_can_be_null=True,
            null_values=[""],
        )
        # Serial: only so does the parser know the number of a row; and the other processors have pieces of their own.
        if self.piece.kind == "stream":
            read = arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=self.layout.names)
            with pa.input_stream(path) as stream:
                yield from _gathered(arrow_csv.open_csv(stream, read, parse, convert), max(1, self.stretch // _BLOCK))
            return
        start, end = (_line_start(Path(path), place) for place in (self.piece.first, self.piece.last))
        if start == end:
            return
        read = arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=list(names))
        with pa.memory_map(path) as whole:
            whole.seek(start)
            lines = pa.BufferReader(whole.read_buffer(end - start))
            yield from _gathered(arrow_csv.open_csv(lines, read, parse, convert), end - start)

    def _skip(self, row: arrow_csv.InvalidRow) -> str:
        shift = self.piece.kind == "stream" and self.layout.names is None  # the parser counts the header
        told = f"{row.actual_columns} fields instead of {row.expected_columns} in {row.text[:60]!r}"
        self.skipped.append(((row.number or 1) - shift, told))
        return "skip"


def _gathered(batches: Iterable[pa.RecordBatch], count: int) -> Iterator[pa.RecordBatch]:
    """Batches joined, so many at a time."""
    waiting = iter(batches)
    while some := list(islice(waiting, count)):
        yield from pa.Table.from_batches(some).combine_chunks().to_batches()


def _line_start(path: Path, place: int) -> int:
    """The first byte, from `place` on, at which a line begins."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if place == 0 or place >= len(whole):
            return min(place, len(whole))
        found = whole.find(b"\n", place - 1)
        return len(whole) if found < 0 else found + 1
