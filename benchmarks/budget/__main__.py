"""`python -m benchmarks.budget DIR`: searched plans of several budgets beside full tables and every single method."""

import argparse
import importlib.metadata
import json
from pathlib import Path

from quorem.protos.errors import QuoremError
from quorem.protos.tables_bin import plan_bytes
from quorem.train.budget.amount import parse
from quorem.train.budget.schemes import full_plan
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe import Recipe
from quorem.train.recipe_file import read_recipe

from ..graphs.clock import machine
from .figure import draw
from .gather import gather, groups
from .run import run_all
from .singles import singles
from .steps import Study
from .table import write_tables

RESULTS = Path(__file__).parent / "results"
BUDGETS, SEEDS = "4x,10x,20x,38x,50x,100x", "2021,2022,2023"


def main() -> None:
    """Run what is not done, and write frappe.json, .md and .svg of what is."""
    args = _arguments()
    directory: Path = args.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        recipe, base = read_recipe(args.recipe)
        prepared = prepare(recipe, base)
        budgets = _bytes(args.budgets.split(","), recipe, prepared)
        seeds = [int(seed) for seed in args.seeds.split(",")]
        if args.smoke:
            budgets, seeds = dict([*budgets.items()][:1]), seeds[:1]
        study = Study(directory, args.recipe, list(budgets), seeds, args.all_seeds, args.exports, args.smoke)
        steps = study.steps(singles(recipe, prepared, budgets, every_dim=args.every_dim))
    except QuoremError as error:
        raise SystemExit(str(error)) from None
    failed = {} if args.report else run_all(steps, directory, args.processes)
    runs = gather(steps, study)
    out: Path = args.out or (directory / "results" if args.smoke else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    path, version = out / f"{Path(args.recipe).stem.removesuffix('_ids')}.json", importlib.metadata.version("torch")
    facts = {"machine": machine(), "versions": {"torch": version}, "recipe": args.recipe, "budgets": budgets}
    path.write_text(json.dumps({**facts, "runs": runs}, indent=1) + "\n")
    head = f"{facts['machine']}; torch {version}, one thread a process; recipe `{args.recipe}`, seeds "
    head += f"{', '.join(map(str, seeds))}."
    write_tables(path.with_suffix(".md"), head, groups(runs), budgets, study)
    draw(groups(runs), path.with_suffix(".svg"))
    print(path.with_suffix(".md").read_text())
    if failed:
        raise SystemExit("\n".join(f"{name} failed: {why}" for name, why in failed.items()))


def _bytes(texts: list[str], recipe: Recipe, prepared: Prepared) -> dict[str, int]:
    """Budgets as they are asked for, and in bytes, from large to small, each once."""
    full = full_plan(recipe, prepared.schema, prepared.semantics, recipe.embedding.dim)
    whole = sum(plan_bytes(prepared.schema, full).values())
    try:
        found = {text.strip(): parse(text).of(whole) for text in texts}
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("directory", metavar="DIR", type=Path, help="runs and plans; those that are there are taken")
    parser.add_argument("--recipe", default="frappe_ids", help="a recipe with test rows (default: frappe_ids)")
    parser.add_argument("--budgets", default=BUDGETS, help=f"default: {BUDGETS}")
    parser.add_argument("--seeds", default=SEEDS, help=f"default: {SEEDS}")
    parser.add_argument("--processes", type=int, default=1, help="steps at a time, of one thread each")
    parser.add_argument("--all-seeds", action="store_true", help="single methods with all seeds, not the first alone")
    parser.add_argument("--every-dim", action="store_true", help="single methods in lower dims too where they need not")
    parser.add_argument("--exports", action="store_true", help="export what was searched, and check its bytes")
    parser.add_argument("--report", action="store_true", help="run nothing: tell of what is done")
    parser.add_argument("--smoke", action="store_true", help="the first budget and seed, one epoch: whether it works")
    parser.add_argument("--out", type=Path, help="where results go (default: results/ beside this file; --smoke: DIR)")
    return parser.parse_args()


main()
