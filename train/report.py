"""The report of a finished run: bytes by field, full against compressed, and the metrics; a table or JSON."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from ..protos import manifest_pb2 as pb
from ..protos import plan

PIPED_WIDTH = 160
SHORT = {pb.HASHED: "hash", pb.QUOTIENT_REMAINDER: "qr"}  # as recipes name them


def as_dict(manifest: pb.Manifest) -> dict[str, Any]:
    """The report for a script. Bytes are of float32 tables; first-order tables are counted apart."""
    fields = [
        {
            "feature": field.feature,
            "cardinality": field.cardinality,
            "scheme": SHORT.get(field.scheme, pb.Scheme.Name(field.scheme).lower()),
            "combine": pb.Combine.Name(field.combine).lower(),
            "dim": field.dim,
            "rows": [table.rows for table in field.tables],
            "bytes": plan.table_bytes(field),
            "full_bytes": plan.full_bytes(field),
        }
        for field in manifest.plan.fields
    ]
    training = manifest.training
    return {
        "fields": fields,
        "bytes": sum(plan.table_bytes(field) for field in manifest.plan.fields),
        "full_bytes": sum(plan.full_bytes(field) for field in manifest.plan.fields),
        "embedding_parameters": plan.parameters(manifest.plan.fields),
        "first_order_bytes": sum(plan.table_bytes(field) for field in manifest.plan.first_order),
        "best_epoch": training.best_epoch,
        "valid": dict(sorted(training.valid_metrics.items())),
        "test": dict(sorted(training.test_metrics.items())),
    }


def print_report(manifest: pb.Manifest, facts: dict[str, float]) -> None:
    """Print the table of bytes by field and the metrics."""
    report = as_dict(manifest)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    table = Table(title="Embedding tables", caption="float32 bytes; rows of each table")
    for name in ("field", "ids", "scheme", "rows", "dim"):
        table.add_column(name, justify="left" if name in ("field", "scheme") else "right")
    for name in ("full bytes", "bytes", "saved"):
        table.add_column(name, justify="right")
    for field in report["fields"]:
        several = len(field["rows"]) > 1
        table.add_row(
            field["feature"],
            f"{field['cardinality']:,}",
            field["scheme"] + (f" {field['combine']}" if several else ""),
            " + ".join(f"{rows:,}" for rows in field["rows"]),
            str(field["dim"]),
            f"{field['full_bytes']:,}",
            f"{field['bytes']:,}",
            _times(field["full_bytes"], field["bytes"]),
        )
    table.add_section()
    table.add_row(
        "all",
        "",
        "",
        "",
        "",
        f"{report['full_bytes']:,}",
        f"{report['bytes']:,}",
        _times(report["full_bytes"], report["bytes"]),
    )
    console.print(table)
    for split in ("valid", "test"):
        if report[split]:
            told = "  ".join(f"{name} {value:.5f}" for name, value in report[split].items())
            console.print(f"{split:5}  {told}", soft_wrap=True)
    for name, value in facts.items():
        console.print(f"{name.replace('_', ' ')} of the planted model: {value:.5f}")


def _times(full: int, held: int) -> str:
    return f"{full / held:.1f}x"
