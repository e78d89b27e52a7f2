"""libfm: lines `label id:1 id:1 ...`, one id per field in fixed positions, as NFM's Frappe and MovieLens have them."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...protos.errors import DataError
from .columns import require

LINES = 2**17
"""Lines read at a time."""

_PAIR = r"^(?P<id>\d{1,18}):1(?:\.0*)?$"
_LABELS = {"0": 0.0, "1": 1.0, "+1": 1.0, "-1": 0.0, "0.0": 0.0, "1.0": 1.0, "-1.0": 0.0}


def batches(path: Path, wanted: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """The rows of a libfm file: `label` float32 (-1 read as 0) and the ids of position j as `f{j}` int64.

    Raises:
        DataError: a line with another number of ids than the first, a value that is not 1, an id that is not
            an integer, a label that is none of 0, 1 and -1, or no wanted column.
    """
    fields = -1
    first = 1
    try:
        with pa.input_stream(str(path)) as stream, io.TextIOWrapper(stream, "utf-8") as lines:
            while chunk := list(islice(lines, LINES)):
                rows = [line.split() for line in chunk]
                numbers = [first + index for index, row in enumerate(rows) if row]
                rows = [row for row in rows if row]
                first += len(chunk)
                if not rows:
                    continue
                if fields < 0:
                    fields = len(rows[0]) - 1
                    require(wanted, ["label", *(f"f{j}" for j in range(fields))], str(path))
                yield _parse(rows, fields, numbers, path).select(list(wanted))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "a libfm file is UTF-8 text, whole, and as its name's ending says",
            found=str(error),
            where=str(path),
            remedy="Write the file again, or name its layout in data.source",
        ) from error


def _parse(rows: list[list[str]], fields: int, numbers: list[int], path: Path) -> pa.RecordBatch:
    for row, number in zip(rows, numbers, strict=True):
        if len(row) != fields + 1:
            raise DataError(
                f"every line has as many ids as the first: {fields}",
                found=f"{len(row) - 1} ids",
                where=f"line {number} of {path}",
                remedy="Give every field one id a line, in the same order; other libfm files are not click rows",
            )
        if row[0] not in _LABELS:
            raise DataError(
                "a label is 0 or 1 (or -1 for 0)",
                found=repr(row[0][:80]),
                where=f"line {number} of {path}, column 'label'",
                remedy="Correct or drop the line",
            )
    pairs = pa.array([pair for row in rows for pair in row[1:]], pa.string())
    ids = pc.call_function("extract_regex", [pairs], pc.ExtractRegexOptions(pattern=_PAIR))
    if ids.null_count:
        index = int(np.argmax(ids.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            "a feature of a libfm line is ID:1, an integer id below 10^18 with the value 1",
            found=repr(pairs[index].as_py()[:80]),
            where=f"line {numbers[index // fields]} of {path}, column 'f{index % fields}'",
            remedy="Write the id itself; a number that is not 1 belongs in a dense column of a CSV or Parquet file",
        )
    matrix = ids.field("id").cast(pa.int64()).to_numpy().reshape(len(rows), fields)
    columns = {"label": pa.array([_LABELS[row[0]] for row in rows], pa.float32())}
    return pa.RecordBatch.from_pydict(columns | {f"f{j}": pa.array(matrix[:, j]) for j in range(fields)})
