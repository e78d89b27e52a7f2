"""The command `quorem export`: its arguments and help. Importing it costs nothing; running it imports onnx."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Build the ONNX graphs of a trained run and publish them as a new version of a model, in a
repository that `quorem serve` and Triton both read.

A version has two graphs over the same tables: model.onnx scores rows, rank.onnx one context
and N candidates, the context once. It is published only when ONNX Runtime gives the logits
that torch gave for the run's held-out rows, to within a bound that is derived from the
precision (in float32, 1e-5 x max(1, |logit|) or a little more); otherwise nothing is written.

Precision: fp32, fp16 or int8 for the tables, and behind a plus int8 for wide dense layers:
fp16, int8+int8 … `auto` tries them all on the run's validation rows and takes the smallest
whose AUC stays within --max-auc-loss of float32."""

EXAMPLES = """\
examples:
  quorem export runs/qr --to models/ctr         publish the next free version
  quorem export runs/qr --to models/ctr --precision int8+int8
  quorem export runs/qr --to models/ctr --precision auto --tune
  quorem export runs/qr --check                 would it be published?
  quorem export models/ctr/7 --check            is what stands there still what was proved?
  quorem export models/ctr/7 --tune             from how many candidates on does rank.onnx pay here?"""


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
        "run_directory",
        metavar="RUN",
        type=Path,
        help="a run directory; with --check or --tune alone also a published version",
    )
    parser.add_argument(
        "--to", metavar="MODELS/NAME", type=Path, help="the model, as a directory of a model repository"
    )
    parser.add_argument("--check", action="store_true", help="prove RUN and publish nothing")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="measure on this machine which graph to use, and which batches; of a published version if without --to",
    )
    parser.add_argument(
        "--precision", metavar="P", default="fp32", help="of tables, or tables+layers, or auto (default: fp32)"
    )
    parser.add_argument(
        "--max-auc-loss",
        metavar="X",
        type=float,
        default=1e-4,
        help="the AUC on validation rows that --precision auto may give for bytes (default: .0001)",
    )
    parser.add_argument("--version", metavar="N", type=int, help="the version to publish (default: the next free one)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra="export", refuse=parser.error)


def _run(args: argparse.Namespace) -> int:
    if (args.check and (args.to or args.tune)) or not (args.check or args.to or args.tune):
        args.refuse("name --to to publish (with --tune or without), or --check, or --tune for a published version")
    if not args.max_auc_loss >= 0:  # not a number is neither
        args.refuse("--max-auc-loss is 0 or more")
    from .run import main

    return main(args)
