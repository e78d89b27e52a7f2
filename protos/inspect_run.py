"""What a run directory or a bundle holds, from its manifest, with every digest verified."""

import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from . import inspect_graphs, manifest, nets, pareto, plan, plan_directory, schema
from . import manifest_pb2 as pb
from .errors import MissingFile
from .inspect_field import Facts, field_facts, told_bits, told_tables
from .terminal import number, print_table, say, told_bytes


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
    if not (path / manifest.NAME).exists():
        raise MissingFile(
            f"runs and versions hold {manifest.NAME}, plan directories {plan_directory.SEARCH}, those of several "
            f"budgets {pareto.NAME}, written last",
            found="none of them",
            where=str(path),
            remedy="Name a directory that `quorem train`, `quorem export` or `quorem search` has finished",
        )
    found = manifest.read(path)
    tables = {field.feature: field for field in found.plan.fields}
    first_order = {field.feature: field for field in found.plan.first_order}
    widths = nets.widths(found.net, nets.input_widths(found.plan, len(schema.dense_features(found.schema))))
    weights = {layer.name: _weights(layer) for layer in found.net.layers}
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
        "training": _training(found.training) if found.HasField("training") else None,
        "export": inspect_graphs.export_facts(found) if found.HasField("export") else None,
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in found.files],
        "verified": True,
    }


def _weights(layer: pb.Layer) -> int:
    return sum(map(math.prod, nets.weight_shapes(pb.Net(layers=[layer])).values()))


def _feature(feature: pb.Feature, tables: Mapping[str, pb.Field], first_order: Mapping[str, pb.Field]) -> Facts:
    return {
        "name": feature.name,
        "side": pb.Side.Name(feature.side).lower(),
        "values": pb.Values.Name(feature.values).lower(),
        "encoding": feature.WhichOneof("encoding"),
        "first": feature.id.first if feature.WhichOneof("encoding") == "id" else None,
        "bag": _bag(feature.bag) if feature.HasField("bag") else None,
        "reserve": _reserve(feature.vocabulary) if feature.WhichOneof("encoding") == "vocabulary" else None,
        "cardinality": schema.cardinality(feature),
        "embedding": field_facts(tables[feature.name], plan.table_bytes) if feature.name in tables else None,
        "first_order": field_facts(first_order[feature.name], plan.weight_bytes)
        if feature.name in first_order
        else None,
    }


def _bag(bag: pb.Bag) -> Facts:
    return {"max_length": bag.max_length, "pooling": pb.Pooling.Name(bag.pooling).lower()}


def _reserve(vocabulary: pb.Vocabulary) -> Facts:
    """Ids held for values of later rows, those of them that are taken, and values that found none left, last."""
    return {
        "ids": vocabulary.reserve + vocabulary.taken,
        "taken": vocabulary.taken,
        "turned_away": vocabulary.turned_away,
    }


def _training(training: pb.Training) -> Facts:
    """The message's fields by name."""
    facts = Facts()
    for name in (descriptor.name for descriptor in training.DESCRIPTOR.fields):
        value = getattr(training, name)
        if isinstance(value, Mapping):
            facts[name] = {key: number(value[key]) for key in sorted(value)}
        else:
            facts[name] = number(value)
    return facts


def show(facts: Facts, console: Console) -> None:
    """Print the facts for a reader; in a pipe nothing is drawn and no line is cut."""
    count, sizes, parameters = len(facts["files"]), facts["tables"], facts["parameters"]
    say(console, f"{facts['kind']} {facts['path']}: {facts['model']}, schema {facts['schema_fingerprint']}")
    say(
        console,
        f"{count} {'file' if count == 1 else 'files'} verified: sizes and sha256 digests are those of the manifest",
    )
    print_table(console, "feature side values encoding >ids", map(_feature_row, facts["features"]))
    if reserves := [each for each in map(_reserve_row, facts["features"]) if each]:
        print_table(console, "reserve >ids >taken >left >turned_away", reserves)
    print_table(
        console,
        "feature scheme tables joined >hidden >dim >bits >collide >bytes >full >smaller",
        [_tables_row(feature["name"], feature["embedding"]) for feature in facts["features"] if feature["embedding"]],
    )
    state = ", as trained" if facts["export"] and facts["export"]["codes"] else ""
    say(
        console,
        f"embedding tables{state}: {told_bytes(sizes['bytes'])} for {told_bytes(sizes['full_bytes'])} of full ones, "
        f"{sizes['compression']:.1f}x smaller; first-order tables: {told_bytes(sizes['first_order_bytes'])}",
    )
    say(console, f"{sizes['collisions']:,} of {sizes['ids']:,} ids collide: they share every row with another id")
    print_table(
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
    say(console, f"parameters: {', '.join(f'{name} {each:,}' for name, each in parameters.items())}")
    if facts["training"] is not None:
        print_table(console, "training value", _pairs(facts["training"]))
    if (export := facts["export"]) is not None:
        print_table(console, "export value", _pairs({name: export[name] for name in inspect_graphs.PLAIN}))
        if export["class_arrays"]:
            rows = [[each["feature"], str(each["table"]), f"{each['offset']:,}"] for each in export["class_arrays"]]
            print_table(console, "classes >table >offset", rows)
        inspect_graphs.show_export(export, console)
    files = [[file["name"], told_bytes(file["bytes"]), file["sha256"]] for file in facts["files"]]
    print_table(console, "file >size sha256", files)


def _feature_row(feature: Facts) -> list[str]:
    bag = feature["bag"]
    values = feature["values"] + (f", bag of {bag['max_length']}, {bag['pooling']}" if bag else "")
    ids = f"{feature['cardinality']:,}" if feature["embedding"] else ""
    encoding = feature["encoding"] + (f" from {feature['first']}" if feature["first"] else "")
    return [feature["name"], feature["side"], values, encoding, ids]


def _reserve_row(feature: Facts) -> list[str]:
    """Of a vocabulary that holds ids, or held too few."""
    reserve = feature["reserve"] or {"ids": 0, "turned_away": 0}
    if not reserve["ids"] and not reserve["turned_away"]:
        return []
    counts = (reserve["ids"], reserve["taken"], reserve["ids"] - reserve["taken"], reserve["turned_away"])
    return [feature["name"], *(f"{count:,}" for count in counts)]


def _tables_row(name: str, field: Facts) -> list[str]:
    return [
        name,
        field["scheme"].replace("_", " "),
        told_tables(field),
        field["combine"],
        str(field["hidden"]) if field["combine"] == "path" else "",
        str(field["dim"]),
        told_bits(field),
        f"{field['collisions']:,}" if field["collisions"] else "",
        told_bytes(field["bytes"]),
        told_bytes(field["full_bytes"]),
        f"{field['compression']:.1f}x",
    ]


def _pairs(facts: Facts) -> list[list[str]]:
    rows = list[list[str]]()
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [[f"{name}.{key}", f"{each:.6g}" if each is not None else "nan"] for key, each in value.items()]
        else:
            rows.append([name, f"{value:,}" if isinstance(value, int) else str(value)])
    return rows
