"""`quorem inspect`: what a run directory or a bundle holds, from its manifest, with every digest verified."""

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import manifest, nets, plan, schema
from . import manifest_pb2 as pb
from .errors import MissingFile

Facts = dict[str, Any]

PIPED_WIDTH = 100_000  # columns: a table that a script reads is never cut
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def main(args: argparse.Namespace) -> int:
    """Run `quorem inspect` as the parser's namespace asks."""
    facts = describe(args.path)
    if args.json:
        print(json.dumps(facts))
    else:
        show(facts, Console(markup=False, highlight=False, emoji=False))
    return 0


def describe(path: Path) -> Facts:
    """The facts of a run or a bundle, for a script: sizes in bytes, names as in the manifest.

    Raises:
        ArtifactError, PlanError, NetError: the directory is not what its manifest says, or not one of quorem's.
    """
    if path.name == manifest.NAME:
        path = path.parent
    versions = sorted(int(each.parent.name) for each in path.glob(f"*/{manifest.NAME}") if each.parent.name.isdecimal())
    if versions and not (path / manifest.NAME).exists():
        raise MissingFile(
            "one version of a model is inspected at a time",
            found=f"versions {', '.join(map(str, versions))}",
            where=str(path),
            remedy=f"Name one, as in {path / str(versions[-1])}",
        )
    found = manifest.read(path)
    tables = {field.feature: field for field in found.plan.fields}
    first_order = {field.feature: field for field in found.plan.first_order}
    widths = nets.widths(found.net, nets.input_widths(found.plan, len(schema.dense_features(found.schema))))
    weights = {layer.name: 0 for layer in found.net.layers}
    for name, shape in nets.weight_shapes(found.net).items():
        weights[name.rpartition(".")[0]] += math.prod(shape)
    held, full = (sum(map(size, tables.values())) for size in (plan.table_bytes, plan.full_bytes))
    return {
        "kind": "bundle" if found.HasField("export") else "run",
        "path": str(path),
        "format_version": found.format_version,
        "schema_fingerprint": schema.fingerprint(found.schema),
        "model": found.net.model,
        "features": [_feature(each, tables, first_order) for each in found.schema.features],
        "layers": [
            {
                "name": layer.name,
                "kind": layer.WhichOneof("kind"),
                "inputs": list(layer.inputs),
                "width": widths[layer.name],
                "parameters": weights[layer.name],
            }
            for layer in found.net.layers
        ],
        "parameters": {
            "embedding": plan.parameters(found.plan.fields),
            "first_order": plan.parameters(found.plan.first_order),
            "layers": sum(weights.values()),
        },
        "tables": {
            "bytes": held,
            "full_bytes": full,
            "compression": full / held,
            "first_order_bytes": sum(map(plan.weight_bytes, found.plan.first_order)),
            "ids": sum(field.cardinality for field in tables.values()),
            "collisions": sum(field.collisions for field in tables.values()),
        },
        "training": _message(found.training) if found.HasField("training") else None,
        "export": _message(found.export) if found.HasField("export") else None,
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in found.files],
        "verified": True,
    }


def _feature(feature: pb.Feature, tables: Mapping[str, pb.Field], first_order: Mapping[str, pb.Field]) -> Facts:
    return {
        "name": feature.name,
        "side": pb.Side.Name(feature.side).lower(),
        "values": pb.Values.Name(feature.values).lower(),
        "encoding": feature.WhichOneof("encoding"),
        "bag": _bag(feature.bag) if feature.HasField("bag") else None,
        "cardinality": schema.cardinality(feature),
        "embedding": _field(tables.get(feature.name), plan.table_bytes),
        "first_order": _field(first_order.get(feature.name), plan.weight_bytes),
    }


def _bag(bag: pb.Bag) -> Facts:
    return {"max_length": bag.max_length, "pooling": pb.Pooling.Name(bag.pooling).lower()}


def _field(field: pb.Field | None, size: Callable[[pb.Field], int]) -> Facts | None:
    if field is None:
        return None
    held, full = size(field), plan.full_bytes(field)
    return {
        "scheme": pb.Scheme.Name(field.scheme).lower(),
        "combine": pb.Combine.Name(field.combine).lower(),
        "hidden": field.hidden,
        "dim": field.dim,
        "tables": [
            {"divide": table.divide, "rows": table.rows, "dim": table.dim, "classes": table.classes}
            for table in field.tables
        ],
        "complementary": field.complementary,
        "collisions": field.collisions,
        "bytes": held,
        "full_bytes": full,
        "compression": full / held,
    }


def _message(message: pb.Training | pb.Export | pb.ClassArray) -> Facts:
    """The message's fields by name."""
    facts = Facts()
    for name in (descriptor.name for descriptor in message.DESCRIPTOR.fields):
        value = getattr(message, name)
        if isinstance(value, Mapping):
            facts[name] = {key: _number(value[key]) for key in sorted(value)}
        elif name == "class_arrays":
            facts[name] = [_message(each) for each in value]
        else:
            facts[name] = _number(value)
    return facts


def _number(value: Any) -> Any:
    """The value, or null for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(facts: Facts, console: Console) -> None:
    """Print the facts for a reader; in a pipe nothing is drawn and no line is cut."""
    if not console.is_terminal:
        console.width = PIPED_WIDTH

    def say(line: str) -> None:
        console.print(_clean(line), soft_wrap=True)

    count, sizes, parameters = len(facts["files"]), facts["tables"], facts["parameters"]
    say(f"{facts['kind']} {facts['path']}: {facts['model']}, schema {facts['schema_fingerprint']}")
    say(f"{count} {'file' if count == 1 else 'files'} verified: sizes and sha256 digests are those of the manifest")
    _table(console, "feature side values encoding >ids", map(_feature_row, facts["features"]))
    _table(
        console,
        "feature scheme tables joined >hidden >dim >collide >bytes >full >smaller",
        [_tables_row(feature["name"], feature["embedding"]) for feature in facts["features"] if feature["embedding"]],
    )
    say(
        f"embedding tables: {_bytes(sizes['bytes'])} for {_bytes(sizes['full_bytes'])} of full ones, "
        f"{sizes['compression']:.1f}x smaller; first-order tables: {_bytes(sizes['first_order_bytes'])}"
    )
    say(f"{sizes['collisions']:,} of {sizes['ids']:,} ids collide: they share every row with another id")
    _table(
        console,
        "layer kind reads >width >parameters",
        [
            [
                layer["name"],
                layer["kind"],
                ", ".join(layer["inputs"]),
                f"{layer['width']:,}",
                f"{layer['parameters']:,}",
            ]
            for layer in facts["layers"]
        ],
    )
    say(f"parameters: {', '.join(f'{name} {each:,}' for name, each in parameters.items())}")
    for kind in ("training", "export"):
        if facts[kind] is not None:
            _table(console, f"{kind} value", _pairs(facts[kind]))
    files = [[file["name"], _bytes(file["bytes"]), file["sha256"]] for file in facts["files"]]
    _table(console, "file >size sha256", files)


def _feature_row(feature: Facts) -> list[str]:
    bag = feature["bag"]
    values = feature["values"] + (f", bag of {bag['max_length']}, {bag['pooling']}" if bag else "")
    ids = f"{feature['cardinality']:,}" if feature["embedding"] else ""
    return [feature["name"], feature["side"], values, feature["encoding"], ids]


def _tables_row(name: str, field: Facts) -> list[str]:
    return [
        name,
        field["scheme"].replace("_", " "),
        " ".join(
            f"(classes,{table['rows']})" if table["classes"] else f"({table['divide']},{table['rows']})"
            for table in field["tables"]
        ),
        field["combine"],
        str(field["hidden"]) if field["combine"] == "path" else "",
        str(field["dim"]),
        f"{field['collisions']:,}" if field["collisions"] else "",
        _bytes(field["bytes"]),
        _bytes(field["full_bytes"]),
        f"{field['compression']:.1f}x",
    ]


def _pairs(facts: Facts) -> list[list[str]]:
    rows = list[list[str]]()
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [[f"{name}.{key}", f"{each:.6g}" if each is not None else "nan"] for key, each in value.items()]
        elif isinstance(value, list):
            rows += [[f"classes of {each['feature']}, table {each['table']}", f"{each['offset']:,}"] for each in value]
        else:
            rows.append([name, f"{value:,}" if isinstance(value, int) else str(value)])
    return rows


def _table(console: Console, head: str, rows: Iterable[Sequence[str]]) -> None:
    """Print a table under an empty line; a column whose name begins with `>` holds numbers."""
    table = Table(box=None, pad_edge=False)
    for name in head.split():
        number = name.startswith(">")
        table.add_column(name.removeprefix(">"), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in rows:
        table.add_row(*map(_clean, row))
    console.print()
    console.print(table)


def _clean(text: str) -> str:
    """The text without what a terminal would obey."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _bytes(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {UNITS[unit]}" if unit else f"{count} B"
