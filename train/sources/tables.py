"""Tables: batches of rows become one table of the types that encoding takes."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ...protos.errors import DataError
from .columns import Place, Request, check_labels, check_weights, conform

Batches = Iterator[pa.RecordBatch]


def collect(parts: Sequence[tuple[str, Batches]], request: Request) -> tuple[pa.Table, pa.ChunkedArray | None]:
    """The requested columns of several files as one table.

    Args:
        parts: for each file its name and its batches, which hold at least `request.read`.
        request: the columns and the number of rows.

    Returns:
        The table of `request.kept` (label and weight float32, checked), and the time column as it stands in
        the file, or None where the request has none.

    Raises:
        DataError: a value that breaks a rule, or a column whose type changes from file to file.
    """
    done: list[pa.RecordBatch] = []
    times: list[pa.Array] = []
    count = 0
    for source, batches in parts:
        before = 0
        for whole in batches:
            batch = whole if request.rows is None else whole.slice(0, request.rows - count)
            done.append(conform_batch(batch, request, source, before))
            if done[-1].schema != done[0].schema:
                raise changed_type(done[0].schema, done[-1].schema, source)
            if request.time is not None:
                times.append(batch.column(request.time))
            before += len(batch)
            count += len(batch)
            if count == request.rows:
                break
        if count == request.rows:
            break
    if not count:
        raise DataError(
            "a split has at least one row",
            found="no row",
            where=", ".join(source for source, _ in parts),
            remedy="Check that the file is whole and that the recipe names the right one",
        )
    table = pa.Table.from_batches(done)
    return table, pa.chunked_array(times) if request.time is not None else None


def same_types(first: pa.Table, other: pa.Table, source: str) -> None:
    """Refuse a split whose columns have other types than those of the first."""
    if first.schema != other.schema:
        raise changed_type(first.schema, other.schema, source)


def conform_batch(batch: pa.RecordBatch, request: Request, source: str, before: int) -> pa.RecordBatch:
    """The kept columns of a batch that begins after `before` rows of a source, of the types that encoding takes."""
    columns: dict[str, pa.Array] = {}
    for name in request.kept:
        place = Place(source, name, before)
        raw = batch.column(name)
        numeric = name in (request.label, request.weight)
        columns[name] = conform(raw, "float" if numeric else request.types.get(name), place)
        if name == request.label:
            check_labels(columns[name], raw, place)
        elif name == request.weight:
            check_weights(columns[name], raw, place)
    return pa.RecordBatch.from_pydict(columns)


def changed_type(first: pa.Schema, other: pa.Schema, source: str) -> DataError:
    """The error of a source whose columns have other types than those of the first."""
    name = next(name for name in first.names if first.field(name) != other.field(name))
    return DataError(
        "a column has one type in all files",
        found=f"{other.field(name).type} here, {first.field(name).type} before",
        where=f"{source}, column {name!r}",
        remedy="Write the column with the same type in every file",
    )
