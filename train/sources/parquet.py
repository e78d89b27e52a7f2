"""Parquet: the requested columns of one file, mapped into memory."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...protos.errors import DataError
from .columns import require

BATCH = 2**17
"""Rows read at a time."""


def batches(path: Path, wanted: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, wanted columns only, with the file's own types.

    Raises:
        DataError: not Parquet, cut short, or without a wanted column.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            require(wanted, file.schema_arrow.names, str(path))
            yield from file.iter_batches(BATCH, columns=list(wanted))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            "a Parquet file is whole and readable",
            found=str(error).splitlines()[0],
            where=str(path),
            remedy="Write the file again, or name its layout in data.source",
        ) from error
