"""The command `quorem search`: its arguments and help. Importing it costs nothing; running it imports torch."""

import argparse
import json
from pathlib import Path

from ..command import add_arguments

DESCRIPTION = """\
Choose the embedding dimension of every field, or within a budget of bytes its scheme and bits as
well, and write a plan directory: plan.json, which `quorem train --plan` trains from scratch;
search.json, how each field's was chosen; figures.

AutoDim (Zhao et al., WWW'21) trains one model that holds every candidate dim of every field,
and learns from the validation rows how much each candidate is worth. The recipe's section
[search] says how; its defaults are

  [search]
  candidates = [2, 8, 16, 24, 32]
  warmup = 1             epochs of equal weights, before the choice begins
  epochs = 10            epochs of choosing
  every = 10             batches from one update of the choice to the next
  lr = 0.001             of the choice; small data wants more, as it has fewer updates
  penalty = 0.0          what parameters cost, beside the loss
  normalise = true       candidates go through BatchNorm; false where tables are trained with
                         L2, which then counts in the search as it will in the training
  lookup = "shared"      a candidate is the first entries of one wide vector; "separate": of tables
                         of its own
  unify = "linear"       how candidates become as wide as the widest, or as `base`, while they
                         compete; "pad": by zeros. The training after it has model.unify
  choice = "gumbel"      noisy, and harder batch by batch: tau_rate = 0.00005 down to
                         tau_min = 0.01; "soft": the plain probabilities (AutoDim-s)
  update = "bilevel"     the choice learns from validation rows; "joint": from training rows
  [search.fields]
  user = [8, 16]         candidates of one field

--budget chooses scheme, dim and bits together, so that tables.bin takes at most so many bytes, and
--pareto does so for several budgets in one search (method = "budget"). A run of full tables as
--teacher helps. Of [search], candidates, fields, warmup, epochs, every and lr are as above; besides
  bits = [0, 8, 4, 3, 2, 1]  of numbers; 0 for float32
  price = 0.003              how fast the price of bytes rises while they are above the budget
  proposals = 4              plans that are trained on against each other in the end (3 for a next budget)
  proposal_epochs = 3        and for how long

Two others, for comparison. method = "mixed", by popularity: with n ids a field's dim is
base x (n / n of the smallest field)^-alpha; keys base = 32, alpha = 0.3, parameters.
method = "random": the best of some plans by the validation AUC of a training each; keys
candidates, fields, trials = 3, parameters. Their plans hold at most `parameters` numbers.

Tables may be full or composed (qr, mixed_radix …): the chosen dim is that of all of a field's
tables; the dims that [embedding] says do not count."""

EXAMPLES = """\
examples:
  quorem search planted_dims --out plans/1
  quorem search my_recipe.toml --out plans/2 --seed 2 --set search.penalty=0.01
  quorem search my_recipe.toml --out plans/2 --resume         go on after Ctrl-C
  quorem search frappe_ids --budget 10x --out plans/3         a tenth of the bytes of full tables
  quorem search frappe_ids --pareto 4x,10x,20KB --teacher runs/full --out plans/4
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
    add_arguments(parser, out="PLAN", what="search", setting="search.epochs=5")
    either = parser.add_mutually_exclusive_group()
    for flag, metavar, told in (
        (
            "--budget",
            "BYTES",
            "scheme, dim and bits of every field within bytes: 20KB, 5MB, or 10x fewer than full",
        ),
        ("--pareto", "BYTES,…", "several budgets in one search, as 4x,10x,20x,50x: a plan for each, in PLAN/10x …"),
    ):
        either.add_argument(flag, metavar=metavar, dest="set", action="append", type=_budget, help=told)
    parser.add_argument(
        "--teacher",
        metavar="RUN",
        type=Path,
        help="with a budget: a finished run of full tables on the same features, whose scores are learned from too",
    )
    parser.set_defaults(run=_run, extra="train")


def _budget(given: str) -> str:
    return f"search.budget={json.dumps(given)}"


def _run(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)
