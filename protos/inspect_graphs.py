"""What an export made of a run, as `quorem inspect` tells it: precision, bytes by part, and graphs by stage."""

from collections.abc import Sequence

from rich.console import Console

from . import manifest_pb2 as pb
from .inspect_field import Facts
from .inspect_picture import ASCII, draw
from .schema import has_ids, layout
from .terminal import number, print_table, say, told_bytes

PLAIN = ("run_sha256", "parity_bound", "table_bytes", "slots", "dense")
RANK = "rank.onnx"
NUMBERS = {value: name.lower() for name, value in pb.Number.items()}
CODES = {value: name.lower() for name, value in pb.Code.items()}


def export_facts(manifest: pb.Manifest) -> Facts:
    """The facts of a bundle's export, for a script; what earlier versions did not write is null or empty."""
    export = manifest.export
    return {
        **{name: number(getattr(export, name)) for name in PLAIN},
        "class_arrays": [
            {"feature": each.feature, "table": each.table, "offset": each.offset} for each in export.class_arrays
        ],
        "precision": _precision(export.precision) if export.HasField("precision") else None,
        "codes": _codes(export.codes),
        "table_codes": [
            {"tensor": each.tensor, "code": _code(each.code), "error": number(each.error)} for each in export.codes
        ],
        "int8_layers": list(export.int8_layers),
        "graphs": [_graph(each, manifest.schema) for each in export.graphs],
        "no_rank": export.no_rank or None,
        "parts": [{"name": each.name, "bytes": each.bytes} for each in export.parts],
        "candidates": [
            {
                "precision": _precision(each.precision),
                "bytes": each.bytes,
                **{name: number(getattr(each, name)) for name in ("auc", "logloss", "rmse")},
            }
            for each in export.candidates
        ],
    }


def _precision(precision: pb.Precision) -> Facts:
    kinds = {"tables": precision.tables, "dense": precision.dense}
    return {part: NUMBERS.get(kind, str(kind)) for part, kind in kinds.items()}


def _code(code: int) -> str:
    """The code's name; a manifest may hold a number that this version has no name for."""
    return CODES.get(code, str(code))


def _codes(codes: Sequence[pb.TableCode]) -> list[Facts]:
    """How many tables have which code, and which of them lost most."""
    found = list[Facts]()
    for code in sorted({each.code for each in codes}):
        same = [each for each in codes if each.code == code]
        worst = max(same, key=lambda each: each.error)
        told = {"code": _code(code), "tables": len(same)}
        found.append({**told, "worst_error": number(worst.error), "worst_table": worst.tensor})
    return found


def _graph(graph: pb.GraphFacts, schema: pb.Schema) -> Facts:
    stages = [{"name": each.name, "nodes": each.nodes, "bytes": each.bytes} for each in graph.stages]
    return {
        "file": graph.file,
        "nodes": sum(each["nodes"] for each in stages),
        "bytes": sum(each["bytes"] for each in stages),
        "stages": stages,
        "inputs": _inputs(schema, apart=graph.file == RANK),
    }


def _inputs(schema: pb.Schema, *, apart: bool) -> list[Facts]:
    """What a graph reads, on each side where the sides are apart: slots of ids, numbers to be bucketed, numbers."""
    sides: list[tuple[str, Sequence[int]]] = [("row", (pb.CONTEXT, pb.CANDIDATE))]
    if apart and len({each.side for each in schema.features}) == 2:
        sides = [("context", (pb.CONTEXT,)), ("candidate", (pb.CANDIDATE,))]
    found = list[Facts]()
    for name, these in sides:
        ours = pb.Schema(features=[each for each in schema.features if each.side in these])
        places = layout(ours)
        buckets = sum(has_ids(each) and each.name in places.dense for each in ours.features)
        numbers = places.dense_count - buckets
        found.append({"side": name, "slots": places.slot_count, "buckets": buckets, "numbers": numbers})
    return found


def show_export(facts: Facts, console: Console) -> None:
    """Print the facts for a reader; the picture of a graph only where it is no wider than the console."""
    if facts["precision"]:
        say(console, "")
        say(console, told_precision(facts))
    if facts["codes"]:
        rows = [
            [each["code"].replace("_", " "), f"{each['tables']:,}", _told(each["worst_error"]), each["worst_table"]]
            for each in facts["codes"]
        ]
        print_table(console, "code >tables >worst table", rows)
    if facts["parts"]:
        rows = [[each["name"], told_bytes(each["bytes"]), f"{each['bytes']:,}"] for each in facts["parts"]]
        print_table(console, "tables.bin >size >bytes", rows)
    if facts["candidates"]:
        print_table(
            console,
            "tables layers >size >auc >logloss >rmse choice",
            [_candidate(each, facts["precision"]) for each in facts["candidates"]],
        )
    for graph in facts["graphs"]:
        rows = [[each["name"], f"{each['nodes']:,}", told_bytes(each["bytes"])] for each in graph["stages"]]
        say(console, "")
        say(console, f"{graph['file']}: {graph['nodes']:,} nodes, {told_bytes(graph['bytes'])} of constants inside")
        print_table(console, "stage >nodes >constants", rows)
        lines = draw(graph)
        if max(map(len, lines)) <= console.width:
            say(console, "")
            for line in lines:
                say(console, line if console.encoding.startswith("utf") else line.translate(ASCII))
    if facts["no_rank"]:
        say(console, "")
        say(console, f"no {RANK}: {facts['no_rank']}")


def told_precision(facts: Facts) -> str:
    """How numbers are kept, and how far the logits may be from the trained ones."""
    kept, layers = facts["precision"], facts["int8_layers"]
    int8 = f" ({', '.join(layers)})" if layers else ""
    within = f"logits within {_told(facts['parity_bound'])} * max(1, |logit|)"
    return f"precision: tables {kept['tables']}, dense layers {kept['dense']}{int8}; {within}"


def _candidate(facts: Facts, chosen: Facts | None) -> list[str]:
    metrics = ["nan" if facts[name] is None else f"{facts[name]:.6f}" for name in ("auc", "logloss")]
    kept = facts["precision"]
    choice = "chosen" if kept == chosen else ""
    return [kept["tables"], kept["dense"], told_bytes(facts["bytes"]), *metrics, _told(facts["rmse"]), choice]


def _told(value: float | None) -> str:
    return "nan" if value is None else f"{value:.2e}"
