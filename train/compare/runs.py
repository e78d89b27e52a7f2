"""The runs of an arm: a recipe with its settings and a seed, resolved for a training and for the search before it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...protos.errors import RecipeError
from ..recipe import Recipe
from ..recipe_file import read_recipe, shipped_recipes, to_toml
from ..search.config import KEYS
from .training import Kind, Run

DIGEST_DIGITS = 16
USUAL_EPOCHS = 20  # that early stopping leaves of a hundred, where the study does not say
COSTLESS = {"choice", "lr", "tau_min", "tau_rate", "penalty", "alpha", "parameters"}  # keys of [search]


@dataclass(frozen=True)
class Source:
    """What an arm's runs are made from.

    recipe: a file, or the name of a shipped one. epochs: how many the study expects of a training, if it says so.
    where: the arm, for errors.
    """

    recipe: str
    epochs: int | None
    where: str

    def training(self, laid: Sequence[str], seed: int, search: Run | None) -> Run:
        """A training under these settings, of the plan that `search` finds. What [search] says is no part of it.

        Raises:
            RecipeError: the recipe breaks a rule; it names the arm.
        """
        recipe, text = self._resolve(laid, seed, search=False)
        return Run(
            digest=_digest(text, *([search.digest] if search else [])),
            seed=seed,
            verb="train",
            text=text,
            recipe=self.recipe,
            settings=tuple(laid),
            kind=self._kind(recipe),
            epochs=self._epochs(recipe),
            search=search,
        )

    def search(self, laid: Sequence[str], seed: int, *, measured: bool) -> Run:
        """A search under these settings; `measured`: its own metrics are wanted.

        Raises:
            RecipeError: see `training`; or metrics are wanted of a search that trains nothing.
        """
        recipe, text = self._resolve(laid, seed, search=True)
        section, trial = recipe.search, self._kind(recipe)
        if measured and section.method == "mixed":
            raise RecipeError(
                "a search has metrics where it trains something",
                found='search.method = "mixed"',
                where=self.where,
                remedy="Leave `measure` out: its plan is trained",
            )
        costs = section.model_dump_json(include=KEYS[section.method] - COSTLESS)
        return Run(
            digest=_digest("search", text),
            seed=seed,
            verb="search",
            text=text,
            recipe=self.recipe,
            settings=tuple(laid),
            kind=Kind(
                f"{trial.name}, {section.method} search",
                trial.model,
                section.method + costs,
                trials=section.trials if section.method == "random" else 0,
                trial=trial if section.method == "random" else None,
            ),
            epochs=section.warmup + section.epochs if section.method == "autodim" else self._epochs(recipe),
        )

    def _resolve(self, laid: Sequence[str], seed: int, *, search: bool) -> tuple[Recipe, str]:
        """The recipe, and its text: with [search], whether or not that section is said, or without it."""
        try:
            recipe, base = read_recipe(self.recipe, laid, seed)
        except RecipeError as error:
            told = f"{self.where}: {error.where}"
            raise RecipeError(error.rule, found=error.found, where=told, remedy=error.remedy) from None
        return recipe, to_toml(recipe, base, search=search)

    def _kind(self, recipe: Recipe) -> Kind:
        return Kind(f"{Path(self.recipe).stem} {recipe.model.name}", recipe.model.model_dump_json())

    def _epochs(self, recipe: Recipe) -> int:
        return min(self.epochs or USUAL_EPOCHS, recipe.train.epochs)


def find_recipe(name: str, directory: Path) -> str:
    """A recipe as `read_recipe` takes it: a file beside the study, else the name of a shipped one."""
    beside = directory / name
    return name if not beside.is_file() and name in shipped_recipes() else str(beside)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGEST_DIGITS]
