"""What a plan directory holds: the dim that was chosen for every field, how surely, and the bytes that it saves.

Of a budget's plan, see inspect_budget.py.
"""

from pathlib import Path

from rich.console import Console

from . import inspect_budget, plan, plan_directory, schema
from . import manifest_pb2 as pb
from .inspect_field import Facts, field_facts, told_bits, told_tables
from .terminal import number, print_table, say, told_bytes

BAR = 32  # columns of the widest dim's bar


def describe(path: Path) -> Facts:
    """The facts of a plan directory, for a script: sizes in bytes, fields in schema order.

    Raises:
        ArtifactError, PlanError: the directory is not what its search.json says, or not one of quorem's.
    """
    directory = plan_directory.directory_of(path)
    return facts_of(directory, *plan_directory.read_plan(directory))


def facts_of(directory: Path, made: pb.Plan, search: pb.Search) -> Facts:
    """The same, of what was read."""
    choices = {choice.feature: choice for choice in search.choices}
    tables = {field.feature: field for field in made.fields}
    fields = [_field(tables[each.name], choices[each.name]) for each in search.schema.features if each.name in tables]
    held = sum(each["embedding"]["bytes"] for each in fields)
    widest = (
        None if any(each["widest_bytes"] is None for each in fields) else sum(each["widest_bytes"] for each in fields)
    )
    budget = inspect_budget.facts_of(made, search) if search.HasField("budget") else None
    if budget is not None:
        for each in fields:
            each["budget"] = budget["fields"][each["feature"]]
    return {
        "kind": "plan",
        "path": str(directory),
        "format_version": search.format_version,
        "schema_fingerprint": schema.fingerprint(search.schema),
        "method": search.method,
        "model": search.model,
        "seed": search.seed,
        "fields": fields,
        "budget": budget and {name: each for name, each in budget.items() if name != "fields"},
        "parameters": {
            "embedding": plan.parameters(made.fields),
            "first_order": plan.parameters(made.first_order),
        },
        "tables": {
            "bytes": held,
            "widest_bytes": widest,
            "saved_bytes": None if widest is None else widest - held,
            "compression": None if widest is None else widest / held,
        },
        "valid": {name: number(search.valid_metrics[name]) for name in sorted(search.valid_metrics)},
        "test": {name: number(search.test_metrics[name]) for name in sorted(search.test_metrics)},
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in search.files],
        "verified": True,
    }


def _field(field: pb.Field, choice: pb.Choice) -> Facts:
    by_dim = dict(zip(choice.candidates, choice.probabilities, strict=False))  # empty where no probabilities are told
    others = [each for dim, each in by_dim.items() if dim != choice.dim]
    held = plan.table_bytes(field)
    widest = None
    if choice.candidates:
        widest = plan.bytes_at(field, choice.candidates[-1])
    return {
        "feature": field.feature,
        "cardinality": field.cardinality,
        "dim": choice.dim,
        "candidates": list(choice.candidates),
        "probabilities": {str(dim): each for dim, each in by_dim.items()} or None,
        "probability": by_dim.get(choice.dim),
        "margin": by_dim[choice.dim] - max(others) if others else None,
        "widest_bytes": widest,
        "saved_bytes": None if widest is None else widest - held,
        "embedding": field_facts(field, plan.table_bytes),
    }


def show(facts: Facts, console: Console) -> None:
    """Print the facts for a reader."""
    count = len(facts["files"])
    say(console, f"plan {facts['path']}: {told_search(facts)}, schema {facts['schema_fingerprint']}")
    say(
        console,
        f"{count} {'file' if count == 1 else 'files'} verified: sizes and sha256 digests are those of the search",
    )
    if facts["budget"] is not None:
        inspect_budget.show(facts, console)
    else:
        _show_dims(facts, console)
    say(console, f"parameters: {', '.join(f'{name} {each:,}' for name, each in facts['parameters'].items())}")
    for split in ("valid", "test"):
        if facts[split]:
            told = [f"{name} {'nan' if each is None else f'{each:.6g}'}" for name, each in facts[split].items()]
            say(console, f"{split}: {', '.join(told)}")


def _show_dims(facts: Facts, console: Console) -> None:
    sizes, fields = facts["tables"], facts["fields"]
    head = "feature >ids scheme tables joined >dim >bits >probability >margin >bytes >saved"
    print_table(console, head, [_row(each) for each in fields])
    print_table(console, "feature dims", _bars(fields, "█·" if console.encoding.startswith("utf") else "#."))
    console.print()
    say(console, f"embedding tables: {told_bytes(sizes['bytes'])}{_saved(sizes)}")


def told_search(facts: Facts) -> str:
    """Method, model and seed in a few words."""
    return f"{facts['method']} with {facts['model']}, seed {facts['seed']}"


def _row(facts: Facts) -> list[str]:
    embedding, saved = facts["embedding"], facts["saved_bytes"]
    return [
        facts["feature"],
        f"{facts['cardinality']:,}",
        embedding["scheme"].replace("_", " "),
        told_tables(embedding),
        embedding["combine"],
        str(facts["dim"]),
        told_bits(embedding),
        "" if facts["probability"] is None else f"{facts['probability']:.3f}",
        "" if facts["margin"] is None else f"{facts['margin']:.3f}",
        told_bytes(embedding["bytes"]),
        "" if saved is None else told_bytes(saved),
    ]


def _bars(fields: list[Facts], ink: str) -> list[list[str]]:
    """Every field's dim as a bar, and what its widest candidate would add to it; all on one scale."""
    widest = {each["feature"]: max([each["dim"], *each["candidates"]]) for each in fields}
    scale, rows = max(widest.values()), list[list[str]]()
    for each in fields:
        long, longest = (-(-dim * BAR // scale) for dim in (each["dim"], widest[each["feature"]]))
        of = f" of {widest[each['feature']]}" if each["candidates"] else ""
        rows.append([each["feature"], f"{ink[0] * long}{ink[1] * (longest - long)} {each['dim']}{of}"])
    return rows


def _saved(sizes: Facts) -> str:
    if sizes["widest_bytes"] is None:
        return ""
    told = f", {told_bytes(sizes['saved_bytes'])} less than with the widest candidates"
    return f"{told}, {sizes['compression']:.1f}x smaller"
