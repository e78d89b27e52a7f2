"""The report of a finished run: tables by field, their bytes and collisions, and the metrics; a table or JSON."""

import math
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from ..protos import manifest_pb2 as pb
from ..protos import plan
from .reserve import growth_lines

PIPED_WIDTH = 160
SHORT = {pb.HASHED: "hash", pb.QUOTIENT_REMAINDER: "qr"}  # as recipes name them


def as_dict(manifest: pb.Manifest) -> dict[str, Any]:
    """The report for a script. Bytes are of tables (float32, or packed codes and scales) and of classes.

    First-order tables are counted apart. `bits` are 0 for float32, and of a path leave its functions out.
    `collisions` are the ids that share every row with another one, but for the first of those; `rows` and `hidden` are
    those of the manifest's tables.
    """
    fields = [
        {
            "feature": field.feature,
            "cardinality": field.cardinality,
            "scheme": SHORT.get(field.scheme, pb.Scheme.Name(field.scheme).lower()),
            "combine": pb.Combine.Name(field.combine).lower(),
            "hidden": field.hidden,
            "dim": field.dim,
            "bits": field.tables[0].bits,
            "rows": [table.rows for table in field.tables],
            "collisions": field.collisions,
            "bytes": plan.table_bytes(field),
            "full_bytes": plan.full_bytes(field),
        }
        for field in manifest.plan.fields
    ]
    training = manifest.training
    return {
        "fields": fields,
        "ids": sum(field.cardinality for field in manifest.plan.fields),
        "collisions": sum(field.collisions for field in manifest.plan.fields),
        "bytes": sum(plan.table_bytes(field) for field in manifest.plan.fields),
        "full_bytes": sum(plan.full_bytes(field) for field in manifest.plan.fields),
        "embedding_parameters": plan.parameters(manifest.plan.fields),
        "first_order_bytes": sum(plan.weight_bytes(field) for field in manifest.plan.first_order),
        "best_epoch": training.best_epoch,
        "valid": dict(sorted(training.valid_metrics.items())),
        "test": dict(sorted(training.test_metrics.items())),
    }


def print_report(manifest: pb.Manifest, facts: dict[str, Any]) -> None:
    """Print the table of fields, and the metrics; `facts` as `run.train` returns them."""
    report = as_dict(manifest)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    table = Table(title="Embedding tables", caption="bytes of tables and of classes; rows of each table")
    for name in ("field", "ids", "scheme", "joined", "rows", "dim", "bits", "collide", "full bytes", "bytes", "saved"):
        table.add_column(name, justify="left" if name in ("field", "scheme", "joined") else "right")
    for field in report["fields"]:
        table.add_row(
            field["feature"],
            f"{field['cardinality']:,}",
            field["scheme"],
            _joined(field),
            " + ".join(f"{rows:,}" for rows in field["rows"]),
            str(field["dim"]),
            str(field["bits"] or 32),
            f"{field['collisions']:,}" if field["collisions"] else "",
            f"{field['full_bytes']:,}",
            f"{field['bytes']:,}",
            _times(field["full_bytes"], field["bytes"]),
        )
    table.add_section()
    sizes = (report["full_bytes"], report["bytes"])
    table.add_row("all", *[""] * 7, *(f"{size:,}" for size in sizes), _times(*sizes))
    console.print(table)
    if report["collisions"]:
        console.print(
            f"{report['collisions']:,} of {report['ids']:,} ids collide: they share every row with another id"
        )
    for feature, told in facts.get("semantic", {}).items():
        console.print(_classes(feature, told["remainder"], told["unused_rows"]))
    if before := facts.get("from"):
        for line in _before(before):
            console.print(line, soft_wrap=True)
    if teacher := facts.get("teacher"):
        console.print(f"teacher {teacher['run']}: {_measured(teacher['test'] or teacher['valid'])}", soft_wrap=True)
    for split in ("valid", "test"):
        if report[split]:
            console.print(f"{split:5}  {_measured(report[split])}", soft_wrap=True)
    for name in ("optimal_auc", "optimal_logloss"):
        if name in facts:
            console.print(f"{name.replace('_', ' ')} of the planted model: {facts[name]:.5f}")


def _measured(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.5f}" for name, value in metrics.items())


def _before(facts: dict[str, Any]) -> Iterator[str]:
    """What the run that was gone on from gave, and how it did on the new rows."""
    yield f"from {facts['run']}; the optimizer's state: {facts['optimizer']}"
    yield from growth_lines(facts["vocabularies"])
    for split in ("valid", "test"):
        if split in facts:
            auc, loss = facts[split].get("auc", math.nan), facts[split]["logloss"]
            yield f"{split:5}  auc {auc:.5f}  logloss {loss:.5f}  before"


def _joined(field: dict[str, Any]) -> str:
    """How the tables are joined; nothing for a single one."""
    if field["combine"] == "path":
        return f"path, {field['hidden']} hidden" if field["hidden"] else "path, linear"
    return "" if field["combine"] == "alone" else field["combine"]


def _classes(feature: str, remainder: int | None, unused_rows: int) -> str:
    told = "its classes stand alone" if remainder is None else f"completed by the remainders modulo {remainder}"
    unused = f"; rows of its class table whose key is no id: {unused_rows:,}" if unused_rows else ""
    return f"{feature}: {told}{unused}"


def _times(full: int, held: int) -> str:
    return f"{full / held:.1f}x"
