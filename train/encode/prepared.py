"""Prepared: what a cache holds, as training takes it."""

from pathlib import Path

from ...protos.encode import Encoded
from ...protos.errors import RecipeError
from ...protos.ids import VocabularyValues
from ..data import Facts
from ..kept import Kept
from ..recipe import Recipe
from ..sources.paths import expand
from .arrays import map_arrays
from .cache import KEPT, Cache, check_origin, check_recipe, read_cache
from .source import Cached


class Opened:
    """A cache that a recipe names in `data.cache`, checked to be of that recipe.

    cache: its manifest. vocabularies: feature -> values. facts: of its rows.
    """

    def __init__(self, recipe: Recipe, base: Path, origin: str = "") -> None:
        """Open it; relative paths start from `base`, and `origin` is the digest of the run that is gone on from.

        Raises:
            ArtifactError: see `read_cache`. RecipeError: a cache of another recipe, of other rows or from another run;
                made rows.
        """
        assert recipe.data.cache is not None
        if recipe.data.source == "synthetic":
            raise RecipeError(
                "a cache is of rows in files",
                found='source = "synthetic"',
                where="data.cache",
                remedy="Train without a cache",
            )
        self.directory = base / Path(expand(recipe.data.cache, "data.cache")).expanduser()
        self.cache: Cache = read_cache(self.directory)
        check_recipe(self.cache, recipe, base, self.directory)
        check_origin(self.cache, origin, self.directory)
        self.vocabularies = dict[str, VocabularyValues]()
        for name, told in self.cache.vocabularies.items():
            arrays = map_arrays(self.directory / str(told["file"]))[0]
            self.vocabularies[name] = VocabularyValues(arrays["values"].copy(), arrays["ids"].copy())
        splits = self.cache.splits
        self.facts = Facts(
            recipe.data.source,
            tuple(str(each["name"]) for each in self.cache.sources),
            {name: int(split["rows"]) for name, split in splits.items()},
            {name: int(split["positives"]) for name, split in splits.items()},
        )

    def split(self, name: str) -> Cached:
        """The rows of a split, mapped."""
        return Cached(self.directory, self.cache, name)

    def kept(self, name: str) -> Kept:
        """Rows that were kept as a graph takes them: calibration, validation or reference."""
        arrays = map_arrays(self.directory / KEPT)[0]
        return Kept(
            arrays[f"{name}.places"].copy(), Encoded(arrays[f"{name}.ids"].copy(), arrays[f"{name}.dense"].copy())
        )
