"""The command `quorem encode`: its arguments and help. Importing it costs nothing; running it imports pyarrow."""

import argparse
from pathlib import Path

DESCRIPTION = """\
Encode the rows of a recipe, which may be far more than memory holds, into a cache: a directory
of ids and numbers that `quorem train RECIPE --cache CACHE` maps into memory and reads in blocks.
The vocabularies, ids and kept rows are those that training from the files itself would have.

Two passes. Rows are read once, in parallel processes: text in stretches, Parquet by groups of
rows, packed text (gzip, zstd, …) a file a process; then values are counted, and ids written.
Counts are exact: what does not fit in the memory given is counted in ranges, one after the
other. Means, scales and boundaries are of 4,194,304 evenly spaced training rows, or of all
where there are fewer; rows divided by time take 32 bytes of memory each.

With --from RUN new rows are encoded as that run's successor takes them: its means, scales,
boundaries and ids stay, and new values take ids of its reserve. Such a cache is trained with
`quorem train RECIPE --from RUN --cache CACHE`, and with that run alone.

With --engine ray the same tasks are Ray's, on this machine or on the cluster that RAY_ADDRESS
names, all of whose machines have this quorem and see recipe, rows and cache by the same whole
paths; the cache is the same to the byte, however many do it.

A killed or stopped encoding goes on where it was when the same is said again. What is encoded
already is not encoded again, as is known by digests of the files and of what the recipe says."""

EXAMPLES = """\
examples:
  quorem encode criteo --out caches/criteo
  quorem encode my_recipe.toml --out caches/mine --jobs 8 --memory 16
  quorem encode my_recipe.toml --out caches/mine --bad-rows 0.001    leave out so many at most
  quorem encode today.toml --from runs/monday --out caches/tuesday   for quorem train --from runs/monday
  quorem encode my_recipe.toml --out caches/mine --engine ray
  quorem train my_recipe.toml --out runs/mine --cache caches/mine"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `encode` to the commands of `quorem`."""
    parser = commands.add_parser(
        "encode",
        help="rows, more than memory holds, become a cache that training maps",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument("--out", metavar="CACHE", type=Path, required=True, help="the directory to write")
    parser.add_argument(
        "--from",
        dest="from_run",
        metavar="RUN",
        type=Path,
        help="a finished run whose schema and vocabularies are gone on with: new values take ids of their reserve",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, unless said, or Ray's workers (pip install 'quorem[ray]')",
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, help="tasks at a time; as many as there are processors unless said"
    )
    parser.add_argument(
        "--memory",
        metavar="GB",
        type=float,
        default=4.0,
        help="that all processes work in together, beside the vocabularies that are kept; 4 unless said",
    )
    parser.add_argument(
        "--bad-rows",
        metavar="SHARE",
        type=float,
        default=0.0,
        help="leave out rows that cannot be read or that break a rule, up to this share of all; 0, none, unless said",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of the recipe, as in --set features.C1.min_count=10 (repeatable)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no report")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, and errors too")
    parser.set_defaults(run=_run, extra="train")


def _run(args: argparse.Namespace) -> int:
    from .run import main

    return main(args)
