"""The single methods: of hashing, quotient-remainder and mixed radix in float32, the largest that fits each budget."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quorem.protos import schema
from quorem.protos.tables_bin import plan_bytes
from quorem.train.planning import make_plan
from quorem.train.prepare import Prepared
from quorem.train.recipe import Recipe

ARMS = {"hash": "hashing", "qr": "quotient-remainder", "mixed_radix": "mixed radix"}
KEYS = {"hash": "collisions", "qr": "collisions", "mixed_radix": "tables"}
TOLD = {"collisions": "c = {}", "tables": "{} tables"}
MOST_TABLES = 16
LOWER = (8, 4, 2)  # dims beside the recipe's


@dataclass(frozen=True)
class Single:
    """A scheme for all fields, its number of collisions or tables, a dim; and the largest budget it was made for."""

    scheme: str
    count: int
    dim: int
    budget: str

    @property
    def arm(self) -> str:
        """What it is called."""
        return ARMS[self.scheme]

    @property
    def setting(self) -> str:
        """What tells it from others of its arm."""
        return f"{TOLD[KEYS[self.scheme]].format(self.count)}, dim {self.dim}"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.scheme}-{self.count}-dim-{self.dim}"

    @property
    def sets(self) -> tuple[str, ...]:
        """The settings of a recipe that has it."""
        return (
            f"embedding.scheme={self.scheme}",
            f"embedding.{KEYS[self.scheme]}={self.count}",
            f"embedding.dim={self.dim}",
        )


def singles(recipe: Recipe, prepared: Prepared, budgets: Mapping[str, int], *, every_dim: bool) -> list[Single]:
    """The largest of each scheme within each budget, of the recipe's dim, or of lower ones where that never fits.

    With `every_dim`, of all those dims. What is the largest of two budgets comes once.
    """
    found = dict[tuple[str, int, int], Single]()
    dims = [recipe.embedding.dim, *(dim for dim in LOWER if dim < recipe.embedding.dim)]
    for scheme in ARMS:
        for text, budget in budgets.items():
            for dim in dims:
                counts = _counts(scheme, prepared)
                fits = (each for each in counts if _bytes(recipe, prepared, scheme, each, dim) <= budget)
                if (least := next(fits, None)) is not None:
                    found.setdefault((scheme, least, dim), Single(scheme, least, dim, text))
                    if not every_dim:
                        break
    return list(found.values())


def _counts(scheme: str, prepared: Prepared) -> Sequence[int]:
    """The collisions or tables that there may be, from the largest tables on."""
    largest = max(_cardinalities(prepared))
    return range(2, {"hash": largest, "qr": math.isqrt(largest) + 1, "mixed_radix": MOST_TABLES}[scheme] + 1)


def _cardinalities(prepared: Prepared) -> Iterator[int]:
    return (schema.cardinality(each) for each in prepared.schema.features if schema.has_ids(each))


def _bytes(recipe: Recipe, prepared: Prepared, scheme: str, count: int, dim: int) -> int:
    config = recipe.embedding.model_copy(update={"scheme": scheme, KEYS[scheme]: count, "dim": dim})
    made = make_plan(config, prepared.schema, prepared.semantics, first_order=recipe.model.first_order)
    return sum(plan_bytes(prepared.schema, made).values())
