"""`python -m benchmarks.graphs lookup | ids | rank | bits`: time the graphs and write results as JSON and Markdown."""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from . import bits, encodings, lookup, rank
from .clock import machine
from .table import bits_table, ids_table, lookup_table, rank_table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "fbgemm-gpu-cpu", "numpy")


def main() -> None:
    """Measure and write `<part>.json` and `<part>.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description=__doc__)
    parser.add_argument("part", choices=("lookup", "ids", "rank", "bits"))
    parser.add_argument("--work", type=Path, required=True, help="a directory for tables and graphs, up to 2.7 GB")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--no-torch", action="store_true", help="lookup: leave torch and fbgemm out")
    parser.add_argument("--nets", nargs="*", default=list(rank.NETS), choices=list(rank.NETS), help="rank: which nets")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"machine": machine(), "versions": _versions(), "rounds": args.rounds}
    if args.part == "lookup":
        cells, notes = lookup.measure(args.work, args.rounds, torch_too=not args.no_torch)
        table = lookup_table(cells)
        results = {**facts, "notes": notes, "cells": cells}
    elif args.part == "ids":
        cells, notes = encodings.measure(args.work, args.rounds)
        table = ids_table(cells)
        results = {**facts, "notes": notes, "cells": cells}
    elif args.part == "bits":
        cells, notes = bits.measure(args.work, args.rounds), []
        table = bits_table(cells)
        results = {**facts, "cells": cells}
    else:
        cells, deviations = rank.measure(args.work, args.rounds, args.nets)
        table = rank_table(cells, deviations)
        results = {**facts, "deviations": deviations, "cells": cells}
        notes = []
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.part}.json").write_text(json.dumps(results, indent=1) + "\n")
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    head = f"{facts['machine']}; {versions}; {args.rounds} rounds.\n"
    text = "\n".join([head, *(f"{note}\n" for note in notes), table])
    (args.out / f"{args.part}.md").write_text(text)
    print(text)


def _versions() -> dict[str, str]:
    found = dict[str, str]()
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


main()
