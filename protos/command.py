"""The command `quorem inspect`: its arguments and help. Importing it costs nothing."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Show what a run directory or a version of a model holds: features and the tables of each,
bytes against full tables, layers, metrics, and files. A table stands as (divide,rows):
id x has row x // divide % rows in it.

Of a plan directory of `quorem search`: the dim of each field with its probability, its margin
over the next candidate, and the bytes that it saves. Of several of them: their dims side by
side, and how far the searches agree.

Of a budget's plan: scheme, dim, bits and bytes of each field, which field would gain most from
the next KiB, with which of the options that were measured, and what giving one back would
cost. Of several budgets, or of what `quorem search --pareto` left: the plans side by side.

The digest of every file is verified first; a directory that was changed is refused."""

EXAMPLES = """\
examples:
  quorem inspect runs/qr
  quorem inspect models/ctr/1 --json | jq .tables
  quorem inspect plans/1
  quorem inspect plans/1 plans/2 plans/3      searches of several seeds
  quorem inspect plans/pareto                 the plans of a search for several budgets"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `inspect` to the commands of `quorem`."""
    parser = commands.add_parser(
        "inspect",
        help="what a run, a version of a model or a plan holds, verified",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        type=Path,
        help="a run directory, a version's (models/ctr/1), what a --pareto left, or one plan directory or more",
    )
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra=None)


def _run(args: argparse.Namespace) -> int:
    from .inspect import main

    return main(args)
