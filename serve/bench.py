"""Bench: what the command `quorem bench` does: requests are built, sent in a closed loop, timed and told."""

import argparse
import json
import platform
import sys
from pathlib import Path

import grpc
from rich.console import Console

from .. import __version__
from ..protos import open_inference_pb2 as inference
from ..protos import scoring_pb2 as scoring
from ..protos.errors import NotFound, TooLarge, Unavailable
from ..protos.manifest import write_atomically
from . import cores
from .channel import TIMEOUT_S, Access, access_of, error_of
from .client import Client
from .drive import Drivers
from .exchange import Description
from .load import Protocol, drawn, from_file, requests
from .report import Cell, cell, show
from .services import INFERENCE, SCORER

WIDTH = 120  # columns of a table that no terminal shows
PATHS: dict[Protocol, str] = {"score": f"/{SCORER}/Score", "infer": f"/{INFERENCE}/ModelInfer"}


def main(args: argparse.Namespace) -> int:
    """Measure an endpoint; the exit status: 1 if any call failed.

    Raises:
        QuoremError: rows or a server that will not do.
    """
    out: Path | None = args.out
    if out is not None and not out.parent.is_dir():
        raise NotFound("--out stands in a directory", found="none", where=str(out.parent), remedy="Make it first")
    access = access_of(args)
    with Client(**vars(access)) as client:
        served = client.describe(args.model)
    progress = Console(stderr=True)
    processes = args.processes or max(1, cores.usable()[0] // 2)
    cells = list[Cell]()
    with Drivers(processes) as drivers, progress.status("building requests") as status:
        for rows in args.rows:
            built = _requests(args, served, rows)
            _prove(access, args.protocol, built[0], rows)
            for concurrency in args.concurrency:
                status.update(f"{rows} rows a call, {concurrency} calls in flight")
                measured = drivers.run(access, PATHS[args.protocol], built, concurrency, args.warmup, args.duration)
                cells.append(cell(rows, concurrency, measured))
    result = json.dumps(_facts(args, served, processes) | {"cells": [each.as_dict() for each in cells]})
    if args.json:
        print(result)
    else:
        title = f"{served.model}/{served.version} on {args.endpoint}, closed loop, {args.protocol}, {args.duration:g} s"
        show(cells, title, _caption(args, served), Console(width=None if sys.stdout.isatty() else WIDTH))
    if out is not None:
        write_atomically(out, f"{result}\n".encode())
    return 1 if any(each.failures or not each.answered for each in cells) else 0


def _caption(args: argparse.Namespace, served: Description) -> str:
    """What the rows are; drawn values of a vocabulary are mostly unseen, which one hot row of its table answers."""
    if args.rows_file:
        return f"rows of {args.rows_file}"
    unseen = [each.name for each in served.schema.features if each.WhichOneof("encoding") == "vocabulary"]
    if not unseen:
        return "rows drawn from the schema"
    names = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
    return (
        f"rows drawn from the schema; values of vocabularies ({names}) are mostly unseen: use --rows-file for real ones"
    )


def _requests(args: argparse.Namespace, served: Description, rows: int) -> list[bytes]:
    if rows > served.limits.max_rows:
        raise TooLarge(
            f"the server takes at most {served.limits.max_rows} rows per call",
            found=str(rows),
            where="--rows",
            remedy="Ask for fewer",
        )
    if args.rows_file is None:
        return requests(served, args.protocol, rows, drawn(served.schema, rows, args.seed))
    columns = from_file(args.rows_file, served.schema, rows, ignored=args.ignore)
    return requests(served, args.protocol, rows, columns)


def _prove(access: Access, protocol: Protocol, request: bytes, rows: int) -> None:
    """Send one request and count the scores of its reply: what is timed afterwards are real answers.

    Raises:
        QuoremError: the server refuses it, or answers something else.
    """
    endpoint = access.endpoint
    with access.channel() as channel:
        try:
            reply: bytes = channel.unary_unary(PATHS[protocol])(request, timeout=TIMEOUT_S, metadata=access.metadata())
        except grpc.RpcError as error:
            raise error_of(error, endpoint) from None
    if protocol == "score":
        scores = scoring.ScoreResponse.FromString(reply).scores
    else:
        scores = inference.ModelInferResponse.FromString(reply).raw_output_contents[0]
    if len(scores) != 4 * rows:
        raise Unavailable(f"a reply holds {rows} scores", found=f"{len(scores)} bytes", where=endpoint)


def _facts(args: argparse.Namespace, served: Description, processes: int) -> dict[str, object]:
    return {
        "endpoint": args.endpoint,
        "model": served.model,
        "version": served.version,
        "scenario": args.scenario,
        "protocol": args.protocol,
        "rows_from": str(args.rows_file) if args.rows_file else f"drawn, seed {args.seed}",
        "warmup_s": args.warmup,
        "duration_s": args.duration,
        "client": {
            "processes": processes,
            "cores": cores.usable()[0],
            "machine": platform.machine(),
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
            "quorem": __version__,
        },
    }
