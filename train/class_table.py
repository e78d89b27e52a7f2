"""The class table: a file with a row for each value of a feature, and the columns whose values are its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..protos.errors import DataError
from .sources import delimited, parquet
from .sources.columns import Place, conform
from .sources.paths import resolve
from .sources.tables import Batches

CSV = delimited.Layout(",", quoted=True)


@dataclass(frozen=True)
class ClassTable:
    """R rows.

    keys: (R,) int64 or string; null where the cell is empty.
    cells: for each partition (R,) string: CSV and Parquet of the same values are the same classes; null where empty.
    """

    source: str
    keys: pa.Array
    cells: Sequence[pa.Array]


def read_class_table(
    pattern: str, base: Path, key: str, partitions: Sequence[str], *, integers: bool, setting: str
) -> ClassTable:
    """Read a class table: a CSV file (perhaps .gz), or a Parquet file if its name ends in .parquet; or a glob of them.

    Args:
        pattern: the path, as paths in `[data]` are written.
        base: the directory that a relative path starts from.
        key: the column of the feature's values.
        partitions: the columns of classes.
        integers: whether the feature's values are integers (else strings).
        setting: the recipe's key that holds the path, for errors.

    Raises:
        DataError: no such file or column, no row, or a value of another type.
    """
    files, keys = resolve(pattern, base, setting), list[pa.Array]()
    cells: list[list[pa.Array]] = [[] for _ in partitions]
    for path in files:
        before = 0
        for batch in _batches(path, tuple(dict.fromkeys((key, *partitions)))):
            keys.append(conform(batch.column(key), "integer" if integers else "string", Place(str(path), key, before)))
            for name, parts in zip(partitions, cells, strict=True):
                parts.append(_text(batch.column(name), Place(str(path), name, before)))
            before += len(batch)
    source = ", ".join(map(str, files))
    if not sum(map(len, keys)):
        raise DataError(
            "a table of classes has a row for each value of its feature",
            found="no row",
            where=source,
            remedy=f"Check that the file is whole and that {setting} names the right one",
        )
    return ClassTable(source, pa.concat_arrays(keys), [pa.concat_arrays(parts) for parts in cells])


def _batches(path: Path, wanted: tuple[str, ...]) -> Batches:
    return parquet.batches(path, wanted) if path.suffix == ".parquet" else delimited.batches(path, wanted, CSV)


def _text(cells: pa.Array, place: Place) -> pa.Array:
    values = conform(cells, None, place) if not pa.types.is_null(cells.type) else cells
    if pa.types.is_list(values.type):
        raise DataError(
            "a cell of a partition is one value",
            found=f"a column of type {cells.type}",
            where=str(place),
            remedy="Name another column, or write it with one value a row",
        )
    return pc.cast(values, pa.string())
