"""The command `quorem search`: its arguments and help. Importing it costs nothing; running it imports torch."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Choose the embedding dimension of every field, and write a plan directory: plan.json, which
`quorem train --plan` trains from scratch; search.json, how each dim was chosen; figures.

AutoDim (Zhao et al., WWW'21) trains one model that holds every candidate dim of every field,
and learns from the validation rows how much each candidate is worth. The recipe's section
[search] says how; without one the defaults stand, candidates 2, 8, 16, 24, 32:

  [search]
  candidates = [2, 4, 8, 16]
  warmup = 1                     epochs of equal weights, before the choice begins
  epochs = 10                    epochs of choosing
  every = 10                     batches from one update of the choice to the next
  lr = 0.001                     of the choice; small data wants more, as it has fewer batches
  tau_rate = 0.00005             how fast the choice becomes hard
  penalty = 0.0                  what parameters cost, beside the loss

Fields may have candidates of their own ([search.fields] user = [8, 16]). Tables may be full
or composed (qr, mixed_radix …): the chosen dim is that of all of a field's tables.
method = "mixed" takes dims by popularity instead, method = "random" the best of some trials."""

EXAMPLES = """\
examples:
  quorem search planted_dims --out plans/1
  quorem search my_recipe.toml --out plans/2 --seed 2 --set search.penalty=0.01
  quorem search my_recipe.toml --out plans/2 --resume         go on after Ctrl-C
  quorem inspect plans/1 plans/2                              what was chosen, and how stable it is
  quorem train my_recipe.toml --plan plans/1 --out runs/1     retrain with the chosen dims alone"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `search` to the commands of `quorem`."""
    parser = commands.add_parser(
        "search",
        help="choose the embedding dimension of every field",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument("--out", metavar="PLAN", type=Path, required=True, help="the plan directory to write")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="random seed, instead of the recipe's train.seed")
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted search in PLAN")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of the recipe, as in --set search.epochs=5 (repeatable; VALUE is TOML, or a plain word)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra="train")


def _run(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)
