"""The command `quorem train`: its arguments and help. Importing it costs nothing; running it imports torch."""

import argparse
import json
from pathlib import Path

RECIPES = Path(__file__).with_name("recipes")

DESCRIPTION = """\
Train a CTR model as a recipe says, and write a run directory: weights, manifest, metrics,
and held-out rows with the model's logits, from which `quorem export` proves its graphs.

RECIPE is a file, or the name of a shipped recipe: {shipped}."""

EXAMPLES = """\
examples:
  quorem train synthetic --out runs/full --set embedding.scheme=full
  quorem train synthetic --out runs/qr --set embedding.scheme=qr --set embedding.collisions=4
  quorem train my_recipe.toml --out runs/mine --device cuda --seed 2
  quorem train my_recipe.toml --out runs/mine --plan plans/1  the dims that a search found
  quorem train my_recipe.toml --out runs/mine --resume        go on after Ctrl-C, or a crash
  quorem train my_recipe.toml --out runs/mine --cache caches/1 rows that `quorem encode` made ready
  quorem train my_recipe.toml --out runs/small --teacher runs/full   what a larger model knows, too
  quorem train today.toml --from runs/monday --out runs/tuesday   yesterday's model, on the rows of today
  torchrun --nproc-per-node 2 -m quorem train my_recipe.toml --out runs/mine    two processes, or GPUs, one model

Ctrl-C and SIGTERM save the run as it stands and print the command that goes on with it. A run that is killed has
lost what it did since its last checkpoint: one is written after every epoch and every train.checkpoint_minutes.

Under torchrun every process takes its part of every batch of train.batch rows, so that the result is that of one
process up to the order of sums; with --max-restarts it goes on by itself after one of them was lost."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `train` to the commands of `quorem`."""
    shipped = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    parser = commands.add_parser(
        "train",
        help="rows and a recipe become a run directory",
        description=DESCRIPTION.format(shipped=shipped),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, out="RUN", what="run", setting="train.lr=0.001")
    parser.add_argument(
        "--cache",
        metavar="CACHE",
        dest="set",
        action="append",
        default=[],
        type=lambda given: f"data.cache={json.dumps(str(Path(given).absolute()))}",
        help="read the rows from what `quorem encode` made of them, instead of the recipe's data.cache",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--plan",
        metavar="PLAN",
        type=Path,
        help="tables instead of those of [embedding]: a plan directory of `quorem search`, or a plan.json alone, the "
        "`plan` of a manifest",
    )
    either.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN",
        type=Path,
        help="go on from a finished run on new rows: its plan, weights and vocabularies, whose reserve new values take",
    )
    parser.add_argument(
        "--teacher",
        metavar="RUN",
        type=Path,
        help="learn from what a finished run on the same features gives the training rows, too (train.distil)",
    )
    parser.set_defaults(run=_run, extra="train")


def add_arguments(parser: argparse.ArgumentParser, *, out: str, what: str, setting: str) -> None:
    """What `train` and `search` both take: a recipe, and the directory `out` of the run or search that it makes."""
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument("--out", metavar=out, type=Path, required=True, help=f"the {out.lower()} directory to write")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="random seed, instead of the recipe's train.seed")
    parser.add_argument("--resume", action="store_true", help=f"go on with the interrupted {what} in {out}")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"override one key of the recipe, as in --set {setting} (repeatable; VALUE is TOML, or a plain word)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and errors too")


def _run(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)
