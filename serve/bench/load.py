"""Load: the requests of a bench, built and serialized before its clock starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from ...protos.encode import Float32s
from ...protos.errors import DataError, TooLarge
from .. import rows as files
from ..batches import parts
from . import drawn
from .goldens import Goldens
from .requests import infer, request
from .sizes import Size, request_count
from .target import Target, Tensor

MOST_REQUESTS, LEAST_REQUESTS, ROWS_IN_ALL = 256, 8, 1 << 16


@dataclass(frozen=True)
class Load:
    """Serialized requests, sent in turn.

    name: of the size, as `parse_size` takes it.
    counts: rows of each request.
    expected: logits of each request, (rows,) float32, where they are known.
    bound: how far off them a served logit may be, of itself where it is above 1.
    """

    name: str
    requests: tuple[bytes, ...]
    counts: tuple[int, ...]
    expected: tuple[Float32s | None, ...]
    bound: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """Rows drawn from the schema; of a model whose schema nobody tells, inputs whose integers lie in [0, id_range)."""

    id_range: int = drawn.DISTINCT_IDS


@dataclass(frozen=True)
class GoldenRows:
    """The golden rows of a version's directory."""

    bundle: Path


@dataclass(frozen=True)
class RowsFile:
    """The rows of a .csv, .jsonl, .ndjson or .parquet file, from the first; `ignored` columns are no features."""

    path: Path
    ignored: tuple[str, ...] = ()


Source = Drawn | GoldenRows | RowsFile


def build(target: Target, source: Source, size: Size, seed: int) -> Load:
    """Build the requests of one size: the same arguments give the same bytes.

    Raises:
        TooLarge: more rows a request than the server takes.
        DataError: a file of fewer rows than one request has, or a file for a model whose schema nobody tells.
        QuoremError: rows that the model cannot take, and as `rows.read`, `Goldens` and `drawn.arrays`.
    """
    if target.max_rows is not None and size.largest > target.max_rows:
        raise TooLarge(
            f"the server takes at most {target.max_rows} rows per call",
            found=str(size.largest),
            where="--rows",
            remedy="Ask for fewer",
        )
    rng = np.random.default_rng(seed)
    counts = size.counts(request_count(size, LEAST_REQUESTS, MOST_REQUESTS, ROWS_IN_ALL), rng)
    if isinstance(source, GoldenRows):
        goldens = Goldens(target, source.bundle)
        firsts = accumulate(counts, initial=0)
        pairs = [goldens.request(first, rows) for first, rows in zip(firsts, counts, strict=False)]
        sent, expected = (tuple(part) for part in zip(*pairs, strict=True))
        return Load(size.name, sent, tuple(counts), expected, goldens.bound)
    if isinstance(source, RowsFile):
        sent = _from_file(target, source, counts)
    elif target.schema is None:
        sent = [infer(target, drawn.arrays(_told(target), rows, rng, source.id_range)) for rows in counts]
    else:
        schema = target.schema
        sent = [request(target, schema, drawn.columns(schema, rows, rng), rows) for rows in counts]
    return Load(size.name, tuple(sent), tuple(counts[: len(sent)]), (None,) * len(sent))


def _told(target: Target) -> Sequence[Tensor]:
    if not target.tensors:
        raise DataError(
            "a model whose schema nobody tells has inputs in its metadata",
            found="none",
            where=f"{target.access.endpoint}, model {target.model!r}",
            remedy="Name the version's directory with --bundle",
        )
    return target.tensors


def _from_file(target: Target, source: RowsFile, counts: Sequence[int]) -> list[bytes]:
    """Requests of consecutive rows, as many as the file has rows for."""
    path, schema = source.path, target.schema
    if schema is None:
        raise DataError(
            "rows of a file become inputs by the model's schema",
            found="a server that does not tell it",
            where=str(path),
            remedy="Name the version's directory with --bundle",
        )
    batch = next(files.read(path, schema, sum(counts), ignored=source.ignored), None)
    found = 0 if batch is None else batch.rows
    bounds = [end for end in accumulate(counts, initial=0) if end <= found]
    if batch is None or len(bounds) < 2:
        raise DataError(
            f"a bench of {counts[0]} rows per call has that many rows to send",
            found=f"{found} rows",
            where=str(path),
            remedy="Ask for fewer --rows, or give a longer file",
        )
    return [request(target, schema, each.columns, each.rows) for each in parts(batch.columns, found, bounds)]
