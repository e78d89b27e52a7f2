"""`python -m benchmarks.serving.agree ENDPOINT`: whether three programs measure the same of one server.

quorem bench, h2load and perf_analyzer keep as many calls in flight and send the same request: ModelInfer of one batch
of rows, drawn from the schema. They take turns, a round each; ratios are to quorem bench, within a round. Calls should
take the server a millisecond or more, so that what is compared is the server and not three clients; the server's own
count of it is told. A connection a call in flight for all of them.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from quorem.protos import open_inference_pb2 as inference
from quorem.serve.bench.drive import Drivers
from quorem.serve.bench.h2load import H2load
from quorem.serve.bench.load import Drawn, Load, build
from quorem.serve.bench.loops import Closed
from quorem.serve.bench.measure import Pace, measure
from quorem.serve.bench.prove import prove
from quorem.serve.bench.result import Cell
from quorem.serve.bench.sizes import Fixed
from quorem.serve.bench.target import DTYPES, Target, find
from quorem.serve.bench.watch import Watch
from quorem.serve.channel import Access

from ..graphs.clock import Spread, machine

OURS = "quorem bench"
MOST_WINDOWS, REQUEST_US = 8, 1000.0
TOLERANCE_PERCENT = 999  # of perf_analyzer, which tells nothing of windows that differ by more; its spread is told here
Found = dict[str, float]  # rate, calls a second; p50, microseconds


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.agree", description=__doc__)
    parser.add_argument("endpoint", help="host:port of a server")
    parser.add_argument("--model", default="", help="where it has several")
    parser.add_argument("--perf-analyzer", default=shutil.which("perf_analyzer"), help="the program, if not on PATH")
    parser.add_argument("--rows", type=int, default=128, help="of the request, %(default)s")
    parser.add_argument("--concurrency", type=int, default=8, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="%(default)s")
    parser.add_argument("--window", type=float, default=1.0, help="seconds, three of a measurement, %(default)s")
    parser.add_argument("--out", type=Path, help="a file for the results as JSON")
    args = parser.parse_args()
    target = find(Access(args.endpoint), args.model, "infer", None)
    load = build(target, Drawn(), Fixed(args.rows), 1)
    load = replace(load, requests=load.requests[:1], counts=load.counts[:1], expected=load.expected[:1])
    prove(target, load)
    pace = Pace(args.window, args.window, MOST_WINDOWS, 1)
    rounds, server_us = defaultdict[str, list[Found]](list), list[float]()
    with Drivers(1) as drivers, TemporaryDirectory() as directory:
        clients = {OURS: drivers, "h2load": H2load()}
        names = [*clients, *(["perf_analyzer"] if args.perf_analyzer else [])]
        rows = _write_rows(Path(directory) / "rows.json", load)
        for number in range(args.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if name in clients:
                    watch = Watch(target, None, None)
                    cell = measure(clients[name], target, load, Closed(args.concurrency), pace, watch)
                    found = _found(cell)
                    server_us += [] if cell.server.compute_us is None else [cell.server.compute_us]
                else:
                    found = _analyzed(args, target, rows, Path(directory) / f"{number}.csv")
                rounds[name].append(found)
                print(f"round {number + 1}, {name}: {found['rate']:.0f} calls/s, p50 {found['p50']:.0f} us", flush=True)
    told = {name: _told(found, rounds[OURS]) for name, found in rounds.items()}
    for name, each in told.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in each.items()))
    model_us = _spread(server_us) if server_us else None
    print(f"the model takes {model_us} us a call; {machine()}")
    if model_us is not None and model_us.median < REQUEST_US:
        print(f"that is under {REQUEST_US:.0f} us: ask for more --rows")
    if args.out:
        result: dict[str, Any] = {key: getattr(args, key) for key in ("rows", "concurrency", "rounds", "window")}
        result |= {"machine": machine(), "model_us": model_us and asdict(model_us)}
        result["programs"] = {name: {key: asdict(value) for key, value in each.items()} for name, each in told.items()}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def _found(cell: Cell) -> Found:
    assert not cell.failures, cell.failures
    return {"rate": cell.rate, "p50": cell.latency_us["p50"]}


def _told(found: list[Found], ours: list[Found]) -> dict[str, Spread]:
    told = {key: _spread([each[key] for each in found]) for key in ("rate", "p50")}
    for key in ("rate", "p50") if found is not ours else ():
        told[f"ratio of {key}"] = _spread([each[key] / mine[key] for each, mine in zip(found, ours, strict=True)])
    return told


def _write_rows(path: Path, load: Load) -> Path:
    """The request's rows as perf_analyzer reads them: a step each, of which a batch takes as many as it has rows."""
    request = inference.ModelInferRequest.FromString(load.requests[0])
    arrays = {
        tensor.name: np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    steps = [{name: rows[number].tolist() for name, rows in arrays.items()} for number in range(load.counts[0])]
    path.write_text(json.dumps({"data": steps}))
    return path


def _analyzed(args: argparse.Namespace, target: Target, rows: Path, out: Path) -> Found:
    """What perf_analyzer says, of calls rather than of rows."""
    command = [args.perf_analyzer, "-i", "grpc", "--service-kind", "triton", "-u", args.endpoint, "-m", target.model]
    command += ["-b", args.rows, "--concurrency-range", args.concurrency, "--input-data", rows, "-f", out]
    command += ["-p", int(1e3 * args.window), "--percentile", 50, "-r", MOST_WINDOWS, "-s", TOLERANCE_PERCENT]
    environment = os.environ | {"TRITON_CLIENT_GRPC_CHANNEL_MAX_SHARE_COUNT": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if not out.exists():
        raise SystemExit(f"perf_analyzer found nothing:\n{done.stdout}{done.stderr}")
    (row,) = csv.DictReader(out.read_text().splitlines())
    return {"rate": float(row["Inferences/Second"]) / args.rows, "p50": float(row["p50 latency"])}


def _spread(found: Sequence[float]) -> Spread:
    return Spread(statistics.median(found), min(found), max(found))


if __name__ == "__main__":  # processes that it starts import it again
    main()
