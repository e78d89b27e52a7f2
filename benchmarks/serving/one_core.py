"""One core, shared by a server and a loop of `session.run` over the graph that it serves; their client has another."""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import onnxruntime as ort
from quorem.protos import manifest_pb2
from quorem.protos.encode import Column
from quorem.serve.bench.target import Protocol
from quorem.serve.metrics import cpu_seconds, pss_bytes

from ..graphs.clock import Spread

BATCHES = 16
Columns = dict[str, Column]
Inputs = dict[str, np.ndarray]


class Cell(NamedTuple):
    """A request's protocol and rows, the graph that answers it, and the ratio that it must reach."""

    protocol: Protocol
    rows: int
    graph: str
    outputs: tuple[str, ...]
    target: float


class Looped(NamedTuple):
    """What came of a while of calls in process: calls a second, and microseconds, of processor time a call too."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float


Loop = Callable[[float], Looped]


def drawn(schema: manifest_pb2.Schema, most_rows: int) -> Columns:
    """Uniform ids and normal numbers: 16 batches' worth, more rows than any cache holds."""
    rng, rows = np.random.default_rng(5), BATCHES * most_rows
    return {
        feature.name: Column(integers=rng.integers(0, feature.id.size, rows) + feature.id.first)
        if feature.HasField("id")
        else Column(floats=rng.standard_normal(rows, np.float32))
        for feature in schema.features
    }


def batch(columns: Columns, rows: int, number: int) -> Columns:
    """So many rows of the columns."""
    part = slice(number * rows, (number + 1) * rows)
    return {
        name: Column(
            integers=None if column.integers is None else column.integers[part],
            floats=None if column.floats is None else column.floats[part],
        )
        for name, column in columns.items()
    }


def inputs_of(schema: manifest_pb2.Schema, cell: Cell, columns: Columns) -> Inputs:
    """What the graph reads of a batch."""
    if cell.graph == "model.onnx":
        return _arrays("", [feature.name for feature in schema.features], columns, slice(None))
    sides = {manifest_pb2.CONTEXT: ("context_", slice(1)), manifest_pb2.CANDIDATE: ("candidate_", slice(None))}
    found = Inputs()
    for side, (prefix, rows) in sides.items():
        found |= _arrays(prefix, [each.name for each in schema.features if each.side == side], columns, rows)
    return found


def _arrays(prefix: str, names: Sequence[str], columns: Columns, rows: slice) -> Inputs:
    ids = [columns[name].integers for name in names if columns[name].integers is not None]
    dense = [columns[name].floats for name in names if columns[name].floats is not None]
    return {
        f"{prefix}ids": np.stack([each[rows] for each in ids if each is not None], axis=1),
        f"{prefix}dense": np.stack([each[rows] for each in dense if each is not None], axis=1),
    }


@contextmanager
def serving(models: Path, core: int, *options: str) -> Iterator[tuple[str, list[int]]]:
    """The address of a `quorem serve` on one core, and its process ids."""
    arguments = ["serve", str(models), "--port", "0", "--workers", "1", "--json", *options]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "quorem", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            facts = json.loads(process.stdout.readline())
            yield facts["address"], [facts["pid"], *facts["worker_pids"]]
        finally:
            process.terminate()


@contextmanager
def looping(bundle: Path, cell: Cell, core: int, inputs: Sequence[Inputs]) -> Iterator[Loop]:
    """The in-process loop, in a process of its own: it calls for so many seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
    process = context.Process(target=_run, args=(bundle, cell, core, inputs, theirs), daemon=True)
    process.start()
    theirs.close()

    def loop(seconds: float) -> Looped:
        ours.send(seconds)
        return ours.recv()

    try:
        yield loop
    finally:
        ours.close()
        process.join()


def _run(bundle: Path, cell: Cell, core: int, inputs: Sequence[Inputs], pipe: Connection) -> None:
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
        ends, cpu = [time.perf_counter()], time.process_time()
        until = ends[0] + seconds
        while ends[-1] < until:
            session.run(outputs, inputs[len(ends) % len(inputs)])
            ends.append(time.perf_counter())
        cpu, took = time.process_time() - cpu, 1e6 * np.diff(ends)
        p50, p99 = (float(each) for each in np.percentile(took, (50, 99)))
        pipe.send(Looped(len(took) / (ends[-1] - ends[0]), 1e6 * cpu / len(took), p50, p99))


def pss(pids: Sequence[int]) -> int:
    """Bytes of memory that processes hold, what they share divided among those that do."""
    return sum(pss_bytes(pid) or 0 for pid in pids)


def cpu_s(pids: Sequence[int]) -> float:
    """Seconds of processor time that processes have had."""
    return sum(cpu_seconds(pid) or 0.0 for pid in pids)


def spread(found: Sequence[float]) -> Spread:
    """Of the rounds."""
    return Spread(statistics.median(found), min(found), max(found))
