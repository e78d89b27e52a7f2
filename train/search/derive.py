"""Derive: a plan in which every field has the widest candidate's dim, and the plan that chosen dims leave of it."""

from collections.abc import Mapping

from ...protos import manifest_pb2 as pb
from ...protos import packing, plan
from ...protos.errors import RecipeError
from ..planning import make_plan
from ..recipe import FieldConfig, Recipe
from ..semantic import Semantics


def wide_plan(recipe: Recipe, features: pb.Schema, semantics: Mapping[str, Semantics]) -> pb.Plan:
    """Every field's tables, whatever their scheme, with vectors as wide as its widest candidate.

    Raises:
        RecipeError: tables whose rows follow from bytes, and so from the dim that is sought.
        PlanError: see planning.py.
    """
    config = recipe.embedding
    sized = [name for name, field in config.fields.items() if field.bytes]
    if config.bytes or sized:
        raise RecipeError(
            "a search chooses the dims of tables whose rows are known",
            found="`bytes`, whose rows depend on the dim",
            where=f"[embedding.fields], {sized[0]}" if sized else "[embedding]",
            remedy="Say `rows`, `collisions` or `tables` instead",
        )
    fields = dict(config.fields)
    for feature in features.features:
        own = fields.get(feature.name, FieldConfig())
        width = recipe.search.width_of(feature.name)
        fields[feature.name] = own.model_copy(update={"dim": width})
    wide = config.model_copy(update={"fields": fields})
    return make_plan(wide, features, semantics, first_order=recipe.model.first_order)


def with_dims(wide: pb.Plan, dims: Mapping[str, int], semantics: Mapping[str, Semantics]) -> pb.Plan:
    """The same tables with other dims: a field's dim is that of all its tables, as the combine has it.

    Raises:
        WrongDims: a dim that the combine cannot share out.
    """
    fields = list[pb.Field]()
    for field in wide.fields:
        known = semantics.get(field.feature)
        fields.append(
            plan.build_field(
                field.feature,
                field.cardinality,
                plan.pairs(field),
                scheme=field.scheme,
                combine=field.combine,
                dim=dims[field.feature],
                hidden=field.hidden,
                classes=known.classes if known else (),
                allow_collisions=field.allow_collisions,
                bits=field.tables[0].bits,
            )
        )
    return pb.Plan(fields=packing.pack(fields), first_order=wide.first_order)
