"""The command `quorem plot`: its arguments and help. Importing it costs nothing; running it imports matplotlib."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Draw the learning curves of runs side by side, finished or under way: loss, AUC of the training
rows and AUC of the validation rows, against steps and against seconds."""

EXAMPLES = """\
examples:
  quorem plot runs/full runs/qr --out curves.svg     follows the reader's dark or light setting
  quorem plot runs/* --out curves.html               a page: the curves, and a table of the runs
  quorem plot runs/full --out curves.png --dark"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `plot` to the commands of `quorem`."""
    parser = commands.add_parser(
        "plot",
        help="learning curves of runs become a picture",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run directories")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="FILE.svg, FILE.png or FILE.html")
    parser.add_argument("--dark", action="store_true", help="a PNG for a dark page; the others follow the reader")
    parser.add_argument("--json", action="store_true", help="print what was drawn as JSON, and errors too")
    parser.set_defaults(run=_run, extra="train")


def _run(args: argparse.Namespace) -> int:
    from .curves import main

    return main(args)
