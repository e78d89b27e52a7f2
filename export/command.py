"""The command `quorem export`: its arguments and help. Importing it costs nothing; running it imports onnx."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Build the ONNX graphs of a trained run and publish them as a new version of a model, in a
repository that `quorem serve` and Triton both read.

A version is published only when ONNX Runtime gives the logits that torch gave for the
run's held-out rows, to within 1e-5 x max(1, |logit|); otherwise nothing is written."""

EXAMPLES = """\
examples:
  quorem export runs/qr --to models/ctr         publish the next free version
  quorem export runs/qr --to models/ctr --version 7
  quorem export runs/qr --check                 would it be published?
  quorem export models/ctr/7 --check            is what stands there still what was proved?"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` to the commands of `quorem`."""
    parser = commands.add_parser(
        "export",
        help="a run directory becomes a version of a model",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run_directory", metavar="RUN", type=Path, help="a run directory; with --check also a published version"
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--to", metavar="MODELS/NAME", type=Path, help="the model, as a directory of a model repository"
    )
    target.add_argument("--check", action="store_true", help="prove RUN and publish nothing")
    parser.add_argument("--version", metavar="N", type=int, help="the version to publish (default: the next free one)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra="export")


def _run(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)
