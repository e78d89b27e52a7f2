"""`python -m benchmarks.serving.transport --work DIR`: what the transports leave of one core's in-process rate.

The DLRM of pinned.py. A server over each transport and a loop of `session.run` over the same graph and request stand on
one core, h2load on another, in a closed loop: one call in flight on one connection, eight on eight, 32 on eight of four
streams. All take turns, a window each, so that ratios come from the same minutes; told are medians of the rounds.
h2load logs when every call began and how long it took: p50 and p99 are those of the calls that ended in the window,
and the server's processor time in it is divided among them. Before the clock a grpcio client proves many different
requests, many at once, against `session.run`; after it, the bytes of all replies that h2load had must hold scores.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import sub, truediv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from quorem.protos import manifest
from quorem.protos import open_inference_pb2 as inference
from quorem.protos import scoring_pb2 as scoring
from quorem.serve.bench import h2load
from quorem.serve.bench.requests import request
from quorem.serve.bench.target import Target, find
from quorem.serve.channel import Access

from ..graphs.clock import Spread, machine
from .bundle import build
from .one_core import BATCHES, Cell, Inputs, Loop, Looped, batch, cpu_s, drawn, inputs_of, looping, pss, serving, spread

GRPCIO, NGHTTP2, HERE = "grpcio", "nghttp2", "in process"
ROUNDS, WINDOW_S, WARMUP_S, LEAD_S, TIMEOUT_S = 7, 1.0, 0.3, 0.2, 10.0
AT_ONCE = 16  # calls of the proof
INFER = ("model.onnx", ("logit", "ctr"))
SHAPES = {1: (1, 1), 8: (8, 1), 32: (8, 4)}  # calls in flight: connections, and streams on each
CELLS: Sequence[tuple[Cell, Sequence[int]]] = (
    (Cell("infer", 1, *INFER, 0), (1, 8, 32)),
    (Cell("infer", 32, *INFER, 0.9), (8,)),
    (Cell("infer", 128, *INFER, 0.9), (8,)),
    (Cell("score", 270, "rank.onnx", ("ctr",), 0.9), (8,)),
)
FASTER = {8: 4.0, 32: 6.0}  # batch 1, by calls in flight: times grpcio's rate
NEARER_US = 85.0  # batch 1, one call in flight: p50 beyond that of the call in process


class Served(NamedTuple):
    """A server to measure: its name, how to reach it, and its processes, where they are known."""

    name: str
    endpoint: str
    pids: Sequence[int]


class Measured(NamedTuple):
    """A window: calls a second; microseconds: of latency, of processor time a call; the client's share of its core."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    client: float


class Judged(NamedTuple):
    """A target: what it is of, what was found by the clock, and by processor time; where it lies, whether it holds."""

    what: str
    found: Spread
    cpu: Spread
    target: float
    holds: bool

    def __str__(self) -> str:
        word = "holds" if self.holds else "MISSED"
        return f"{word}: {self.what}: {self.found} (by processor time {self.cpu}), target {self.target:g}"


@dataclass(frozen=True)
class Line:
    """What one server, or the loop, did with one load in all rounds."""

    cell: Cell
    in_flight: int
    who: str
    rounds: Sequence[Measured | Looped]

    def of(self, name: str) -> Spread:
        """One figure over the rounds."""
        return spread([getattr(each, name) for each in self.rounds])

    def over(self, other: "Line", name: str, take: Callable[[float, float], float]) -> Spread:
        """One figure beside another's of the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return spread([take(getattr(ours, name), getattr(theirs, name)) for ours, theirs in pairs])


def main() -> None:
    """Build the bundle unless it is there, prove, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.transport", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a directory for the bundle, 560 MB, kept")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=WINDOW_S, help="a window, %(default)s")
    parser.add_argument(
        *("--endpoint", "-e"),
        metavar="NAME=HOST:PORT[@PID,...]",
        action="append",
        default=[],
        help="another server of the same bundle on the first core, such as a Triton: ModelInfer is measured there too",
    )
    parser.add_argument("--out", type=Path, help="a file for the results as JSON")
    args = parser.parse_args()
    server_core, client_core = sorted(os.sched_getaffinity(0))[:2]
    bundle = build(args.work, "fp32")
    os.sched_setaffinity(0, {client_core})  # h2load inherits it
    others = [_other(each) for each in args.endpoint]
    with ExitStack() as stack, TemporaryDirectory(prefix="quorem-transport-") as scratch:
        servers = list[Served]()
        for name in (GRPCIO, NGHTTP2):
            where = serving(bundle.parents[1], server_core, "--transport", name)
            servers.append(Served(name, *stack.enter_context(where)))
        memory = {each.name: pss(each.pids) for each in servers}
        lines = _measure(bundle, server_core, [*servers, *others], args.rounds, args.seconds, Path(scratch))
        grown = {each.name: (memory[each.name], pss(each.pids)) for each in servers}
    judged = list(judge(lines))
    print("\n".join(table(lines)), "\n")
    for each in judged:
        print(each)
    told = [f"{name} {before / 1e6:.1f} before, {after / 1e6:.1f} after" for name, (before, after) in grown.items()]
    print(f"PSS, MB: {', '.join(told)}; {machine()}")
    if args.out:
        args.out.write_text(json.dumps(_as_json(lines, judged, grown, args.seconds), indent=1) + "\n")


def _measure(
    bundle: Path, core: int, servers: Sequence[Served], rounds: int, seconds: float, scratch: Path
) -> list[Line]:
    """Every window of every round, in turn."""
    schema = manifest.read(bundle, verify_digests=False).schema
    columns = drawn(schema, max(cell.rows for cell, _ in CELLS))
    turns, found = list[tuple[Cell, int, str, Callable[[], Measured | Looped]]](), dict[tuple[Any, ...], list[Any]]()
    with ExitStack() as stack:
        for cell, in_flights in CELLS:
            batches = [batch(columns, cell.rows, number) for number in range(BATCHES)]
            inputs = [inputs_of(schema, cell, each) for each in batches]
            speaking = [each for each in servers if cell.protocol == "infer" or each.name in (GRPCIO, NGHTTP2)]
            loop: Loop = stack.enter_context(looping(bundle, cell, core, inputs[:1]))
            turns.append((cell, 1, HERE, partial(loop, seconds)))
            for each in speaking:
                target = find(Access(each.endpoint), "ctr", cell.protocol, bundle)
                requests = [request(target, schema, one, cell.rows) for one in batches]
                size = prove(target, requests, inputs, bundle, cell)
                body = scratch / f"{each.name}-{cell.protocol}-{cell.rows}"
                body.write_bytes(h2load.framed(requests[0]))
                for in_flight in in_flights:
                    one = partial(window, each, target.path, body, size, SHAPES[in_flight], seconds)
                    turns.append((cell, in_flight, each.name, one))
        for number in range(rounds):
            for cell, in_flight, who, turn in turns:
                found.setdefault((cell, in_flight, who), []).append(turn())
            print(f"round {number + 1} of {rounds}", flush=True)
    return [Line(*key, measured) for key, measured in found.items()]


def prove(target: Target, requests: Sequence[bytes], inputs: Sequence[Inputs], bundle: Path, cell: Cell) -> int:
    """Make many calls at once by grpcio; the bytes of a reply, whose scores are those of the graph in this process."""
    session = ort.InferenceSession(str(bundle / cell.graph), providers=["CPUExecutionProvider"])
    right = [np.concatenate(session.run(list(cell.outputs), each)) for each in inputs]
    with target.access.channel() as channel, ThreadPoolExecutor(AT_ONCE) as pool:
        call = channel.unary_unary(target.path)
        asked = [number % len(requests) for number in range(4 * len(requests))]
        replies: list[bytes] = list(pool.map(lambda number: call(requests[number], timeout=TIMEOUT_S), asked))
    for number, reply in zip(asked, replies, strict=True):
        np.testing.assert_allclose(_scores(reply, cell), right[number], rtol=1e-4, atol=1e-6)
    return h2load.PREFIX.size + len(replies[0])


def _scores(reply: bytes, cell: Cell) -> np.ndarray:
    if cell.protocol == "score":
        return np.frombuffer(scoring.ScoreResponse.FromString(reply).scores, "<f4")
    response = inference.ModelInferResponse.FromString(reply)
    values = {
        each.name: np.frombuffer(raw, "<f4")
        for each, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return np.concatenate([values[name] for name in cell.outputs])


def window(server: Served, path: str, body: Path, size: int, shape: tuple[int, int], seconds: float) -> Measured:
    """Drive a server for a while, and tell of a window within it."""
    log, whole_s = body.with_suffix(".log"), WARMUP_S + seconds + LEAD_S
    log.write_bytes(b"")  # the program appends
    command = h2load.command(h2load.found(), *shape, whole_s, TIMEOUT_S, body, log, server.endpoint + path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(WARMUP_S)
        begin, used, busy = time.time(), cpu_s(server.pids), cpu_s([process.pid])
        time.sleep(seconds)
        end, used, busy = time.time(), cpu_s(server.pids) - used, cpu_s([process.pid]) - busy
        told = process.communicate()[0]
    replies, missing = h2load.heard(told, size)
    assert replies, told
    assert not missing, f"{missing:.2%} of {replies} replies of {server.name} are missing or hold no scores"
    calls = h2load.calls(log.read_bytes())
    ends = calls[:, 0] + calls[:, 2]
    within = calls[(ends >= 1e6 * begin) & (ends < 1e6 * end)]
    p50, p99 = (float(each) for each in np.percentile(within[:, 2], (50, 99)))
    cpu_us = 1e6 * used / len(within) if server.pids else float("nan")
    return Measured(len(within) / (end - begin), p50, p99, cpu_us, busy / (end - begin))


def _other(text: str) -> Served:
    name, _, rest = text.partition("=")
    endpoint, _, pids = rest.partition("@")
    return Served(name, endpoint, [int(each) for each in pids.split(",") if each])


def judge(lines: Sequence[Line]) -> Iterator[Judged]:
    """Each target."""
    by = {(line.cell.protocol, line.cell.rows, line.in_flight, line.who): line for line in lines}

    def ratio(what: str, target: float, ours: Line, theirs: Line) -> Judged:
        found, cpu = ours.over(theirs, "rate", truediv), theirs.over(ours, "cpu_us", truediv)
        return Judged(what, found, cpu, target, found.median >= target)

    for in_flight, target in FASTER.items():
        ours, theirs = (by["infer", 1, in_flight, who] for who in (NGHTTP2, GRPCIO))
        yield ratio(f"batch 1, {in_flight} in flight, times grpcio's rate", target, ours, theirs)
    for cell, (in_flight, *_) in CELLS:
        if cell.target:
            ours, here = by[cell.protocol, cell.rows, in_flight, NGHTTP2], by[cell.protocol, cell.rows, 1, HERE]
            yield ratio(f"{cell.protocol} {cell.rows}, of the rate in process", cell.target, ours, here)
    ours, here = by["infer", 1, 1, NGHTTP2], by["infer", 1, 1, HERE]
    found, cpu = ours.over(here, "p50_us", sub), ours.over(here, "cpu_us", sub)
    what = "batch 1, one in flight, p50 beyond the call in process, us"
    yield Judged(what, found, cpu, NEARER_US, found.median <= NEARER_US)


def table(lines: Sequence[Line]) -> Iterator[str]:
    """Markdown: medians, of the rate also the least and the greatest."""
    by: Mapping[Any, Line] = {(line.cell, line.in_flight, line.who): line for line in lines}
    yield "| call | in flight | by | calls/s | p50, us | p99, us | CPU a call, us | of in process | x grpcio |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for line in lines:
        cell, rate = line.cell, line.of("rate")
        shares = ["", ""]
        if line.who != HERE:
            for at, other in enumerate((by[cell, 1, HERE], by[cell, line.in_flight, GRPCIO])):
                shares[at] = f"{line.over(other, 'rate', truediv).median:.2f}"
        figures = [f"{line.of(name).median:.0f}" for name in ("p50_us", "p99_us", "cpu_us")]
        told = [f"{cell.protocol} {cell.rows}", "" if line.who == HERE else str(line.in_flight), line.who]
        told += [f"{rate.median:.0f} [{rate.least:.0f} {rate.greatest:.0f}]", *figures, *shares]
        yield f"| {' | '.join(told)} |"


def _as_json(
    lines: Sequence[Line], judged: Sequence[Judged], grown: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    return {
        "machine": machine(),
        "window_s": seconds,
        "lines": [
            {"protocol": line.cell.protocol, "rows": line.cell.rows, "in_flight": line.in_flight, "by": line.who}
            | {name: line.of(name).__dict__ for name in line.rounds[0]._fields}
            | {"rounds": [each._asdict() for each in line.rounds]}
            for line in lines
        ],
        "targets": [each._asdict() | {"found": each.found.__dict__, "cpu": each.cpu.__dict__} for each in judged],
        "pss": grown,
    }


if __name__ == "__main__":  # processes that it starts import it again
    main()
