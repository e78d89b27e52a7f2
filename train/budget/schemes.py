"""The schemes that a field may have under a budget: full, quotient-remainder of several c, mixed radix.

Legend: n ids of a field; r rows of all tables of a scheme; a fair share: what a field has of the budget by its ids.
"""

from collections.abc import Mapping, Sequence

from ...protos import manifest_pb2 as pb
from ...protos import partitions, plan, schema
from ...protos.errors import RecipeError
from ..planning import COMBINES, make_plan
from ..recipe import EmbeddingConfig, FieldConfig, Recipe
from ..semantic import Semantics
from ..sizes import Sizes, Tables, choose_tables

COLLISIONS = (2, 4, 16, 64, 256, 1024)  # c of quotient-remainder, while it has fewer quotients than remainders
MIXED = (2, 3, 4)  # tables of mixed radix
SMALL = 0.01  # of a budget: a field that takes less with a byte an id stays full
ROOMY, TIGHT = 64, 1  # bytes a row: rows on which a fair share buys more, or less, are not tried
BITS = 8  # of a plan in which bits are still to be chosen
Ladder = Sequence[pb.Field]  # a field's schemes, by falling rows


def full_plan(recipe: Recipe, features: pb.Schema, semantics: Mapping[str, Semantics], dim: int) -> pb.Plan:
    """Every field full and in float32, of one dim, but for those whose scheme the recipe says: `10x` counts from it."""
    fields = {name: config.model_copy(update={"dim": dim, "bits": 0}) for name, config in _given(recipe).items()}
    config = EmbeddingConfig(
        scheme="full",
        combine=recipe.embedding.combine,
        dim=dim,
        first_order=recipe.embedding.first_order,
        allow_collisions=recipe.embedding.allow_collisions,
        fields=fields,
    )
    return make_plan(config, features, semantics, first_order=recipe.model.first_order)


def ladders(
    recipe: Recipe, features: pb.Schema, semantics: Mapping[str, Semantics], budgets: Sequence[int], dim: int
) -> dict[str, Ladder]:
    """Each field's schemes, of vectors of a dim, in the schema's order; `budgets` fall.

    Raises:
        RecipeError: tables that are joined by another combine than mult or add.
    """
    made = {field.feature: field for field in full_plan(recipe, features, semantics, dim).fields}
    ids = sum(field.cardinality for field in made.values())
    found = dict[str, Ladder]()
    for feature in features.features:
        if not schema.has_ids(feature):
            continue
        base = made[feature.name]
        shares = [budget * base.cardinality / ids for budget in budgets]
        known = semantics.get(feature.name)
        own = recipe.embedding.fields.get(feature.name, FieldConfig())
        combine = COMBINES[own.combine or recipe.embedding.combine]
        tables = [plan.pairs(base)]
        if (
            known is None
            and own.scheme is None
            and base.cardinality > max(recipe.embedding.threshold, SMALL * budgets[-1])
        ):
            tables = _pruned(base.cardinality, shares[0], shares[-1])
        if combine not in (pb.MULT, pb.ADD) and (len(tables) > 1 or len(tables[0]) > 1):
            raise RecipeError(
                "a budget search joins tables by mult or add",
                found=f'combine = "{own.combine or recipe.embedding.combine}"',
                where=f"[embedding], field {feature.name!r}",
                remedy="Set embedding.combine to one of them",
            )
        found[feature.name] = [
            plan.build_field(
                feature.name,
                base.cardinality,
                each,
                scheme=_scheme(base, each),
                combine=combine,
                dim=dim,
                classes=known.classes if known else (),
                allow_collisions=base.allow_collisions,
                bits=BITS,
            )
            for each in tables
        ]
    return found


def _given(recipe: Recipe) -> dict[str, FieldConfig]:
    """What the recipe says of fields whose scheme is theirs."""
    return {name: config for name, config in recipe.embedding.fields.items() if config.scheme is not None}


def _scheme(base: pb.Field, tables: Tables) -> pb.Scheme:
    if tables == plan.pairs(base):
        return base.scheme
    return pb.QUOTIENT_REMAINDER if len(tables) == 2 else pb.MIXED_RADIX  # as tables.bin counts them


def _pruned(n: int, most: float, least: float) -> list[Tables]:
    """The tables that shares of the budgets suit, from the most to the least; the smallest in any case."""
    every = [partitions.full(n)]
    for collisions in COLLISIONS:
        if collisions * collisions * 2 < n:
            every.append(partitions.quotient_remainder(n, partitions.remainder_rows(n, collisions)))
    for k in MIXED:
        if n > 2**k:
            every.append(choose_tables("mixed_radix", n, Sizes(pb.MULT, 1, tables=k)))
    rows = [sum(count for _, count in tables) for tables in every]
    falling = [0, *(place for place in range(1, len(every)) if rows[place] < rows[place - 1])]
    wanted = [place for place in falling if least / ROOMY <= rows[place] <= most / TIGHT]
    return [every[place] for place in sorted({*wanted, falling[-1]})]
