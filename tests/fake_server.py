"""A gRPC server whose latencies are known, in a process of its own: `python fake_server.py [option …]`.

Any method answers any bytes. A request is a number of microseconds as text, which its answer takes; what else the
server does, its options tell. It writes its port, and a line for every call that it answers: its peer, when the call
came and when it was answered (nanoseconds of `time.perf_counter_ns`, which the clients' processes share).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import grpc
import numpy as np

THREADS = 256
STALL_S = 1.0


class Handler(grpc.GenericRpcHandler):
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.first, self.calls, self.lock = args, None, 0, Lock()
        self.log = args.log.open("a", buffering=1)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        came = time.perf_counter_ns()
        with self.lock:
            self.first = self.first or came
            self.calls += 1
            since_s, calls = (came - self.first) / 1e9, self.calls
        if self.args.refuse and calls > self.args.after:
            context.abort(grpc.StatusCode[self.args.refuse], "as it was asked to")
        if self.args.hang and calls > self.args.after:
            while context.is_active():
                time.sleep(0.01)
            return b""
        if self.args.die and calls > self.args.after:
            os._exit(1)
        time.sleep(int(request) / 1e6)
        if self.args.stall is not None and self.args.stall <= since_s < self.args.stall + STALL_S:
            time.sleep(self.args.stall + STALL_S - since_s)
        with self.lock:
            self.log.write(f"{context.peer()} {came} {time.perf_counter_ns()}\n")
        return request


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--stall", type=float, help="seconds after the first call, for a second")
    parser.add_argument("--refuse", help="with this status")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--after", type=int, default=0, help="so many calls it refuses, hangs or dies")
    args = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), handlers=(Handler(args),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    server.wait_for_termination()


@dataclass(frozen=True)
class Fake:
    """A running one."""

    address: str
    log: Path

    def peers(self) -> list[str]:
        """The connection of every call that was answered."""
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def latencies(self) -> np.ndarray:
        """How long each of them took, (calls,) int64, nanoseconds."""
        times = np.array([line.split()[1:] for line in self.log.read_text().splitlines()], np.int64)
        return times[:, 1] - times[:, 0]


@contextmanager
def faking(log: Path, *arguments: str) -> Iterator[Fake]:
    """A fake server on a free port; killed in the end."""
    command = [sys.executable, __file__, "--log", str(log), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield Fake(f"127.0.0.1:{json.loads(process.stdout.readline())['port']}", log)
        finally:
            process.kill()


if __name__ == "__main__":
    main()
