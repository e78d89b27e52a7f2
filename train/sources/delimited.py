"""Delimited text: CSV with a header, and Criteo's tab-separated layout without one; gzip by the name's ending."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv

from ...protos.errors import DataError
from .columns import Type, require

BLOCK = 2**24
"""Bytes parsed at a time; no row is longer."""

CRITEO_INTEGERS = tuple(f"I{index}" for index in range(1, 14))
CRITEO_STRINGS = tuple(f"C{index}" for index in range(1, 27))
CRITEO_TYPES: dict[str, Type] = dict.fromkeys(CRITEO_INTEGERS, "integer")
"""What Criteo's columns hold unless the recipe says otherwise; the rest is text."""


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out: its delimiter, whether fields may be quoted, and its columns if no header says."""

    delimiter: str
    quoted: bool
    names: tuple[str, ...] | None = None


CRITEO = Layout(delimiter="\t", quoted=False, names=("label", *CRITEO_INTEGERS, *CRITEO_STRINGS))
"""Criteo's layout: a label, 13 integers, 26 hashed strings; an empty field is missing."""


def batches(path: Path, wanted: tuple[str, ...], layout: Layout) -> Iterator[pa.RecordBatch]:
    """The rows of a text file, wanted columns only, every value as text; an empty one is null.

    Raises:
        DataError: a row with another number of fields than the first, text that is not UTF-8, a broken
            gzip stream, or no wanted column.
    """
    invalid: list[arrow_csv.InvalidRow] = []

    def refuse(row: arrow_csv.InvalidRow) -> str:
        invalid.append(row)
        return "error"

    parse = arrow_csv.ParseOptions(
        delimiter=layout.delimiter,
        quote_char='"' if layout.quoted else False,
        newlines_in_values=layout.quoted,
        invalid_row_handler=refuse,
    )
    # Serial: only so does the parser know the number of an invalid row.
    read = arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=layout.names)
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()),
        include_columns=list(wanted),
        strings_can_be_null=True,
        null_values=[""],
    )
    try:
        if layout.names is None:
            with pa.input_stream(str(path)) as stream:
                present = arrow_csv.open_csv(stream, read, parse).schema.names
        else:
            present = layout.names
        require(wanted, present, str(path))
        with pa.input_stream(str(path)) as stream:
            yield from arrow_csv.open_csv(stream, read, parse, convert)
    except (pa.ArrowInvalid, OSError) as error:
        if not invalid:
            raise DataError(
                "a text file is UTF-8, whole, and as its name's ending says",
                found=str(error).splitlines()[0],
                where=str(path),
                remedy="Write the file again, or name its layout in data.source",
            ) from error
        row = invalid[0]
        line = row.number if layout.names is not None else row.number - 1
        raise DataError(
            "every row has as many fields as the first" if layout.names is None else "a row of Criteo has 40 fields",
            found=f"{row.actual_columns} fields instead of {row.expected_columns} in {row.text[:60]!r}",
            where=f"row {line} of {path}",
            remedy="Correct or drop the row; check data.delimiter and data.source",
        ) from error
