"""Fitted: options become a plan that takes at most the budget, counted to the byte as it will be exported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...protos import manifest_pb2 as pb
from ...protos import packing, plan
from ...protos.errors import OverBudget
from ...protos.tables_bin import plan_bytes
from ..planning import first_order_of
from ..recipe import Recipe
from ..semantic import Semantics
from .knapsack import pack
from .options import Option, Options

TRIES = 64  # of room, until the plan fits: what sizes do not know are neutral rows and alignment, a few hundred bytes


@dataclass(frozen=True)
class Fitter:
    """What makes plans of options: the recipe, its schema, its classes."""

    recipe: Recipe
    schema: pb.Schema
    semantics: Mapping[str, Semantics]
    options: Options

    def plan(self, chosen: Sequence[Option]) -> pb.Plan:
        """The plan of these options of the fields."""
        fields = list[pb.Field]()
        for number, option in enumerate(chosen):
            field, dim, bits = self.options.field(number, option)
            known = self.semantics.get(field.feature)
            fields.append(
                plan.build_field(
                    field.feature,
                    field.cardinality,
                    plan.pairs(field),
                    scheme=field.scheme,
                    combine=field.combine,
                    dim=dim,
                    classes=known.classes if known else (),
                    allow_collisions=field.allow_collisions,
                    bits=bits,
                )
            )
        terms = list[pb.Field]()
        if self.recipe.model.first_order:
            terms = first_order_of(fields, self.recipe.embedding, self.semantics)
        return pb.Plan(fields=packing.pack(fields), first_order=terms)

    def bytes(self, chosen: Sequence[Option]) -> int:
        """What `tables.bin` takes, vocabularies and alignment with it."""
        return sum(plan_bytes(self.schema, self.plan(chosen)).values())

    def smallest(self) -> int:
        """The least budget that some options fit."""
        return self.bytes(self._smallest())

    def fit(self, losses: Sequence[Mapping[Option, float]], budget: int) -> list[Option]:
        """The options of least loss, of those that have one, that fit a budget.

        Raises:
            OverBudget: none do.
        """
        sizes = [{option: int(self.options.sizes[f, *option]) for option in own} for f, own in enumerate(losses)]
        smallest = self._smallest()
        room = budget - self.bytes(smallest) + self.options.smallest()
        for _ in range(TRIES):
            chosen = pack(losses, sizes, room)
            if chosen is None:
                break
            over = self.bytes(chosen) - budget
            if over <= 0:
                return self._filled(chosen, losses, budget)
            room -= over
        if self.bytes(smallest) <= budget:
            return smallest
        raise self.refusal(budget)

    def refusal(self, budget: int) -> OverBudget:
        """The error of a budget that nothing fits."""
        return OverBudget(
            "a plan fits its budget: tables, scales, vocabularies and alignment, all of tables.bin",
            found=f"{budget:,} bytes, where the smallest plan takes {self.smallest():,}",
            where="search.budget",
            remedy=f"Ask for {self.smallest()} bytes or more, allow smaller dims or bits in [search], set "
            'embedding.first_order = "none", or encode a column of integers as `id` instead of by a vocabulary',
        )

    def _filled(self, chosen: list[Option], losses: Sequence[Mapping[Option, float]], budget: int) -> list[Option]:
        """The same, bettered field by field with what is left of the budget."""
        better = sorted(
            (own[option] - own[chosen[field]], field, option)
            for field, own in enumerate(losses)
            for option in own
            if own[option] < own[chosen[field]]
        )
        for gain, field, option in better:
            if gain < 0 and losses[field][option] < losses[field][chosen[field]]:
                tried = [*chosen[:field], option, *chosen[field + 1 :]]
                if self.bytes(tried) <= budget:
                    chosen = tried
        return chosen

    def _smallest(self) -> list[Option]:
        found = list[Option]()
        for field in range(len(self.options.features)):
            found.append(min(self.options.of(field), key=lambda option: self.options.sizes[field, *option]))
        return found
