"""Options of a budget search over fields that are made up, without rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from quorem.protos import manifest_pb2 as pb
from quorem.train.budget.fitted import Fitter
from quorem.train.budget.options import Options, options_of
from quorem.train.budget.schemes import Ladder, ladders
from quorem.train.recipe import Recipe
from quorem.train.semantic import Semantics
from runs import categorical, classes

SIZES = {"huge": 50_000, "large": 3000, "tags": 400, "kind": 30, "brand": 40, "chosen": 500}
DIMS = (2, 4, 8)
OWN = {"tags": (1, 8), "kind": (2, 3)}
SECTION: dict[str, Any] = {"method": "budget", "budget": "4x", "candidates": DIMS, "fields": OWN}
RECIPE: dict[str, Any] = {
    "data": {"source": "csv", "train": "none.csv", "valid": "none.csv"},
    "features": {
        **{name: {"kind": "categorical", "encoding": "id", "size": size} for name, size in SIZES.items()},
        "tags": {"kind": "bag", "encoding": "vocabulary", "values": "integer", "max_length": 3},
    },
    "model": {"name": "deepfm", "mlp": [4]},
}
BRANDS = Semantics([(1, 8), (1, 6)], list(classes(41, [8, 6])), 0)


def recipe_of(search: dict[str, Any] | None = None, **embedding: Any) -> Recipe:
    """The recipe: `chosen` is hashed, `brand` has classes of its own."""
    fields = {
        "chosen": {"scheme": "hash", "rows": 90},
        "brand": {"scheme": "semantic", "table": "none.csv", "partitions": ["one", "two"]},
    }
    told = {"embedding": {"dim": 8, "fields": fields, **embedding}, "search": SECTION | (search or {})}
    return Recipe.model_validate(RECIPE | told)


def schema_of() -> pb.Schema:
    """Its features."""
    features = [categorical(name, "id", size) for name, size in SIZES.items() if name != "tags"]
    return pb.Schema(features=[*features, categorical("tags", "vocabulary", SIZES["tags"], bag=3)])


def ladders_of(recipe: Recipe, budgets: Sequence[int]) -> dict[str, Ladder]:
    """The schemes of its fields."""
    return ladders(recipe, schema_of(), {"brand": BRANDS}, budgets, DIMS[-1])


def options_for(recipe: Recipe, budgets: Sequence[int] = (200_000, 20_000)) -> Options:
    """Its options."""
    found = ladders_of(recipe, budgets)
    return options_of(found, recipe.search, recipe.embedding, first_order=recipe.model.first_order)


def fitter_for(recipe: Recipe, budgets: Sequence[int] = (200_000, 20_000)) -> Fitter:
    """What makes its plans."""
    return Fitter(recipe, schema_of(), {"brand": BRANDS}, options_for(recipe, budgets))


def largest(options: Options) -> list[tuple[int, int, int]]:
    """The options that take the most."""
    places = [np.where(own, size, -1).argmax() for own, size in zip(options.allowed, options.sizes, strict=True)]
    shape = options.sizes.shape[1:]
    return [(int(s), int(d), int(b)) for s, d, b in (np.unravel_index(place, shape) for place in places)]
