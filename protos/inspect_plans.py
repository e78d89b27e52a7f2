"""Plans side by side: the dims of several searches of the same fields, and how far the searches agree; or budgets."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from . import inspect_plan, pareto
from .errors import PlanError
from .inspect_field import Facts
from .terminal import print_table, say

METRICS = ("auc", "logloss")
REPORTED = 0.85  # Pearson correlation of dims between seeds (AutoDim: Zhao et al., WWW'21)


def describe(paths: Sequence[Path]) -> Facts:
    """The facts of several plan directories, for a script; dims, and pairs of plans, in the order of the paths.

    Raises:
        ArtifactError, PlanError: see inspect_plan.py; plans of other fields or candidates.
    """
    return _compare([inspect_plan.describe(path) for path in paths])


def describe_pareto(path: Path) -> Facts:
    """The same of the plans of one search for several budgets, whose directory is given: `path` is in the facts.

    Raises:
        ArtifactError, PlanError: see pareto.py.
    """
    directory = pareto.directory_of(path)
    plans = [inspect_plan.facts_of(*found) for found in pareto.read(directory)]
    return {**_compare(plans), "kind": "pareto", "path": str(directory)}


def _compare(plans: Sequence[Facts]) -> Facts:
    first = next((each for each in plans if all(field["candidates"] for field in each["fields"])), plans[0])
    for other in plans:
        _check_same(first, other)
    rows = [_field([each["fields"][i] for each in plans]) for i in range(len(plans[0]["fields"]))]
    columns = list(zip(*(row["dims"] for row in rows), strict=True))
    pairs = [
        {"plans": [i, j], "pearson": _pearson(columns[i], columns[j])}
        for i, j in itertools.combinations(range(len(plans)), 2)
    ]
    known = [pair["pearson"] for pair in pairs if pair["pearson"] is not None]
    return {
        "kind": "plans",
        "plans": [
            {key: each[key] for key in ("path", "method", "model", "seed", "budget", "parameters", "valid", "test")}
            for each in plans
        ],
        "fields": rows,
        "mode_share": statistics.fmean(row["mode_share"] for row in rows),
        "pearson": {
            "mean": statistics.fmean(known) if known else None,
            "min": min(known, default=None),
            "max": max(known, default=None),
            "pairs": pairs,
            "reported": REPORTED,
        },
    }


def _check_same(first: Facts, other: Facts) -> None:
    """Refuse plans of other fields, or of other candidates where both had some: dims by popularity have none."""
    choose = all(each["candidates"] for facts in (first, other) for each in facts["fields"])
    before, now = (
        {
            each["feature"]: f"{each['cardinality']:,} ids" + (f", candidates {each['candidates']}" if choose else "")
            for each in facts["fields"]
        }
        for facts in (first, other)
    )
    for name in [*before, *now]:
        told, tells = (each.get(name, "no such field") for each in (before, now))
        if told != tells:
            raise PlanError(
                "plans stand side by side where they are of the same fields and candidates",
                found=f"{name!r}: {tells}; in {first['path']}: {told}",
                where=other["path"],
                remedy="Name searches of one recipe that differ in seed, model, method or budget",
            )
    if list(before) != list(now):
        raise PlanError(
            "plans stand side by side where their fields stand in one order",
            found=f"{list(now)}; in {first['path']}: {list(before)}",
            where=other["path"],
            remedy="Name searches of one recipe that differ in seed, model, method or budget",
        )


def _field(same: Sequence[Facts]) -> Facts:
    """One field in all plans; of dims that are as frequent, the smallest is its mode."""
    dims = [each["dim"] for each in same]
    mode = statistics.mode(sorted(dims))
    return {
        "feature": same[0]["feature"],
        "cardinality": same[0]["cardinality"],
        "candidates": max((each["candidates"] for each in same), key=len),
        "dims": dims,
        "bits": [each["embedding"]["tables"][0]["bits"] for each in same],
        "rows": [[table["rows"] for table in each["embedding"]["tables"]] for each in same],
        "mode": mode,
        "mode_share": dims.count(mode) / len(dims),
    }


def _pearson(some: Sequence[int], others: Sequence[int]) -> float | None:
    """Pearson's correlation over fields; None where the dims of a plan are all the same."""
    if len(set(some)) < 2 or len(set(others)) < 2:
        return None
    return statistics.correlation(some, others)


def show(facts: Facts, console: Console) -> None:
    """Print the facts for a reader."""
    plans, rows = facts["plans"], facts["fields"]
    whose = f", of one search: {facts['path']}" if facts["kind"] == "pareto" else ""
    say(console, f"{len(plans)} plans of {len(rows)} {'field' if len(rows) == 1 else 'fields'}{whose}")
    if all(each["budget"] is not None for each in plans):
        _show_budgets(plans, rows, console)
    else:
        _show_dims(facts, console)


def _show_budgets(plans: Sequence[Facts], rows: Sequence[Facts], console: Console) -> None:
    numbers, told = _numbers(plans), list[list[str]]()
    for number, each in zip(numbers, plans, strict=True):
        sizes, scores = each["budget"], [each["valid"].get(name) for name in METRICS]
        told.append(
            [
                *(number, each["path"], each["model"], str(each["seed"]), sizes["asked"]),
                *(f"{sizes['bytes']:,}", f"{sizes['budget']:,}", f"{sizes['compression']:.1f}x"),
                *("" if score is None else f"{score:.5f}" for score in scores),
            ]
        )
    print_table(console, ">plan path model >seed >asked >bytes >of >smaller >valid_auc >valid_logloss", told)
    head = " ".join(["feature", ">ids", *(f">{number}" for number in numbers)])
    print_table(console, head, [[row["feature"], f"{row['cardinality']:,}", *_widths(row)] for row in rows])
    console.print()
    say(
        console,
        "of each field dim x bits, behind the rows of its tables where they are several",
    )


def _widths(row: Facts) -> list[str]:
    """The dim and bits of a field in each plan."""
    every = zip(row["dims"], row["bits"], row["rows"], strict=True)
    return [
        f"{'+'.join(map(str, rows)) + ': ' if len(rows) > 1 else ''}{dim}x{bits or 32}" for dim, bits, rows in every
    ]


def _show_dims(facts: Facts, console: Console) -> None:
    plans, rows, pearson = facts["plans"], facts["fields"], facts["pearson"]
    numbers = _numbers(plans)
    told = [
        [number, each["path"], each["method"], each["model"], str(each["seed"]), f"{each['parameters']['embedding']:,}"]
        for number, each in zip(numbers, plans, strict=True)
    ]
    print_table(console, ">plan path method model >seed >embedding", told)
    print_table(
        console,
        " ".join(["feature", ">ids", *(f">{number}" for number in numbers), ">mode", ">share"]),
        [
            [
                row["feature"],
                f"{row['cardinality']:,}",
                *map(str, row["dims"]),
                str(row["mode"]),
                f"{row['mode_share']:.0%}",
            ]
            for row in rows
        ],
    )
    console.print()
    say(console, f"share of plans that chose a field's most frequent dim: {facts['mode_share']:.0%} on average")
    say(console, f"Pearson correlation of dims over fields: {_told(pearson)}")


def _numbers(plans: Sequence[Facts]) -> list[str]:
    return [str(number) for number in range(1, len(plans) + 1)]


def _told(pearson: Facts) -> str:
    if pearson["mean"] is None:
        return "none, where the dims of a plan are all the same"
    known = sum(pair["pearson"] is not None for pair in pearson["pairs"])
    span = f"{pearson['min']:.3f} to {pearson['max']:.3f}, {known} of {len(pearson['pairs'])} pairs of plans"
    return f"{pearson['mean']:.3f} on average ({span}); Zhao et al. (WWW'21) report about {pearson['reported']:.2f}"
