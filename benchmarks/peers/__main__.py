"""`python -m benchmarks.peers --work DIR`: quorem and its peers on the same exported repository, under the same load.

Every peer is installed into an environment of its own, serves the version, and must give its golden rows their logits
before anything is timed. Then all servers are up at the same time and take turns: h2load keeps calls in flight, a round
a server, so that ratios come from the same seconds. On one core: every server's processes on it, the client on another.
On all cores: both anywhere.
"""

import argparse
import datetime
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from quorem.protos import manifest, manifest_pb2
from quorem.protos.errors import QuoremError

from ..graphs.clock import machine
from ..serving import bundle
from . import environment, plot, report
from .proof import prove
from .race import Cell, one_round, race
from .report import ALL_CORES, ONE_CORE
from .rows import CANDIDATES, FLAT, Rows
from .servers import BATCHED, OURS, PACKAGES, POOL, Server, serving

IN_FLIGHT = (1, 8, 32)
CELLS = tuple(Cell(*each) for each in product((*FLAT, CANDIDATES), IN_FLIGHT))
MODES = {"one": (ONE_CORE,), "all": (ALL_CORES,), "both": (ONE_CORE, ALL_CORES)}
MEMORY_IN_FLIGHT = 8


def main() -> None:
    """Install, prove, race, tell."""
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    version = (args.bundle or bundle.build(args.work / f"bundle-{args.precision}", args.precision)).resolve()
    found: dict[str, Any] = {
        "command": "python -m benchmarks.peers",
        "options": {"rounds": args.rounds, "seconds": args.seconds, "wide layers": _precision(version)},
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: environment.versions(name) for name in _packages(args)},
        "modes": [],
    }
    for package in found["versions"]:
        environment.install(package, args.work)
    try:
        rows = Rows(version)
        _read_all(version)
        for mode in MODES[args.cores]:
            found["modes"].append(_mode(mode, args, version, rows))
    except QuoremError as error:
        raise SystemExit(str(error)) from None
    told = report.table(found)
    print(f"\n{told}", *report.verdicts(found), found["machine"], sep="\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_atomically(args.out, (json.dumps(found, indent=1) + "\n").encode())
        manifest.write_atomically(args.out.with_suffix(".md"), told.encode())
        plot.draw(found, args.out.with_suffix(".svg"))


def _mode(name: str, args: argparse.Namespace, version: Path, rows: Rows) -> dict[str, Any]:
    """All cells of all servers, on one core or on all."""
    cores = sorted(os.sched_getaffinity(0))
    if name == ONE_CORE and len(cores) < 2:
        raise SystemExit("one core for the servers and one for the client: this process may use only one")
    on = {cores[0]} if name == ONE_CORE else set(cores)
    workers = 1 if name == ONE_CORE else len(cores)
    names = [OURS, *_peers(args, name)]
    alone = dict[str, dict[str, Any]]()
    with ExitStack() as stack:
        if name == ONE_CORE:
            stack.enter_context(_pinned({cores[1]}))
        for each in names:
            with serving(each, version, args.work, on, workers) as server:
                alone[each] = _alone(server, rows, args.seconds)
                print(f"{name}: {each} proved, {alone[each]}", flush=True)
        servers = [stack.enter_context(serving(each, version, args.work, on, workers)) for each in names]
        for each, address in args.endpoint:
            server = Server(each, address)
            alone[each] = {**_proved(server, rows), "pss_mb": None, "start_s": None}
            servers.append(server)
        cells = list[dict[str, Any]]()
        for cell, rounds in race(servers, rows.timed, args.cells, args.rounds, args.seconds):
            cells += report.cell_json(cell, rounds)
            told = {each: f"{cell['rate']:,.4g}/s" for each, cell in zip(rounds, cells[-len(rounds) :], strict=True)}
            print(f"{name}: {cell.rows} rows, {cell.in_flight} in flight: {told}", flush=True)
    return {"name": name, "cores": len(on), "workers": workers, "servers": alone, "cells": cells}


def _peers(args: argparse.Namespace, mode: str) -> list[str]:
    """Those asked for; else all peers, on one core without the pool, which only adds a hop there."""
    return [each for each in PACKAGES if each != POOL or mode == ALL_CORES] if args.only is None else args.only


def _read_all(version: Path) -> None:
    """Bring all pages of the files to memory: how many a server maps at a touch depends on that."""
    for path in version.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _packages(args: argparse.Namespace) -> list[str]:
    names = {name for mode in MODES[args.cores] for name in _peers(args, mode)}
    return sorted({PACKAGES[name] for name in names if name in PACKAGES})


def _precision(version: Path) -> str:
    return manifest_pb2.Number.Name(manifest.read(version, verify_digests=False).export.precision.dense)


def _proved(server: Server, rows: Rows) -> dict[str, Any]:
    """Golden rows in calls of every size, then the calls that are timed."""
    timed = [pair.ours if server.is_ours else pair.theirs for pair in rows.timed.values()]
    golden = [call for size in FLAT[1:] for call in rows.golden(size)]
    return {"worst_logit": float(f"{prove(server.name, server.address, [*golden, *timed], rows.bound):.2g}")}


def _alone(server: Server, rows: Rows, seconds: float) -> dict[str, Any]:
    """The proof, then memory under load, while no other server shares the tables' pages with it."""
    proved = _proved(server, rows)
    pair = rows.timed[CANDIDATES]
    one_round(server, pair.ours if server.is_ours else pair.theirs, MEMORY_IN_FLIGHT, seconds)
    pss = server.pss_bytes()
    return {
        **proved,
        "pss_mb": None if pss is None else round(pss / 1e6, 1),
        "start_s": None if server.start_s is None else round(server.start_s, 2),
    }


@contextmanager
def _pinned(cores: set[int]) -> Iterator[None]:
    """This process and the clients that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="a directory for environments, kept for next time: 2 GB"
    )
    parser.add_argument("--bundle", type=Path, help="an exported version; without it one is built, 560 MB")
    parser.add_argument(
        "--precision", choices=list(bundle.PRECISIONS), default="fp32", help="wide layers of the one built, %(default)s"
    )
    parser.add_argument(
        "--only", type=_names, metavar="NAME,NAME", help=f"of {','.join([*PACKAGES, BATCHED])}; empty: quorem alone"
    )
    parser.add_argument(
        "--endpoint", type=_endpoint, action="append", default=[], metavar="NAME=HOST:PORT",
        help="a server on the same version that runs already, such as Triton; may be repeated",
    )  # fmt: skip
    parser.add_argument("--cores", choices=list(MODES), default="both", help="%(default)s")
    parser.add_argument("--cells", type=_cells, default=CELLS, metavar="ROWSxCALLS,…", help="such as 1x32,270x8")
    parser.add_argument("--rounds", type=int, default=3, help="of every cell, %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="a round of a server, %(default)s")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="the report; its table and plot are put beside it"
    )
    return parser.parse_args()


def _names(text: str) -> list[str]:
    found = text.split(",") if text else []
    if unknown := sorted(set(found) - {*PACKAGES, BATCHED}):
        raise argparse.ArgumentTypeError(f"{unknown} are not among {[*PACKAGES, BATCHED]}")
    return found


def _endpoint(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not (name and equals and ":" in address) or name in (OURS, BATCHED, *PACKAGES):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=HOST:PORT with a name of its own")
    return name, address


def _cells(text: str) -> Sequence[Cell]:
    try:
        found = [Cell(*map(int, each.split("x"))) for each in text.split(",")]
    except (TypeError, ValueError):
        found = []
    if not found or any(each.rows not in (*FLAT, CANDIDATES) or each.in_flight < 1 for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxCALLS with rows of {(*FLAT, CANDIDATES)}")
    return found


if __name__ == "__main__":
    main()
