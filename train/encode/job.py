"""The job: raw rows become a cache, stage by stage; an interrupted one goes on where it was."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import xxhash
from google.protobuf import json_format

from ...protos import manifest_pb2 as pb
from ...protos.errors import QuoremError, RecipeError
from ...protos.manifest import write_atomically
from ..columns import column_types
from ..data import files_of, request_of
from ..fit import provisional_schema
from ..origin import Origin
from ..recipe import Recipe
from . import cache as caches
from .assign import assign
from .cache import Cache, described, recipe_key, write_cache
from .parts import counts_by_part
from .pieces import Piece, cut, layout_of
from .pool import Pool
from .progress import Progress
from .scan import Scan
from .shards import lay_out
from .stages import check_bad, check_splits, count_all, fit_all, keep_rows, parts_of, scan_all, write_all

WORK = ".work"
_CHUNK = 2**24
_STRETCH = (2**20, 2**25)  # bytes of text that a process has at a time
_COPIES = 24  # of them that it holds at once, about, as columns and codes
_COUNT_BYTES = 100  # that counting a distinct value takes at its peak


@dataclass(frozen=True)
class Limits:
    """How many processes there are; how many bytes they may work in together; the share of bad rows that is borne."""

    jobs: int
    memory: int
    bad: float

    @property
    def stretch(self) -> int:
        """Bytes of text that a process takes at a time."""
        low, high = _STRETCH
        return min(high, max(low, self.memory // (self.jobs * _COPIES)))

    @property
    def distinct(self) -> int:
        """Distinct values that a process counts at a time."""
        return max(2**16, self.memory // (self.jobs * _COUNT_BYTES))


def encode(
    recipe: Recipe,
    base: Path,
    out: Path,
    limits: Limits,
    pool: Pool,
    progress: Progress,
    origin: Origin | None = None,
) -> tuple[Cache, bool]:
    """Encode the rows of a recipe whose relative paths start from `base` into the directory `out`.

    With an `origin` its schema and vocabularies are gone on with, as `grow_schema` does for rows in memory.

    Returns:
        The cache, and whether it was there already: of the same rows and recipe, its digests verified.

    Raises:
        RecipeError: made rows; a directory that holds something else. DataError: rows that break a rule.
    """
    data = recipe.data
    if data.source == "synthetic":
        raise RecipeError(
            "rows in files are encoded; made rows are not kept anywhere",
            found='source = "synthetic"',
            where="data.source",
            remedy="Train without a cache",
        )
    request = request_of(data, list(recipe.features), column_types(recipe.features))
    sources = [
        ("all" if split == "path" else split, path) for split, paths in files_of(data, base).items() for path in paths
    ]
    digests = _digest(sources, pool, progress)
    told = [
        {"split": split, "name": path.name, "bytes": path.stat().st_size, "xxh3": digest}
        for (split, path), digest in zip(sources, digests, strict=True)
    ]
    grown = [origin.sha256] if origin else []
    key = xxhash.xxh3_128_hexdigest(json.dumps([recipe_key(recipe), told, *grown]).encode())
    if (out / caches.NAME).exists():
        found = caches.read_cache(out, verify_digests=True)
        if found.key != key:
            raise _taken(out, "a cache of other rows, of another recipe, or grown from another run")
        return found, True
    stretch = _open(out, key, limits.stretch)
    schema = provisional_schema(recipe.features)
    if origin:
        schema.CopyFrom(origin.manifest.schema)
    scan = Scan(
        schema.SerializeToString(),
        recipe.features,
        data.source,
        layout_of(data),
        request,
        out / WORK,
        stretch,
        limits.bad > 0,
    )
    with _alone(out):
        for left in out.glob(".*.safetensors.*"):  # half written, by one that was killed
            left.unlink()
        pieces = cut(data, sources, stretch)
        cache = _encode(recipe, schema, scan, pieces, limits, pool, progress, origin)
        cache = replace(cache, sources=told, key=key)
        write_cache(out, cache)
        shutil.rmtree(out / WORK)
        return cache, False


def _encode(
    recipe: Recipe,
    schema: pb.Schema,
    scan: Scan,
    pieces: Sequence[Piece],
    limits: Limits,
    pool: Pool,
    progress: Progress,
    origin: Origin | None,
) -> Cache:
    """All stages; the manifest, but for what is known of the sources."""
    data, out = recipe.data, scan.work.parent
    scanned = scan_all(scan, pieces, data.rows, pool, progress)
    bad = check_bad(pieces, scanned, limits.bad)
    parts = parts_of(pieces, scanned, data.rows)
    if data.split is not None:
        assign(parts, data.split, str(data.path))
    splits = {split: counts_by_part(parts, split) for split in ("train", "valid", "test")}
    check_splits(splits, data)
    fitted = 0 if origin else fit_all(schema, recipe, parts, splits["train"])
    weights = origin.weights_file.absolute() if origin else None
    vocabularies, counted = count_all(schema, out, parts, limits.distinct, pool, progress, weights)
    shards = write_all(schema, out, parts, splits, vocabularies, pool, progress)
    return Cache(
        format_version=caches.FORMAT,
        recipe=recipe_key(recipe),
        key="",
        sources=[],
        schema=json_format.MessageToDict(schema, preserving_proto_field_name=True),
        slots=[asdict(slot) for slot in lay_out(schema)],
        splits={
            split: {
                "rows": sum(made.rows for made in each),
                "positives": sum(made.positives for made in each),
                "shards": [
                    {"file": made.file, "rows": made.rows, "sha256": made.sha256}
                    | {"bytes": (out / made.file).stat().st_size}
                    for made in each
                ],
            }
            for split, each in shards.items()
        },
        vocabularies={name: {"values": counted[name]} | described(Path(file)) for name, file in vocabularies.items()},
        kept=keep_rows(schema, out, parts, splits),
        fitted_rows=fitted,
        bad=bad,
        from_sha256=origin.sha256 if origin else "",
    )


def _digest(sources: Sequence[tuple[str, Path]], pool: Pool, progress: Progress) -> list[str]:
    sizes = [path.stat().st_size for _, path in sources]
    progress.begin("knowing the files", sum(sizes))
    digests = [""] * len(sources)
    for number, digest in pool.run(digest_file, [(path,) for _, path in sources]):
        digests[number] = digest
        progress.add(sizes[number])
    return digests


def digest_file(path: Path) -> str:
    """128 bits of XXH3 over a file, 32 hex digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _open(out: Path, key: str, stretch: int) -> int:
    """Make the directory, or go on in it; returns the bytes of a stretch with which it was begun."""
    note = out / WORK / "key.json"
    if note.exists():
        begun = json.loads(note.read_text())
        if begun["key"] != key:
            raise _taken(out, "an unfinished encoding of other rows, of another recipe, or from another run")
        return begun["stretch"]
    if out.exists() and (not out.is_dir() or any(each.name != WORK for each in out.iterdir())):
        raise _taken(out, "something else")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps({"key": key, "stretch": stretch}).encode())
    return stretch


def _taken(out: Path, found: str) -> RecipeError:
    return RecipeError(
        "a cache is written into a new or empty directory",
        found=found,
        where=str(out),
        remedy="Name another --out, or delete the directory",
    )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a directory alone, where the system can lock files."""
    if os.name == "nt":
        yield
        return
    import fcntl

    with (out / WORK / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QuoremError(
                "one `quorem encode` at a time works in a directory",
                found="another one at work",
                where=str(out),
                remedy="Wait for it, or name another --out",
            ) from None
        yield
