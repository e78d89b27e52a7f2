"""The command `quorem inspect`: its arguments and help. Importing it costs nothing."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Show what a run directory or a version of a model holds: features and the tables of each,
bytes against full tables, layers, metrics, and files. A table stands as (divide,rows):
id x has row x // divide % rows in it.

The digest of every file is verified first; a directory that was changed is refused."""

EXAMPLES = """\
examples:
  quorem inspect runs/qr
  quorem inspect models/ctr/1 --json | jq .tables"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `inspect` to the commands of `quorem`."""
    parser = commands.add_parser(
        "inspect",
        help="what a run or a version of a model holds, verified",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="a run directory, or a version's: models/ctr/1")
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra=None)


def _run(args: argparse.Namespace) -> int:
    from .inspect import main

    return main(args)
