"""What `quorem search --budget` tells: the plans that it found, and the commands that go on with them."""

import argparse
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...protos import manifest_pb2 as pb
from ...protos import plan, plan_directory
from ...protos.inspect_field import field_facts, told_bits, told_tables
from ..checkpoint import NAME as CHECKPOINT
from ..directory import check_run
from ..prepare import prepare
from ..recipe import Recipe
from ..recipe_file import to_toml
from ..teacher import read_teacher
from .run import BudgetSearch


def main(args: argparse.Namespace, recipe: Recipe, base: Path, device: torch.device, again: Sequence[str]) -> int:
    """Search and tell of it; the exit code. `again`: the settings that the retraining needs.

    Raises:
        Interrupted: saved. QuoremError: see run.py.
    """
    began, resolved = time.monotonic(), to_toml(recipe, base, search=True)
    check_run(args.out, resolved, resume=args.resume, begun=CHECKPOINT)
    prepared = prepare(recipe, base)
    search = BudgetSearch(recipe, prepared)
    teacher = read_teacher(args.teacher, prepared) if args.teacher else None
    rooms = search.search(resolved, args.out, device, teacher, resume=args.resume, quiet=args.quiet)
    facts = {
        "method": "budget",
        "model": recipe.model.name,
        "seed": recipe.train.seed,
        "plans": [_facts(room, *plan_directory.read_plan(room)) for room in rooms],
        "device": device.type,
        "seconds": round(time.monotonic() - began, 2),
    }
    if args.json:
        print(json.dumps(facts))
    elif not args.quiet:
        print("\n".join(_told(facts, args, again)))
    return 0


def _facts(room: Path, made: pb.Plan, found: pb.Search) -> dict[str, Any]:
    """What `--json` tells of a plan."""
    fields = {field.feature: field for field in made.fields}
    return {
        "plan": str(room),
        "asked": found.budget.asked,
        "budget": found.budget.bytes,
        "bytes": found.budget.taken,
        "full_bytes": found.budget.full,
        "smallest_bytes": found.budget.smallest,
        "fields": {
            feature.name: field_facts(fields[feature.name], plan.table_bytes)
            for feature in found.schema.features
            if feature.name in fields
        },
        "valid": dict(found.valid_metrics),
    }


def _told(facts: dict[str, Any], args: argparse.Namespace, again: Sequence[str]) -> list[str]:
    """The same for a reader; `quorem inspect` tells more."""
    lines = list[str]()
    for each in facts["plans"]:
        factor = each["full_bytes"] / each["bytes"]
        lines.append(f"{each['bytes']:,} of {each['budget']:,} bytes, {factor:.1f}x fewer than full tables:")
        width = max(map(len, each["fields"]))
        lines += [
            f"  {name:{width}}  {field['scheme']:20} {told_tables(field):>16}  dim {field['dim']:3}  "
            f"{told_bits(field) or 'float32'}"
            for name, field in each["fields"].items()
        ]
    first = facts["plans"][0]["plan"]
    train = ["quorem", "train", args.recipe, "--plan", first, "--out", "RUN", *again]
    inspect = ["quorem", "inspect", str(args.out)]
    return [*lines, f"{facts['seconds']:.0f} s. Look at it, and train it:", *map(_line, (inspect, train))]


def _line(command: Sequence[str]) -> str:
    return f"  {shlex.join(command)}"
