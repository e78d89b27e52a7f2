"""Pieces: what one process reads at a time: a stretch of lines, a group of rows, or a file that has no middle."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ...protos.errors import DataError
from ..data import DataConfig
from ..sources import delimited
from ..sources.delimited import Layout

_PACKED = (".gz", ".zst", ".bz2", ".lz4", ".br")


@dataclass(frozen=True)
class Piece:
    """A part of a source file.

    number: from 0, over all pieces, in the order of their rows.
    split: train, valid, test; or all, where rows are divided afterwards.
    kind: `lines` that begin at the bytes from `first` on, before `last`; the row `group` number `first`; or the whole
        file, as a `stream`.
    size: bytes, about, for the progress bar.
    """

    number: int
    split: str
    path: str
    kind: Literal["lines", "group", "stream"]
    first: int
    last: int
    size: int


def layout_of(config: DataConfig) -> Layout:
    """How the text files of a recipe are laid out."""
    if config.source == "criteo":
        return delimited.CRITEO
    return Layout(config.delimiter or ",", quoted=True)


def cut(config: DataConfig, files: Sequence[tuple[str, Path]], stretch: int) -> list[Piece]:
    """Cut files into pieces, of text about `stretch` bytes each.

    Text is cut where a file is neither packed nor holds a quotation mark, which may hold an end of line.

    Args:
        config: the section `[data]`.
        files: split and path, in the order of their rows.
        stretch: bytes.
    """
    pieces = list[Piece]()

    def add(
        split: str, path: Path, kind: Literal["lines", "group", "stream"], first: int, last: int, size: int
    ) -> None:
        pieces.append(Piece(len(pieces), split, str(path), kind, first, last, size))

    for split, path in files:
        size = path.stat().st_size
        if config.source == "parquet":
            for group, bytes_of in enumerate(_groups(path)):
                add(split, path, "group", group, group + 1, bytes_of)
        elif config.source == "libfm" or path.suffix in _PACKED or not size or _quoted(path, config):
            add(split, path, "stream", 0, size, size)
        else:
            first = 0 if config.source == "criteo" else _after_line(path, 0)
            ends = [*range(first + stretch, size, stretch), size]
            for start, end in zip([first, *ends[:-1]], ends, strict=True):
                add(split, path, "lines", start, end, end - start)
    return pieces


def _groups(path: Path) -> list[int]:
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            "a Parquet file is whole and readable",
            found=str(error).splitlines()[0],
            where=str(path),
            remedy="Write the file again, or name its layout in data.source",
        ) from error


def _quoted(path: Path, config: DataConfig) -> bool:
    if config.source == "criteo":
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole.find(b'"') >= 0


def _after_line(path: Path, start: int) -> int:
    """The first byte after the line that holds byte `start`."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        found = whole.find(b"\n", start)
        return len(whole) if found < 0 else found + 1
