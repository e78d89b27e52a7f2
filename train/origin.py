"""The origin: the finished run that rows or a run go on from, or learn from, told without its weights."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos.errors import Malformed, RecipeError
from .encode.arrays import map_arrays
from .recipe import Recipe
from .recipe_file import read_recipe

RECIPE, WEIGHTS = "recipe.toml", "weights.safetensors"  # of a run directory
SAME = ("features", "embedding", "model")  # sections that decide what the weights mean


@dataclass(frozen=True)
class Origin:
    """A finished run, verified.

    sha256: of its manifest.json.
    """

    path: Path
    manifest: pb.Manifest
    sha256: str

    @property
    def recipe(self) -> Recipe:
        """What it was made from."""
        return read_recipe(str(self.path / RECIPE))[0]

    @property
    def weights_file(self) -> Path:
        """The file of its weights; `vocabulary.FEATURE.values` and `.ids` are among them."""
        return self.path / WEIGHTS


def read_origin(path: Path, resolved: str) -> Origin:
    """The run at `path`, for a recipe (resolved, as TOML) that differs from its own in data and training alone.

    Raises:
        RecipeError: the recipes differ in more; it names the keys. Or that run's cannot be read.
        ArtifactError: not a run, or one that cannot be trusted.
    """
    origin = read_finished(path)
    now = Recipe.model_validate(tomllib.loads(resolved))
    if differing := sorted(_differing(_sections(origin.recipe), _sections(now))):
        raise RecipeError(
            "a run goes on from one whose recipe differs in [data] and [train] alone",
            found=f"other {', '.join(differing)}",
            where=str(path / RECIPE),
            remedy="Write these keys as that run has them, or train afresh",
        )
    return origin


def read_finished(path: Path) -> Origin:
    """The run at `path`, whatever its recipe.

    Raises:
        ArtifactError: not a run, or one that cannot be trusted.
    """
    manifest = manifests.read(path)
    if manifest.HasField("export") or not (path / RECIPE).is_file():
        raise Malformed(
            "one goes on from, or learns from, a run directory",
            found="a bundle" if manifest.HasField("export") else f"no {RECIPE}",
            where=str(path),
            remedy="Name the directory that `quorem train` wrote",
        )
    origin = Origin(path, manifest, manifests.sha256_of(path / manifests.NAME))
    found = {name: (str(each.dtype), each.shape) for name, each in map_arrays(origin.weights_file)[0].items()}
    manifests.check_tensors(manifests.tensor_shapes(manifest), found, str(origin.weights_file))
    return origin


def _sections(recipe: Recipe) -> dict[str, Any]:
    """The sections that must be the same, with every default in its place."""
    whole = recipe.model_dump(mode="json")
    return {section: whole[section] for section in SAME}


def _differing(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """The dotted keys whose values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differing(before.get(key), now.get(key), f"{place}.{key}" if place else key)
    elif before != now:
        yield place
