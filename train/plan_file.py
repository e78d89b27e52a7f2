"""The plan that `--plan` names: read before any rows are, and fitted to the recipe once their schema is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..protos import manifest_pb2 as pb
from ..protos import pareto, plan, plan_directory
from ..protos.errors import MissingFile, PlanError
from .planning import classes_of, first_order_of
from .recipe import Recipe
from .semantic import Semantics


@dataclass(frozen=True)
class Given:
    """A plan, and the search that found it; none where it stands alone."""

    plan: pb.Plan
    search: pb.Search | None
    path: Path


def read_plan(path: Path) -> Given:
    """The plan of a plan directory, or of a plan.json alone.

    A plan.json beside a search.json is that directory's, named by the one or the other.

    Raises:
        MissingFile, Malformed, NewerFormat, UnsafePath, WrongDigest, PlanError, NotComplementary: see errors.
    """
    directory = plan_directory.directory_of(path)
    if (several := pareto.directory_of(path) / pareto.NAME).exists():
        raise MissingFile(
            "--plan names one plan",
            found=f"{pareto.NAME}, of plans for several budgets",
            where=str(several.parent),
            remedy=f"Name one of its directories: `quorem inspect {several.parent}` tells them",
        )
    if path.is_dir() or (directory != path and (directory / plan_directory.SEARCH).exists()):
        return Given(*plan_directory.read_plan(directory), directory)
    if not path.is_file():
        raise MissingFile(
            "--plan names a plan directory or a plan.json", found="neither", where=str(path), remedy="Check the path"
        )
    bare = plan_directory.read_bare_plan(path)
    for kind, fields in (("fields", bare.fields), ("first_order", bare.first_order)):
        for field in fields:
            plan.check_field(field, f"{path}, plan.{kind}, feature {field.feature!r}")
    return Given(bare, None, path)


def plan_for(given: Given, recipe: Recipe, features: pb.Schema, semantics: Mapping[str, Semantics]) -> pb.Plan:
    """The tables that a recipe's model has by the given plan.

    A plan that was searched with one model may be trained with another: it gives its fields, and first-order tables are
    made from them as the recipe says. A plan that stands alone is taken as it is.

    Raises:
        WrongSchema: it was searched for other features.
        WrongClasses, NotComplementary: see planning.py.
        PlanError: a plan that stands alone has first-order tables, and the model reads none.
    """
    made, where = given.plan, str(given.path)
    if given.search is None:
        if made.first_order and not recipe.model.first_order:
            raise PlanError(
                "a plan has first-order tables only for a model that reads them",
                found=f"first-order tables for {recipe.model.name}",
                where=where,
                remedy="Leave `first_order` out of the plan, or train the model that it was made for",
            )
        return made
    plan_directory.check_schema(given.search, features, where)
    fitted = pb.Plan(fields=made.fields)
    if recipe.model.first_order:
        classes_of(fitted, semantics, where)  # first-order tables share the classes: they are proved before
        place = {feature.name: position for position, feature in enumerate(features.features)}
        in_order = sorted(made.fields, key=lambda field: place[field.feature])
        fitted.first_order.extend(first_order_of(in_order, recipe.embedding, semantics))
    return fitted
