"""The command `quorem compare`: its arguments and help. Importing it costs nothing."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

N = TypeVar("N", int, float)

DESCRIPTION = """\
Run a study: a table of arms (recipes with settings laid over them), each trained with
several seeds. Every run is a process of its own and is done once: what was interrupted,
even by a power cut, goes on with the same command. DIR gets

  table.md, table.csv    one section a factor: AUC and logloss (mean ± standard deviation over
                         seeds), parameters, bytes, compression, seconds, and how each arm
                         compares with the one that it is held against: better, worse, or
                         within seed noise (95 %, Welch's t-test); of searched arms, how alike
                         the dims are that their seeds find
  FACTOR.auc.svg, …      the same against bytes, with error bars
  results.json           all of it, for a script
  runs/                  the run and plan directories, and beside each its recipe, log and facts

STUDY is a TOML file:

  [study]
  title = "Quotient-remainder on Frappe"
  recipe = "frappe"                  a file beside the study, or the name of a shipped recipe
  set = ["train.l2=0.01"]            laid over every run
  seeds = [2021, 2022, 2023]
  against = "full"                   the arm that all others are compared with
  epochs = 12                        what a run is expected to take, for the estimate of time

  [[arms]]
  name = "full"
  factor = "collisions"              its section and its figures; factors = [...] for several
  set = ["embedding.scheme=full"]
  tune = { "train.l2" = [0.01, 0.001] }    the best validation AUC of the first seed is kept
                                     an arm may have its own seeds and recipe, and more arms
                                     to compare with: against = [...]

  [[arms]]
  name = "autodim"
  factor = "searched"
  search = ["train.l2=0"]            `quorem search` finds the plan that is trained, one for each
                                     seed, with these settings ([] for none) laid over the arm's;
                                     arms whose searches are the same share them
  measure = "search"                 nothing is trained: the search's own metrics are the arm's

  [[grids]]                          an arm for each combination
  name = "{scheme} c={collisions}"
  series = "{scheme}"                its line in the figures
  factor = "collisions"
  against = "hash c={collisions}"
  [grids.over]
  "embedding.scheme" = ["hash", "qr"]
  "embedding.collisions" = [2, 4, 10, 60]"""

EXAMPLES = """\
examples:
  quorem compare study.toml --out study --estimate        how many runs, and how long; no more
  quorem compare study.toml --out study --jobs 2
  quorem compare study.toml --out study --limit-minutes 30    what is left stays to be done
  quorem compare study.toml --out study --arm 'qr*' --seeds 1    these first
  quorem compare study.toml --out study --report          tables of what is finished, even while it runs

--arm, --seeds and --limit-minutes say what is run now; the tables tell of all that is finished.
A run is known by its resolved recipe and seed alone: after other rows stand behind its paths,
or to train on another device, name another DIR.

Each of the JOBS processes gets its share of the cores as threads. Figures depend on the number
of threads in their last digits, so keep to one JOBS within a study.

Ctrl-C saves every run under way. Exit codes: 0 done (or out of minutes), 1 some runs failed
(the table says why; the same command tries them again), 2 refused, 130 stopped."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `compare` to the commands of `quorem`."""
    parser = commands.add_parser(
        "compare",
        help="many runs of a study become tables and figures with their seed noise",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="STUDY", type=Path, help="a TOML file")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the study's directory")
    parser.add_argument(
        "--jobs", metavar="N", type=_number(int, 1, 1024), help="runs at a time (default: the cores it may use)"
    )
    parser.add_argument(
        "--arm", metavar="GLOB", action="append", default=[], help="run only arms of such names (repeatable)"
    )
    parser.add_argument(
        "--seeds", metavar="N", type=_number(int, 1, 1 << 20), help="run only the first N seeds of each arm"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="laid over every run, after all that the study says (repeatable); such runs are others than without it",
    )
    parser.add_argument(
        "--limit-minutes", metavar="M", type=_number(float, 0, 1 << 20), help="start no new run after so long"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--estimate", action="store_true", help="tell how long it will take, then stop")
    mode.add_argument("--report", action="store_true", help="write tables and figures of what is finished, then stop")
    parser.add_argument("--quiet", action="store_true", help="no estimate, no progress and no table")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra="train")


def _number(kind: Callable[[str], N], low: N, high: N) -> Callable[[str], N]:
    """A parser of numbers in [low, high], for argparse."""

    def number(text: str) -> N:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low}, {high}]")
        return value

    return number


def _run(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)
