"""`python -m benchmarks.serving.pinned --work DIR`: how much of one core's in-process rate is left through the server.

A DLRM (13-512-256-16, 367-512-256-1) over Criteo's cardinalities at four collisions. The server's processes stand on
one core with a loop of `session.run` over the same graph and inputs, the client on another; the two take turns, a round
each, so that their ratio comes from the same minutes. Eight connections have a call in flight each, and requests are
serialized before the clock. Processors' time is told too: other work on the machine leaves it nearly as it is. Beside
ModelInfer, the least that grpcio can do takes its turn (bare.py): what it leaves is what there is to be had.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from quorem.protos import manifest
from quorem.serve.bench.drive import Closed, Drivers, Window
from quorem.serve.bench.load import Load
from quorem.serve.bench.requests import request
from quorem.serve.bench.target import Target, find
from quorem.serve.channel import TIMEOUT_S, Access

from ..graphs.clock import machine
from .bundle import build
from .one_core import BATCHES, Cell, batch, cpu_s, drawn, inputs_of, looping, pss, serving, spread

CONNECTIONS = 8
ROUNDS, ROUND_S, WARMUP_S = 12, 1.0, 0.1
CELLS = (
    Cell("infer", 128, "model.onnx", ("logit", "ctr"), 0.75),
    Cell("score", 270, "rank.onnx", ("ctr",), 0.7),
)


def main() -> None:
    """Build the bundle unless it is there, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.pinned", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="a directory for the bundle, 560 MB, kept for next time"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each, %(default)s")
    parser.add_argument("--seconds", type=float, default=ROUND_S, help="a round, %(default)s")
    parser.add_argument("--out", type=Path, help="a file for the results as JSON")
    args = parser.parse_args()
    server_core, client_core = sorted(os.sched_getaffinity(0))[:2]
    bundle = build(args.work, "fp32")
    columns = drawn(manifest.read(bundle, verify_digests=False).schema, max(cell.rows for cell in CELLS))
    os.sched_setaffinity(0, {client_core})  # the client's processes inherit it
    results = list[dict[str, Any]]()
    with serving(bundle.parents[1], server_core) as (endpoint, pids), Drivers(1) as drivers:
        memory = pss(pids)
        for cell in CELLS:
            target = find(Access(endpoint), "ctr", cell.protocol, None)
            assert target.schema
            batches = [batch(columns, cell.rows, number) for number in range(BATCHES)]
            sent = tuple(request(target, target.schema, each, cell.rows) for each in batches)
            load = Load(str(cell.rows), sent, (cell.rows,) * len(sent), (None,) * len(sent))
            inputs = [inputs_of(target.schema, cell, each) for each in batches]
            bare = _bare(bundle / cell.graph, server_core) if cell.protocol == "infer" else nullcontext(None)
            with looping(bundle, cell, server_core, inputs) as loop, bare as least:
                found = list[dict[str, float]]()
                for _ in range(args.rounds):
                    rate, cpu_us, *_ = loop(args.seconds)
                    measured, server_us = _round(drivers, target, load, args.seconds, pids)
                    found.append(
                        {
                            "ratio": measured.rate / rate,
                            "ratio of CPU": cpu_us / server_us,
                            "in process, calls/s": rate,
                            "served, calls/s": measured.rate,
                            "in process, CPU us": cpu_us,
                            "server, CPU us": server_us,
                            "client, CPU us": 1e6 * measured.cpu_s / measured.answered,
                        }
                    )
                    if least is not None:
                        access, bare_pids = least
                        bare_target = replace(target, access=access)
                        measured, bare_us = _round(drivers, bare_target, load, args.seconds, bare_pids)
                        found[-1] |= {"bare grpcio, ratio": measured.rate / rate, "bare grpcio, CPU us": bare_us}
            spreads = {name: spread([each[name] for each in found]) for name in found[0]}
            told = ", ".join(f"{name} {each}" for name, each in spreads.items())
            print(f"{cell.protocol} {cell.rows} (target {cell.target}): {told}", flush=True)
            results.append({**cell._asdict(), **{name: each.__dict__ for name, each in spreads.items()}})
        later = pss(pids)
        print(f"PSS of the server, MB: {memory / 1e6:.1f} before, {later / 1e6:.1f} after; {machine()}")
    if args.out:
        args.out.write_text(
            json.dumps({"machine": machine(), "cells": results, "pss": [memory, later]}, indent=1) + "\n"
        )


def _round(drivers: Drivers, target: Target, load: Load, seconds: float, pids: Sequence[int]) -> tuple[Window, float]:
    """What came of the second of two windows, and the server's microseconds of CPU a call between their ends."""
    windows = drivers.windows(target.access, target.path, load, Closed(CONNECTIONS), WARMUP_S, seconds, TIMEOUT_S)
    with closing(windows):
        next(windows)
        before = cpu_s(pids)
        measured = next(windows)
        used_s = cpu_s(pids) - before
    assert not measured.failures, measured.failures
    return measured, 1e6 * used_s / measured.answered


@contextmanager
def _bare(graph: Path, core: int) -> Iterator[tuple[Access, list[int]]]:
    """How to reach a server that does nothing but run a graph, on one core, and its process id."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.serving.bare", str(graph)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield Access(f"127.0.0.1:{int(process.stdout.readline())}"), [process.pid]
        finally:
            process.kill()


if __name__ == "__main__":  # processes that it starts import it again
    main()
