"""Servers: a quorem and its peers, each a tree of processes on the same version of the same repository."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from quorem.protos import open_inference_pb2 as inference
from quorem.serve.metrics import pss_bytes

from .environment import install

HERE = Path(__file__).parent
OURS, BATCHED = "quorem", "quorem-batched"  # the latter computes calls together, as PyTriton does unasked
BATCH_ROWS = 128
MOST_ROWS = 1 << 16  # peers refuse nothing; quorem by itself lets 8,192 rows wait
READY = "/inference.GRPCInferenceService/ModelReady"
START_S, STOP_S = 120.0, 15.0
POOL = "mlserver-pool"  # MLServer with workers beside the process that answers; without them it infers in that one
PACKAGES = {"kserve": "kserve", "mlserver": "mlserver", POOL: "mlserver", "pytriton": "pytriton"}


@dataclass(frozen=True)
class Server:
    """Where a server listens, and its tree's first process and how long it took to be ready; None: not started here."""

    name: str
    address: str
    pid: int | None = None
    start_s: float | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it speaks quorem's own protocol too."""
        return self.name in (OURS, BATCHED)

    def pids(self) -> list[int]:
        """The tree's processes now."""
        if self.pid is None:
            return []
        children = dict[int, list[int]]()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(parent, []).append(int(stat.parent.name))
        found = [self.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_s(self) -> float:
        """Seconds that the tree's living threads have run on any core."""
        nanoseconds = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    nanoseconds += int(task.read_text().split()[0])
                except OSError:
                    continue
        return nanoseconds / 1e9

    def pss_bytes(self) -> int | None:
        """Memory of the tree, pages that it shares counted once."""
        return sum(pss_bytes(pid) or 0 for pid in self.pids()) if self.pid else None


@contextmanager
def serving(name: str, version: Path, work: Path, cores: Collection[int], workers: int) -> Iterator[Server]:
    """A server of a version, on some cores; its tree is gone afterwards.

    Raises:
        SystemExit: it is not ready in time.
    """
    ports = _free_ports(3)
    address, log = f"127.0.0.1:{ports[0]}", work / f"{name}.log"
    command = ["taskset", "-c", ",".join(map(str, sorted(cores))), *_command(name, version, work, ports, workers)]
    begin = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    server = Server(name, address, process.pid)
    try:
        _wait(server, version.parent.name, process, log)
        yield replace(server, start_s=time.monotonic() - begin)
    finally:
        tree = server.pids()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in tree[1:]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


def _command(name: str, version: Path, work: Path, ports: list[int], workers: int) -> list[str]:
    """The command of a server: `workers` processes answer, where it has such a thing."""
    port, http, metrics = map(str, ports)
    if name in (OURS, BATCHED):
        serve = ["serve", str(version.parents[1]), "--port", port, "--workers", str(workers)]
        serve += ["--max-rows-in-flight", str(MOST_ROWS)]
        together = ["--batch-rows", str(BATCH_ROWS)] if name == BATCHED else []
        return [sys.executable, "-m", "quorem", *serve, *together]
    python, place = str(install(PACKAGES[name], work)), [str(version), version.parent.name, port, http]
    if name == "kserve":
        return [python, str(HERE / "kserve_server.py"), *place]
    if name == "pytriton":
        return [python, str(HERE / "pytriton_server.py"), *place, metrics, str(workers)]
    parallel = workers if name == POOL else 0
    folder = work / name / version.parent.name
    return [python, str(HERE / "mlserver_runtime.py"), *place, metrics, str(parallel), str(folder)]


def _wait(server: Server, model: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = inference.ModelReadyRequest(name=model).SerializeToString()
    deadline = time.monotonic() + START_S
    with grpc.insecure_channel(server.address, [("grpc.max_reconnect_backoff_ms", 200)]) as channel:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                reply = channel.unary_unary(READY)(request, timeout=2.0)
            except grpc.RpcError:
                time.sleep(0.05)
                continue
            if inference.ModelReadyResponse.FromString(reply).ready:
                return
            time.sleep(0.05)
    raise SystemExit(f"{server.name} is not ready; what it said stands in {log}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
