"""`python -m benchmarks.serving.pinned --work DIR`: how much of one core's in-process rate is left through the server.

A DLRM (13-512-256-16, 367-512-256-1) over Criteo's cardinalities at four collisions. The server's processes stand on
one core with a loop of `session.run` over the same graph and inputs, the client on another; the two take turns, a round
each, so that their ratio comes from the same minutes. Eight connections have a call in flight each, and requests are
serialized before the clock. Processors' time is told too: other work on the machine leaves it nearly as it is. Beside
ModelInfer, the least that grpcio can do takes its turn (bare.py): what it leaves is what there is to be had.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import onnxruntime as ort
from quorem.protos import manifest, manifest_pb2
from quorem.protos.encode import Column
from quorem.serve.bench.drive import Closed, Drivers, Window
from quorem.serve.bench.load import Load
from quorem.serve.bench.requests import request
from quorem.serve.bench.target import Protocol, Target, find
from quorem.serve.channel import TIMEOUT_S, Access
from quorem.serve.metrics import cpu_seconds, pss_bytes

from ..graphs.clock import Spread, machine
from .bundle import build

CONNECTIONS = 8
ROUNDS, ROUND_S, WARMUP_S = 12, 1.0, 0.1
Columns = dict[str, Column]


class Cell(NamedTuple):
    """A request's protocol and rows, the graph that answers it, and the ratio that it must reach."""

    protocol: Protocol
    rows: int
    graph: str
    outputs: tuple[str, ...]
    target: float


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
    columns = _columns(manifest.read(bundle, verify_digests=False).schema)
    os.sched_setaffinity(0, {client_core})  # the client's processes inherit it
    results = list[dict[str, Any]]()
    with _serving(bundle.parents[1], server_core) as (endpoint, pids), Drivers(1) as drivers:
        memory = sum(map(_pss, pids))
        for cell in CELLS:
            target = find(Access(endpoint), "ctr", cell.protocol, None)
            assert target.schema
            batches = [_batch(columns, cell.rows, number) for number in range(16)]
            sent = tuple(request(target, target.schema, each, cell.rows) for each in batches)
            load = Load(str(cell.rows), sent, (cell.rows,) * len(sent), (None,) * len(sent))
            inputs = [_inputs(target.schema, cell, each) for each in batches]
            bare = _bare(bundle / cell.graph, server_core) if cell.protocol == "infer" else nullcontext(None)
            with _loop(bundle, cell, server_core, inputs) as loop, bare as least:
                found = list[dict[str, float]]()
                for _ in range(args.rounds):
                    rate, cpu_us = loop(args.seconds)
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
            spreads = {name: _spread([each[name] for each in found]) for name in found[0]}
            told = ", ".join(f"{name} {spread}" for name, spread in spreads.items())
            print(f"{cell.protocol} {cell.rows} (target {cell.target}): {told}", flush=True)
            results.append({**cell._asdict(), **{name: spread.__dict__ for name, spread in spreads.items()}})
        later = sum(map(_pss, pids))
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
        before = _cpu_s(pids)
        measured = next(windows)
        used_s = _cpu_s(pids) - before
    assert not measured.failures, measured.failures
    return measured, 1e6 * used_s / measured.answered


def _columns(schema: manifest_pb2.Schema) -> Columns:
    """Uniform ids and normal numbers: 16 batches' worth, more rows than any cache holds."""
    rng, rows = np.random.default_rng(5), 16 * max(cell.rows for cell in CELLS)
    return {
        feature.name: Column(integers=rng.integers(0, feature.id.size, rows))
        if feature.HasField("id")
        else Column(floats=rng.standard_normal(rows, np.float32))
        for feature in schema.features
    }


def _batch(columns: Columns, rows: int, number: int) -> Columns:
    part = slice(number * rows, (number + 1) * rows)
    return {
        name: Column(
            integers=None if column.integers is None else column.integers[part],
            floats=None if column.floats is None else column.floats[part],
        )
        for name, column in columns.items()
    }


def _inputs(schema: manifest_pb2.Schema, cell: Cell, columns: Columns) -> dict[str, np.ndarray]:
    """What the graph reads of a batch."""
    if cell.graph == "model.onnx":
        return _arrays("", [feature.name for feature in schema.features], columns, slice(None))
    sides = {manifest_pb2.CONTEXT: ("context_", slice(1)), manifest_pb2.CANDIDATE: ("candidate_", slice(None))}
    found = dict[str, np.ndarray]()
    for side, (prefix, rows) in sides.items():
        found |= _arrays(prefix, [each.name for each in schema.features if each.side == side], columns, rows)
    return found


def _arrays(prefix: str, names: Sequence[str], columns: Columns, rows: slice) -> dict[str, np.ndarray]:
    ids = [columns[name].integers for name in names if columns[name].integers is not None]
    dense = [columns[name].floats for name in names if columns[name].floats is not None]
    return {
        f"{prefix}ids": np.stack([each[rows] for each in ids if each is not None], axis=1),
        f"{prefix}dense": np.stack([each[rows] for each in dense if each is not None], axis=1),
    }


@contextmanager
def _serving(models: Path, core: int) -> Iterator[tuple[str, list[int]]]:
    """The address of a `quorem serve` on one core, and its process ids."""
    arguments = ["serve", str(models), "--port", "0", "--workers", "1", "--json"]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "quorem", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            facts = json.loads(process.stdout.readline())
            yield facts["address"], [facts["pid"], *facts["worker_pids"]]
        finally:
            process.terminate()


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


@contextmanager
def _loop(bundle: Path, cell: Cell, core: int, inputs: Sequence[dict[str, np.ndarray]]) -> Iterator[Any]:
    """The in-process loop, in a process of its own: seconds -> (calls a second, microseconds of CPU a call)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
    process = context.Process(target=_run, args=(bundle, cell, core, inputs, theirs), daemon=True)
    process.start()
    theirs.close()

    def loop(seconds: float) -> tuple[float, float]:
        ours.send(seconds)
        return ours.recv()

    try:
        yield loop
    finally:
        ours.close()
        process.join()


def _run(bundle: Path, cell: Cell, core: int, inputs: Sequence[dict[str, np.ndarray]], pipe: Connection) -> None:
    os.sched_setaffinity(0, {core})
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(bundle / cell.graph), options, providers=["CPUExecutionProvider"])
    outputs = list(cell.outputs)
    for each in inputs:
        session.run(outputs, each)
    while True:
        try:
            seconds: float = pipe.recv()
        except EOFError:
            return
        calls, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < start + seconds:
            session.run(outputs, inputs[calls % len(inputs)])
            calls += 1
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        pipe.send((calls / wall, 1e6 * cpu / calls))


def _pss(pid: int) -> int:
    return pss_bytes(pid) or 0


def _cpu_s(pids: Sequence[int]) -> float:
    return sum(cpu_seconds(pid) or 0.0 for pid in pids)


def _spread(found: Sequence[float]) -> Spread:
    return Spread(statistics.median(found), min(found), max(found))


if __name__ == "__main__":  # processes that it starts import it again
    main()
