"""`python -m benchmarks.training step | growth`: time a training step; results as JSON, Markdown and a plot."""

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from ..graphs.clock import machine
from .figure import draw_growth
from .race import Entry, race
from .rows import cardinalities, write_rows
from .shapes import BATCH
from .table import growth_table, step_table

RESULTS = Path(__file__).parent / "results"
POOL = 24  # batches that a worker goes round in
PEERS = ("fuxictr", "deepctr")
STEP = (
    "deepfm/quorem/full/rowwise_adagrad",
    "deepfm/quorem/full/adam",
    "deepfm/quorem/c4/rowwise_adagrad",
    "deepfm/quorem/full/rowwise_adagrad/frozen",
    "deepfm/plain",
    "deepfm/plain/frozen",
    "deepfm/fuxictr",
    "deepfm/deepctr",
    "dlrm/quorem/full/rowwise_adagrad",
    "dlrm/quorem/c4/rowwise_adagrad",
    "dlrm/quorem/full/rowwise_adagrad/frozen",
    "dlrm/plain",
    "dlrm/torchrec",
)
GROWTH = (1_000_000, 3_000_000, 10_000_000, 34_000_000)


def main() -> None:
    """Measure and write `<part>.json` and `<part>.md`, and growth's plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("part", choices=("step", "growth"))
    parser.add_argument("--work", type=Path, required=True, help="a directory for rows, 90 MB a size")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of every variant in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ids", type=int, default=2_970_000, help="step: ids of all columns together")
    parser.add_argument("--exponent", type=float, default=1.05, help="of Zipf's law, by which ids come; 0: uniform")
    parser.add_argument("--variants", nargs="*", default=list(STEP), help="step: which")
    parser.add_argument("--optimizer", default="rowwise_adagrad", help="growth: which")
    parser.add_argument("--peers", type=Path, help="the Python of an environment with fuxictr and deepctr-torch")
    args = parser.parse_args()
    facts: dict[str, Any] = {
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        **{name: getattr(args, name) for name in ("rounds", "steps", "threads", "exponent")},
        "batch": BATCH,
    }
    if args.part == "step":
        sizes, rows = _rows(args.work, args.ids, args.exponent)
        entries = [
            Entry(name, name, rows, sizes, args.peers if name.split("/")[1] in PEERS else None)
            for name in args.variants
            if args.peers or name.split("/")[1] not in PEERS
        ]
    else:
        entries = list[Entry]()
        for ids in GROWTH:
            sizes, rows = _rows(args.work, ids, args.exponent)
            entries.append(Entry(f"{sum(sizes)}", f"deepfm/quorem/full/{args.optimizer}", rows, sizes, None))
        facts["optimizer"] = args.optimizer
    cells, notes = race(entries, rounds=args.rounds, steps=args.steps, threads=args.threads)
    table = step_table(cells) if args.part == "step" else growth_table(cells)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.part}.json").write_text(json.dumps({**facts, "notes": notes, "cells": cells}, indent=1) + "\n")
    head = f"{facts['machine']}; torch {facts['versions']['torch']}, {args.threads} threads; {args.rounds} rounds.\n"
    text = "\n".join([head, *(f"{note}\n" for note in notes), table])
    (args.out / f"{args.part}.md").write_text(text)
    if args.part == "growth":
        draw_growth(cells, args.out / "growth.svg")
    print(text)


def _rows(work: Path, ids: int, exponent: float) -> tuple[list[int], Path]:
    """The columns' sizes, and a directory with rows of them, written unless it is there."""
    sizes, directory = cardinalities(ids), work / f"{ids}-{exponent}"
    if not (directory / "labels.npy").exists():
        write_rows(directory, sizes, POOL * BATCH, exponent)
    return sizes, directory


main()
