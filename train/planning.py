"""From a recipe's `[embedding]` section, the fields' cardinalities and their classes to a plan."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ..protos import manifest_pb2 as pb
from ..protos import packing, partitions, plan, schema
from ..protos.collisions import Int32s
from ..protos.errors import NotComplementary, PlanError, WrongClasses
from ..protos.manifest import class_name
from .recipe import SIZE_KEYS, EmbeddingConfig, FieldConfig
from .semantic import Semantics
from .sizes import Sizes, Tables, choose_tables

SCHEMES = {
    "full": pb.FULL,
    "hash": pb.HASHED,
    "qr": pb.QUOTIENT_REMAINDER,
    "mixed_radix": pb.MIXED_RADIX,
    "chinese_remainder": pb.CHINESE_REMAINDER,
    "semantic": pb.SEMANTIC,
}
COMBINES = {"mult": pb.MULT, "add": pb.ADD, "concat": pb.CONCAT, "path": pb.PATH, "feature": pb.FEATURE}
FIRST_ORDER_COMBINES = {pb.CONCAT: pb.ADD, pb.FEATURE: pb.ADD}  # of dim 1: there is no half a number, nor a vector
Value = TypeVar("Value")


def make_plan(
    config: EmbeddingConfig, features: pb.Schema, semantics: Mapping[str, Semantics], *, first_order: bool
) -> pb.Plan:
    """Tables for every field with ids, in packing order; with `first_order`, of dim 1 as well, as the recipe has it.

    Raises:
        PlanError: sizes, dims or collisions that cannot be, and those below it in errors.py.
    """
    sizes = {feature.name: schema.cardinality(feature) for feature in features.features if schema.has_ids(feature)}
    fields = [_field(config, name, n, semantics.get(name)) for name, n in sizes.items()]
    terms = first_order_of(fields, config, semantics) if first_order else []
    return pb.Plan(fields=packing.pack(fields), first_order=terms)


def first_order_of(
    fields: Sequence[pb.Field], config: EmbeddingConfig, semantics: Mapping[str, Semantics]
) -> list[pb.Field]:
    """Tables of dim 1 for fields in schema order, in packing order; none where the recipe says so.

    Raises:
        PlanError: see plan.py.
    """
    if config.first_order == "none":
        return []
    return packing.pack([_first_order(field, semantics.get(field.feature), config.first_order) for field in fields])


def classes_of(made: pb.Plan, semantics: Mapping[str, Semantics], where: str) -> dict[str, Int32s]:
    """The classes that a plan's semantic fields take from the recipe, by the tensor's name, proved again.

    Raises:
        WrongClasses: the recipe has no classes for a table of the plan.
        NotComplementary: they do not tell ids apart as the plan says.
    """
    found = dict[str, Int32s]()
    for field in [*made.fields, *made.first_order]:
        wanted = plan.class_tables(field)
        if not wanted:
            continue
        place, known = f"{where}, field {field.feature!r}", semantics.get(field.feature)
        given = dict(enumerate(known.classes)) if known else {}
        arrays = {j: array for j in wanted if (array := given.get(j)) is not None}
        if len(arrays) < len(wanted):
            raise WrongClasses(
                "a plan's semantic fields take their classes from the recipe",
                found=f"{len(arrays)} partitions in the recipe, {len(wanted)} in the plan",
                where=place,
                remedy=f'Say scheme = "semantic" in [embedding.fields.{field.feature}], with the plan\'s partitions',
            )
        try:
            plan.check_classes(field, arrays, place)
        except (WrongClasses, NotComplementary) as error:
            remedy = f"Name the class table that the plan was made from in [embedding.fields.{field.feature}]"
            raise type(error)(error.rule, found=error.found, where=error.where, remedy=remedy) from None
        found |= {class_name(field.feature, j): array for j, array in arrays.items()}
    return found


def _field(config: EmbeddingConfig, name: str, n: int, known: Semantics | None) -> pb.Field:
    own = config.fields.get(name, FieldConfig())
    scheme, combine = own.scheme or config.scheme, COMBINES[own.combine or config.combine]
    dim, hidden = own.dim or config.dim, _or(own.hidden, config.hidden)
    allow = _or(own.allow_collisions, config.allow_collisions)
    try:
        if known:
            tables = known.tables
        else:
            tables = _tables(config, own, scheme, n, _sizes(config, own, combine, dim, hidden, allow))
            scheme = "full" if tables == partitions.full(n) else scheme
        return plan.build_field(
            name,
            n,
            tables,
            scheme=SCHEMES[scheme],
            combine=combine,
            dim=dim,
            hidden=hidden,
            classes=known.classes if known else (),
            allow_collisions=allow,
            bits=_or(own.bits, config.bits),
        )
    except PlanError as error:
        place = error.where or f"field {name!r}"
        raise type(error)(error.rule, found=error.found, where=f"[embedding], {place}", remedy=error.remedy) from None


def _tables(config: EmbeddingConfig, own: FieldConfig, scheme: str, n: int, sizes: Sizes) -> Tables:
    """The scheme's tables; full up to the threshold, and where they would be no smaller."""
    if own.scheme is None and (n <= config.threshold or n == 1 or ((sizes.rows or 0) >= n and not own.sized)):
        return partitions.full(n)
    tables = choose_tables(scheme, n, sizes)
    smaller = sum(rows for _, rows in tables) < n and sizes.numbers(tables) < n * sizes.dim
    return tables if sizes.exact or smaller else partitions.full(n)


def _sizes(config: EmbeddingConfig, own: FieldConfig, combine: pb.Combine, dim: int, hidden: int, allow: bool) -> Sizes:
    """The field's own sizes if it has any, else those of all fields."""
    given = {key: getattr(own if own.sized else config, key, None) for key in SIZE_KEYS}
    return Sizes(combine, dim, hidden, hash_rows=config.hash_rows, allow_collisions=allow, **given)


def _first_order(field: pb.Field, known: Semantics | None, kind: str) -> pb.Field:
    """The same tables in dim 1, sharing the classes; a path's functions are then linear: a weight and a bias each."""
    if kind == "full":
        n = field.cardinality
        return plan.build_field(field.feature, n, partitions.full(n), scheme=pb.FULL, combine=pb.ALONE, dim=1)
    return plan.build_field(
        field.feature,
        field.cardinality,
        plan.pairs(field),
        scheme=field.scheme,
        combine=FIRST_ORDER_COMBINES.get(field.combine, field.combine),
        dim=1,
        classes=known.classes if known else (),
        allow_collisions=field.allow_collisions,
    )


def _or(given: Value | None, default: Value) -> Value:
    return default if given is None else given
