"""The tables of a field, as `quorem inspect` tells them: facts for a script, a few words for a reader."""

from collections.abc import Callable
from typing import Any

from . import manifest_pb2 as pb
from . import plan

Facts = dict[str, Any]


def field_facts(field: pb.Field, size: Callable[[pb.Field], int]) -> Facts:
    """How the tables are joined and how large they are; `size` counts the bytes that are theirs."""
    held, full = size(field), plan.full_bytes(field)
    return {
        "scheme": pb.Scheme.Name(field.scheme).lower(),
        "combine": pb.Combine.Name(field.combine).lower(),
        "hidden": field.hidden,
        "dim": field.dim,
        "tables": [
            {"divide": table.divide, "rows": table.rows, "dim": table.dim, "classes": table.classes, "bits": table.bits}
            for table in field.tables
        ],
        "complementary": field.complementary,
        "collisions": field.collisions,
        "bytes": held,
        "full_bytes": full,
        "compression": full / held,
    }


def told_bits(facts: Facts) -> str:
    """The bits of a number in the tables of few bits; empty where all are float32."""
    return str(facts["tables"][0]["bits"] or "")


def told_tables(facts: Facts) -> str:
    """The (divide,rows) of each table, or (classes,rows)."""
    return " ".join(
        f"(classes,{table['rows']})" if table["classes"] else f"({table['divide']},{table['rows']})"
        for table in facts["tables"]
    )
