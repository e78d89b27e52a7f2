"""Score: what the command `quorem score` does: rows of a file go to a server, scores are printed or written."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..protos.encode import Float32s
from ..protos.errors import DataError, InputError
from ..protos.manifest import write_atomically
from .channel import access_of
from .client import Client
from .exchange import Description
from .rows import read

FORMATS = (".csv", ".jsonl")


def main(args: argparse.Namespace) -> int:
    """Score the rows of a file; the exit status.

    Raises:
        QuoremError: a file, a row or a server that will not do. `--out` is then not written; printed scores stop there.
    """
    out: Path | None = args.out
    if out is not None and out.suffix not in FORMATS:
        raise DataError(
            f"scores are written as one of {list(FORMATS)}",
            found=repr(out.suffix),
            where=f"--out {out}",
            remedy="Name such a file",
        )
    if out is not None and out.exists() and out.samefile(args.rows):
        raise DataError(
            "scores do not replace the rows they are of", found="one file", where=f"--out {out}", remedy="Name another"
        )
    if out is not None and not out.parent.is_dir():
        raise DataError("--out stands in a directory", found="none", where=str(out.parent), remedy="Make it first")
    with Client(**vars(access_of(args)), connections=args.connections) as client:
        served = client.describe(args.model, version=args.version, label=args.label)
        batches = _scores(client, served, args)
        if out is None and not args.json:
            row = 0
            for scores in batches:
                print("\n".join(f"{row + position}\t{score}" for position, score in enumerate(map(str, scores))))
                row += len(scores)
            return 0
        scores = np.concatenate([np.empty(0, np.float32), *batches])
    if out is not None:
        write_atomically(out, _text(scores, out.suffix).encode())
    if args.json:
        facts = {"model": served.model, "version": served.version, "rows": len(scores)}
        facts |= {"output": "logit" if args.logit else "probability"}
        print(
            json.dumps(
                facts | ({"out": str(out)} if out is not None else {"scores": [float(str(score)) for score in scores]})
            )
        )
    else:
        print(f"{len(scores)} rows scored by {served.model}/{served.version}, written to {out}")
    return 0


def _scores(client: Client, served: Description, args: argparse.Namespace) -> Iterator[Float32s]:
    """(batch,) float32 each, in the order of the rows."""
    parts = read(args.rows, served.schema, min(args.batch, served.limits.max_rows), ignored=args.ignore)
    try:
        for reply in client.score_batches(served, parts, logit=args.logit):
            yield reply.scores
    except InputError as error:
        if error.where.startswith(args.endpoint):  # the server's: it does not know the file
            error.where = f"{args.rows}, {error.where}"
        raise


def _text(scores: Float32s, suffix: str) -> str:
    """Every score with the fewest digits that read back as the same float32."""
    if suffix == ".csv":
        return "row,score\n" + "".join(f"{row},{score}\n" for row, score in enumerate(map(str, scores)))
    return "".join(f'{{"row": {row}, "score": {score}}}\n' for row, score in enumerate(map(str, scores)))
