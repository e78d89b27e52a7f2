"""From a recipe's `[embedding]` section and the fields' cardinalities to a plan."""

from ..protos import manifest_pb2 as pb
from ..protos import packing, plan, schema
from .recipe import EmbeddingConfig, FieldConfig

SCHEMES = {
    "full": pb.FULL,
    "hash": pb.HASHED,
    "qr": pb.QUOTIENT_REMAINDER,
    "mixed_radix": pb.MIXED_RADIX,
    "chinese_remainder": pb.CHINESE_REMAINDER,
}
COMBINES = {"mult": pb.MULT, "add": pb.ADD, "concat": pb.CONCAT}


def make_plan(config: EmbeddingConfig, features: pb.Schema, *, first_order: bool) -> pb.Plan:
    """Tables for every field with ids, in packing order; with `first_order`, of dim 1 as well, as the recipe has it.

    Raises:
        PlanError: a dimension that the combine cannot share out, and the other rules of plan.check_field.
    """
    sizes = {feature.name: schema.cardinality(feature) for feature in features.features if schema.has_ids(feature)}
    made = pb.Plan()
    made.fields.extend(packing.pack([_field(config, name, n) for name, n in sizes.items()]))
    if first_order and config.first_order != "none":
        made.first_order.extend(packing.pack([_first_order(config, name, n) for name, n in sizes.items()]))
    return made


def _field(config: EmbeddingConfig, name: str, n: int) -> pb.Field:
    own = config.fields.get(name, FieldConfig())
    scheme = own.scheme or config.scheme
    # A field's own scheme is meant for it, however few ids it has.
    if n <= config.threshold and own.scheme is None:
        tables = plan.full(n)
    else:
        tables = _tables(scheme, n, own.collisions or config.collisions, own.tables or config.tables, config.hash_rows)
    return _build(name, n, tables, scheme, COMBINES[own.combine or config.combine], own.dim or config.dim)


def _first_order(config: EmbeddingConfig, name: str, n: int) -> pb.Field:
    """The same tables in dim 1; there is no half a number to concatenate, so concat becomes add."""
    if config.first_order == "full":
        return _build(name, n, plan.full(n), "full", pb.ALONE, 1)
    field = _field(config, name, n)
    combine = pb.ADD if field.combine == pb.CONCAT else field.combine
    return plan.build_field(name, n, plan.pairs(field), scheme=field.scheme, combine=combine, dim=1)


def _tables(scheme: str, n: int, collisions: int, k: int, hash_rows: str) -> list[tuple[int, int]]:
    """The scheme's tables; full where they would have no fewer rows."""
    m = -(-n // collisions)
    if scheme == "hash":
        return plan.hashed(n, m if hash_rows == "collisions" else _rows(plan.quotient_remainder(n, m)))
    if scheme == "full" or n < k:
        return plan.full(n)
    if scheme == "qr":
        tables = plan.quotient_remainder(n, m)
    elif scheme == "mixed_radix":
        tables = plan.mixed_radix(n, k)
    else:
        tables = plan.chinese_remainder(n, k)
    return tables if _rows(tables) < n else plan.full(n)


def _rows(tables: list[tuple[int, int]]) -> int:
    return sum(rows for _, rows in tables)


def _build(name: str, n: int, tables: list[tuple[int, int]], scheme: str, combine: pb.Combine, dim: int) -> pb.Field:
    kind = pb.FULL if tables == plan.full(n) else SCHEMES[scheme]
    return plan.build_field(name, n, tables, scheme=kind, combine=combine, dim=dim)
