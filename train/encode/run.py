"""What the command `quorem encode` does: rows and a recipe become a cache, and a report of it."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ...protos.errors import RecipeError
from ..origin import read_origin
from ..recipe_file import read_recipe, to_toml
from ..reserve import growth_lines, told_growth
from .cache import Cache
from .cluster import cluster
from .job import Limits, encode
from .pool import processes
from .progress import Progress

INTERRUPTED = 130
GIGABYTE = 10**9


def main(args: argparse.Namespace) -> int:
    """Run `quorem encode`; returns the exit code."""
    recipe, base = read_recipe(args.recipe, args.set)
    _check(args)
    began = time.monotonic()
    origin = read_origin(args.from_run, to_toml(recipe, base)) if args.from_run else None
    engine = cluster if args.engine == "ray" else processes
    progress = Progress(Console(stderr=True, quiet=args.quiet or args.json))
    try:
        with progress, engine(args.jobs) as pool:
            limits = Limits(pool.jobs, int(args.memory * GIGABYTE), args.bad_rows)
            # Whole paths: workers of Ray stand in other directories, as does perhaps who goes on with this.
            cache, there = encode(recipe, base.absolute(), args.out.absolute(), limits, pool, progress, origin)
    except KeyboardInterrupt:
        again = shlex.join(["quorem", *sys.argv[1:]])
        told = f"\nStopped; what is done is kept. Go on with:\n  {again}"
        print(json.dumps({"error": "Interrupted", "remedy": again}) if args.json else told, file=sys.stderr)
        return INTERRUPTED
    facts = _facts(args.out, cache, there, progress.ranges) | {
        "seconds": round(time.monotonic() - began, 3),
        "stages": progress.seconds,
    }
    if origin:
        growth = told_growth(origin.manifest.schema, cache.fitted())
        facts["from"] = {"run": str(origin.path), "vocabularies": growth}
    if args.json:
        print(json.dumps(facts))
    elif not args.quiet:
        print("\n".join(_told(facts)))
    return 0


def _check(args: argparse.Namespace) -> None:
    for given, ok, rule, where in (
        (args.jobs, args.jobs is None or args.jobs >= 1, "there is at least one job", "--jobs"),
        (args.memory, args.memory > 0, "memory is above 0 GB", "--memory"),
        (args.bad_rows, 0 <= args.bad_rows < 1, "a share lies in [0, 1)", "--bad-rows"),
    ):
        if not ok:
            raise RecipeError(rule, found=str(given), where=where, remedy="Name another")


def _facts(out: Path, cache: Cache, there: bool, ranges: Mapping[str, int]) -> dict[str, Any]:
    return {
        "cache": str(out),
        "key": cache.key,
        "already_there": there,
        "rows": {name: split["rows"] for name, split in cache.splits.items()},
        "positives": {name: split["positives"] for name, split in cache.splits.items()},
        "bytes": cache.bytes,
        "vocabularies": {name: {"values": each["values"]} for name, each in cache.vocabularies.items()},
        "ranges": dict(ranges),
        "counts": "exact",
        "fitted_rows": cache.fitted_rows,
        "bad": cache.bad,
    }


def _told(facts: dict[str, Any]) -> list[str]:
    rows = sum(facts["rows"].values())
    named = ", ".join(f"{name} {count:,}" for name, count in facts["rows"].items())
    if facts["already_there"]:
        return [f"{facts['cache']} holds these rows already, encoded by this recipe; its digests are right"]
    lines = [
        f"{rows:,} rows ({named}) in {facts['seconds']:.1f} s: {rows / facts['seconds']:,.0f} rows/s",
        f"{facts['bytes']:,} bytes, {facts['bytes'] / rows:.0f} a row, in {facts['cache']}",
    ]
    if facts["vocabularies"]:
        values = sum(each["values"] for each in facts["vocabularies"].values())
        most = max(facts["ranges"].values())
        how = "" if most == 1 else f", in up to {most} ranges, one after the other"
        lines.append(f"{values:,} values in {len(facts['vocabularies'])} vocabularies; counts are exact{how}")
    if "from" in facts:
        lines.append(f"means, scales, boundaries and the ids of known values are those of {facts['from']['run']}")
        lines += growth_lines(facts["from"]["vocabularies"])
    elif facts["fitted_rows"] < facts["rows"]["train"]:
        lines.append(f"means, scales and boundaries are of {facts['fitted_rows']:,} evenly spaced training rows")
    if facts["bad"]["rows"]:
        lines.append(f"{facts['bad']['rows']:,} bad rows were left out; the first of them:")
        lines += [f"  {told}" for told in facts["bad"]["told"]]
    return lines
