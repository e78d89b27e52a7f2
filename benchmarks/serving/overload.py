"""`python -m benchmarks.serving.overload ENDPOINT`: what a server still does when three times its capacity arrives.

Capacity is what a closed loop gets. Then calls arrive at a multiple of it (Poisson), whether or not others were
answered, each with a deadline, and each is timed from the moment that it was due. Beside both, one connection asks for
the server's health a hundred times a second. Pin the server and this program to different cores.
"""

import argparse
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Event, Thread
from typing import Any, cast

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quorem.serve.bench.drive import Closed, Drivers
from quorem.serve.bench.load import Drawn, Load, build
from quorem.serve.bench.sizes import Fixed
from quorem.serve.bench.target import Target, find
from quorem.serve.channel import TIMEOUT_S, Access

from ..graphs.clock import machine

CONNECTIONS = 8  # of each client process
HEALTH_EVERY_S = 0.01
QUANTILES = (50, 90, 99, 100)
START_S, WARMUP_S = 0.5, 1.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Arrivals:
    """What one client process sends: calls at `rate` a second, from `start` by `time.monotonic`."""

    endpoint: str
    path: str
    requests: Sequence[bytes]
    rate: float
    start: float
    duration_s: float
    deadline_s: float
    seed: int


class Health:
    """Asks for a server's health for as long as the context lasts, on a thread and a connection of its own."""

    def __init__(self, endpoint: str) -> None:
        self.seconds, self.failures = list[float](), 0
        self._endpoint, self._over = endpoint, Event()
        self._thread = Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Health":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        with grpc.insecure_channel(self._endpoint, options=OWN_CONNECTION) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            while not self._over.wait(HEALTH_EVERY_S):
                begun = time.monotonic()
                try:
                    check(health_pb2.HealthCheckRequest(), timeout=5)
                    self.seconds.append(time.monotonic() - begun)
                except grpc.RpcError:
                    self.failures += 1

    def told(self) -> dict[str, Any]:
        """How often and how soon it was answered."""
        return {"asked": len(self.seconds), "failed": self.failures, "ms": _quantiles(self.seconds)}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.overload", description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("--rows", type=int, default=1024, help="a call")
    parser.add_argument("--concurrency", type=int, default=8, help="of the closed loop that finds the capacity")
    parser.add_argument("--times", type=float, default=3.0, help="the capacity that arrives")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of each part")
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds of each call")
    parser.add_argument("--processes", type=int, default=1, help="client processes")
    args = parser.parse_args()
    target = find(Access(args.endpoint), "", "score", None)
    load = build(target, Drawn(), Fixed(args.rows), seed=1)
    capacity = _closed(args, target, load)
    overload = _open(args, target.path, load.requests, args.times * capacity["calls_per_s"])
    print(
        json.dumps(
            {
                "machine": machine(),
                "rows": args.rows,
                "request_bytes": len(load.requests[0]),
                "capacity": capacity,
                "overload": overload,
                "goodput_of_capacity": overload["calls_per_s"] / capacity["calls_per_s"],
                "p99_of_that_at_capacity": overload["answered_ms"]["p99"] / capacity["answered_ms"]["p99"],
            },
            indent=1,
        )
    )


def _closed(args: argparse.Namespace, target: Target, load: Load) -> dict[str, Any]:
    loop = Closed(args.concurrency)
    with Drivers(args.processes) as drivers, Health(args.endpoint) as health:
        windows = drivers.windows(target.access, target.path, load, loop, WARMUP_S, args.duration, TIMEOUT_S)
        with closing(windows):
            found = next(windows)
    latencies = found.latencies
    return {
        "concurrency": args.concurrency,
        "calls_per_s": found.rate,
        "answered_ms": {f"p{each}": latencies.get_value_at_percentile(each) / 1e6 for each in QUANTILES},
        "failures": dict(found.failures),
        "client_cores": found.cpu_s / found.wall_s,
        "health": health.told(),
    }


def _open(args: argparse.Namespace, path: str, built: Sequence[bytes], rate: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    pipes = list[Connection]()
    for _ in range(args.processes):
        ours, theirs = cast("tuple[Connection, Connection]", context.Pipe())
        context.Process(target=_arrive, args=(theirs,), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()  # it has started
    start = time.monotonic() + START_S
    for seed, pipe in enumerate(pipes):
        share = rate / len(pipes)
        pipe.send(Arrivals(args.endpoint, path, built, share, start, args.duration, args.deadline, seed))
    with Health(args.endpoint) as health:
        parts = [pipe.recv() for pipe in pipes]
    statuses = Counter[str]()
    answered, refused, late = list[float](), list[float](), list[float]()
    for ended, sent_late, _ in parts:
        late += sent_late
        for status, seconds in ended:
            statuses[status] += 1
            (answered if status == "OK" else refused).append(seconds)
    return {
        "offered_per_s": sum(statuses.values()) / args.duration,
        "calls_per_s": len(answered) / args.duration,
        "answered_ms": _quantiles(answered),
        "others_ms": _quantiles(refused),
        "statuses": dict(statuses),
        "sent_late_ms": _quantiles(late),
        "client_cores": sum(cpu_s for _, _, cpu_s in parts) / args.duration,
        "health": health.told(),
    }


def _arrive(pipe: Connection) -> None:
    """A client process: send calls when they are due, and tell how each ended and how late it was sent."""
    pipe.send("started")
    job: Arrivals = pipe.recv()
    channels = [grpc.insecure_channel(job.endpoint, options=OWN_CONNECTION) for _ in range(CONNECTIONS)]
    calls = [channel.unary_unary(job.path) for channel in channels]
    for channel in channels:
        grpc.channel_ready_future(channel).result(timeout=START_S)
    rng = np.random.default_rng(job.seed)
    gaps = rng.exponential(1 / job.rate, int(job.rate * job.duration_s * 2))
    ended, late, pending = list[tuple[str, float]](), list[float](), list[Any]()

    def end(due: float, call: Any) -> None:
        ended.append((call.code().name, time.monotonic() - due))

    cpu_s = time.process_time()
    for number, due in enumerate((job.start + np.cumsum(gaps)).tolist()):
        if due > job.start + job.duration_s:
            break
        time.sleep(max(0.0, due - time.monotonic()))
        late.append(time.monotonic() - due)
        request = job.requests[number % len(job.requests)]
        call = calls[number % CONNECTIONS].future(request, timeout=job.deadline_s)
        call.add_done_callback(lambda call, due=due: end(due, call))
        pending.append(call)
    for call in pending:
        call.exception()  # waits for its end
    cpu_s = time.process_time() - cpu_s
    while len(ended) < len(pending):
        time.sleep(HEALTH_EVERY_S)  # its callback is on the way
    pipe.send((ended, late, cpu_s))


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds; none of nothing."""
    return {f"p{each}": 1000 * float(np.percentile(seconds, each)) for each in QUANTILES} if seconds else {}


if __name__ == "__main__":
    main()
