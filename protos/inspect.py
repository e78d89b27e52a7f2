"""`quorem inspect`: what a directory holds, be it a run, a bundle, a plan or several, or how far plans agree."""

import argparse
import json
from pathlib import Path

from . import inspect_plan, inspect_plans, inspect_run, manifest, pareto, plan_directory
from .errors import QuoremError
from .terminal import plain_console


def main(args: argparse.Namespace) -> int:
    """Run `quorem inspect` as the parser's namespace asks."""
    paths: list[Path] = args.paths
    others = [path for path in paths if not _is_plan(path)]
    if len(paths) > 1 and others:
        raise QuoremError(
            "plans are inspected side by side; runs, versions and searches for several budgets one at a time",
            found=f"{len(others)} of {len(paths)} paths that are no plan directories",
            where=str(others[0]),
            remedy="Name plan directories alone, or one path",
        )
    if len(paths) > 1:
        facts, show = inspect_plans.describe(paths), inspect_plans.show
    elif others and (pareto.directory_of(paths[0]) / pareto.NAME).exists():
        facts, show = inspect_plans.describe_pareto(paths[0]), inspect_plans.show
    elif others:
        facts, show = inspect_run.describe(paths[0]), inspect_run.show
    else:
        facts, show = inspect_plan.describe(paths[0]), inspect_plan.show
    if args.json:
        print(json.dumps(facts))
    else:
        show(facts, plain_console())
    return 0


def _is_plan(path: Path) -> bool:
    """Whether a path means a plan directory, whole or not."""
    directory = plan_directory.directory_of(path)
    names = (plan_directory.PLAN, plan_directory.SEARCH)
    return any((directory / name).exists() for name in names) and not (directory / manifest.NAME).exists()
