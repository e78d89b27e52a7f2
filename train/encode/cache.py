"""The cache: a directory of shards, vocabularies and kept rows, and the manifest that makes it one, written last."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from ...protos import manifest_pb2 as pb
from ...protos.errors import DataError, Malformed, MissingFile, NewerFormat, RecipeError, WrongDigest
from ...protos.manifest import sha256_of, write_atomically
from ..data import files_of
from ..recipe import Recipe
from .shards import Slot

NAME, KEPT, FORMAT = "manifest.json", "kept.safetensors", 1


@dataclass(frozen=True)
class Cache:
    """What the manifest of a cache says.

    recipe: what of a recipe decides what its rows are encoded to, 64 hex digits. key: the same, and the sources'
        digests. sources: `split`, `name`, `bytes` and `xxh3` of every source file, in the order of their rows.
    schema: fitted to the training rows, as JSON. slots: where the ids of each feature stand. splits: for each split
        `rows`, `positives` and its `shards`, each with `file`, `rows`, `bytes` and `sha256`.
    vocabularies: for each feature that has one `file`, `values`, `bytes` and `sha256`; counts are exact. kept:
        likewise of the file of kept rows.
    fitted_rows: rows that means, scales and boundaries were fitted to; 0 where they are those of a run. bad: `rows`
        that were left out, and some `told`. from_sha256: of the manifest of the run whose schema and vocabularies
        these go on from, or "".
    """

    format_version: int
    recipe: str
    key: str
    sources: list[dict[str, Any]]
    schema: dict[str, Any]
    slots: list[dict[str, Any]]
    splits: dict[str, dict[str, Any]]
    vocabularies: dict[str, dict[str, Any]]
    kept: dict[str, Any]
    fitted_rows: int
    bad: dict[str, Any]
    from_sha256: str = ""

    def fitted(self) -> pb.Schema:
        """The schema."""
        return json_format.ParseDict(self.schema, pb.Schema())

    def places(self) -> list[Slot]:
        """The slots."""
        return [Slot(**each) for each in self.slots]

    def files(self) -> list[Mapping[str, Any]]:
        """`file`, `bytes` and `sha256` of every file."""
        shards = [shard for split in self.splits.values() for shard in split["shards"]]
        return [*shards, *self.vocabularies.values(), self.kept]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(each["bytes"] for each in self.files())


def recipe_key(recipe: Recipe) -> str:
    """What of a recipe decides what its rows are encoded to: how they are read and divided, and every feature."""
    data = recipe.data.model_dump(mode="json", exclude={"cache", "negative_rate"})
    for key in ("train", "valid", "test", "path"):
        data[key] = data[key] is not None  # where the files are is no part of what they hold
    features = {
        name: config.model_dump(mode="json", exclude={"reserve"}, exclude_unset=True)
        for name, config in recipe.features.items()
    }
    text = json.dumps([FORMAT, data, list(features.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def described(path: Path) -> dict[str, Any]:
    """Name, size and digest of a file, for the manifest."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_cache(directory: Path, cache: Cache) -> None:
    """Write the manifest: the same cache gives the same bytes."""
    write_atomically(directory / NAME, (json.dumps(asdict(cache), indent=1, sort_keys=True) + "\n").encode())


def read_cache(directory: Path, *, verify_digests: bool = False) -> Cache:
    """The cache in a directory, its files there and of their size; with `verify_digests`, also what was written.

    Raises:
        MissingFile, Malformed, NewerFormat, WrongDigest.
    """
    again = "Run `quorem encode` again, into another directory"
    path = directory / NAME
    if not path.is_file():
        unfinished = "; its encoding has not finished" if (directory / ".work").is_dir() else ""
        raise MissingFile(
            "a cache has a manifest", found=f"none{unfinished}", where=str(path), remedy="Run `quorem encode` first"
        )
    try:
        content = json.loads(path.read_bytes())
        if content["format_version"] > FORMAT:
            raise NewerFormat(
                "a cache is read by the release that wrote it, or a later one",
                found=f"format {content['format_version']}, this release knows {FORMAT}",
                where=str(path),
                remedy="Upgrade quorem, or encode again",
            )
        cache = Cache(**content)
        cache.fitted()
        listed = [(directory / str(each["file"]), int(each["bytes"]), str(each["sha256"])) for each in cache.files()]
    except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
        raise Malformed(
            "a cache's manifest is what quorem wrote", found=str(error)[:200], where=str(path), remedy=again
        ) from None
    for file, size, digest in listed:
        if file.parent != directory or not file.is_file():
            raise MissingFile("every file of a cache is there", found="none", where=str(file), remedy=again)
        if file.stat().st_size != size or (verify_digests and sha256_of(file) != digest):
            raise WrongDigest(
                "a file of a cache is the one that was written", found="another", where=str(file), remedy=again
            )
    return cache


def check_origin(cache: Cache, sha256: str, where: Path) -> None:
    """Refuse a cache that has not grown from the run whose manifest has this digest, "" for no run.

    Raises:
        RecipeError.
    """
    if cache.from_sha256 == sha256:
        return
    own = f"one encoded --from the run whose manifest.json has sha256 {cache.from_sha256}"
    again = f"`quorem encode RECIPE{' --from RUN' if sha256 else ''} --out CACHE`, into another directory"
    raise RecipeError(
        "a cache holds the ids of the run that it was encoded from: both go on --from the same run, or from none",
        found=own if cache.from_sha256 else "one encoded from no run",
        where=str(where),
        remedy=f"Train with --from that run, or encode these rows with {again}"
        if cache.from_sha256
        else f"Run {again}",
    )


def check_recipe(cache: Cache, recipe: Recipe, base: Path, where: Path) -> None:
    """Refuse a cache of another recipe, or of rows that have changed since, by the names and sizes of their files.

    Source files that are gone are not missed: the cache holds all that training reads.

    Raises:
        RecipeError.
    """
    remedy = "Run `quorem encode` again with this recipe, into another directory"
    if cache.recipe != recipe_key(recipe):
        raise RecipeError(
            "a cache is of the recipe that is trained: its [data] and its [features]",
            found="a cache of another recipe",
            where=str(where),
            remedy=remedy,
        )
    try:
        files = [path for paths in files_of(recipe.data, base).values() for path in paths]
    except DataError:
        return
    now = [(path.name, path.stat().st_size) for path in files]
    then = [(each["name"], each["bytes"]) for each in cache.sources]
    if now != then:
        raise RecipeError(
            "a cache is of the rows that the recipe names",
            found=f"files of other names or sizes than those of the {len(then)} that were encoded",
            where=str(where),
            remedy=remedy,
        )
