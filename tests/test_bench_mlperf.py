"""MLPerf's scenarios: LoadGen's own verdict on a real server, and what of it we do not believe."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Thread

import grpc
import pytest
from quorem.protos.errors import DataError, NotFound, Unavailable
from quorem.serve.bench import mlperf
from quorem.serve.bench.load import Drawn, Load, build
from quorem.serve.bench.loadgen import Sut
from quorem.serve.bench.mlperf import MlPerf, run
from quorem.serve.bench.sizes import parse_size
from quorem.serve.bench.target import Target, find
from quorem.serve.channel import Access
from served import Rows, eventually, serving

pytest.importorskip("mlperf_loadgen", reason="MLCommons' LoadGen is in the extra `mlperf`")

SLOW_MS, TIMEOUT_S = 600_000.0, 3600.0  # no loaded machine misses the bound, nor does its server shed for the deadline
SERVER = MlPerf("server", rate=300, bound_ms=SLOW_MS, seconds=2, connections=4, warmup_s=0.1)  # 459 samples tell a p99
OFFLINE = MlPerf("offline", rate=30_000, seconds=0.01, queries=300, connections=2, in_flight=8, warmup_s=0.1)


@pytest.fixture(scope="module")
def target(served_root: Path, golden: Rows) -> Iterator[Target]:
    arguments = ("--workers", "1", "--max-rows", "700", "--max-rows-in-flight", "1000000")  # a slow machine sheds none
    with serving(served_root / "models", served_root / "mlperf-log", *arguments) as server:
        yield find(Access(server.address), "", "auto", None)


@pytest.fixture(scope="module")
def load(target: Target) -> Load:
    return build(target, Drawn(), parse_size("mlperf"), seed=0)


@pytest.fixture(scope="module")
def small(target: Target) -> Load:
    return build(target, Drawn(), parse_size("8"), seed=0)


class Fake(grpc.GenericRpcHandler):
    """A server of any method: it takes its time and counts."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.running, self.most, self.seen, self._lock = seconds, 0, 0, Counter[bytes](), Lock()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.seen[request] += 1
        time.sleep(self.seconds)
        with self._lock:
            self.running -= 1
        return request


@contextmanager
def faked(seconds: float = 0.0) -> Iterator[tuple[Fake, grpc.Server, Target]]:
    fake, server = Fake(seconds), grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((fake,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield fake, server, Target(Access(f"127.0.0.1:{port}"), "/a.B/C", "infer", "", "", None, (), None, None)
    server.stop(None).wait()


FAKE_LOAD = Load("2", (b"a", b"b"), (2, 2), (None, None))


def test_a_server_run_is_loadgens_own(target: Target, load: Load, tmp_path: Path):
    found = run(target, load, SERVER, tmp_path / "logs", TIMEOUT_S)
    assert (found["scenario"], found["valid"], found["reasons"], found["partial"]) == ("Server", True, [], False)
    assert "Result is : VALID" in found["summary"]
    assert found["summary"] == (tmp_path / "logs" / "mlperf_log_summary.txt").read_text()
    assert (found["answered"], found["failures"]) == (found["queries"], {})
    assert found["scheduled_per_s"] == pytest.approx(300, rel=0.15)  # LoadGen's seed draws the same ones every time
    assert (found["load"], found["rows"]) == ("mlperf", pytest.approx(270, rel=0.02))
    assert found["rows_per_s"] == pytest.approx(found["completed_per_s"] * found["rows"], abs=0.1)
    latency = found["latency_ms"]
    assert (
        0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    )
    assert found["lowered"] == {
        "seconds": {"mlperf": 600, "used": 2},
        "samples": {"mlperf": 204_800, "used": len(load.requests)},
        "bound_ms": {"mlperf": 60, "used": SLOW_MS},
    }
    assert found["seconds"] >= 2
    assert json.loads(json.dumps(found)) == found


def test_an_offline_run_is_loadgens_own(target: Target, load: Load):
    found = run(target, load, OFFLINE, None, TIMEOUT_S)
    assert (found["scenario"], found["valid"], found["reasons"], found["logs"]) == ("Offline", True, [], None)
    assert "Scenario : Offline" in found["summary"]
    assert "Result is : VALID" in found["summary"]
    assert found["answered"] == 330  # of the rate and the seconds, a tenth more
    assert set(found["lowered"]) == {"seconds", "queries", "samples"}
    assert found["rows_per_s"] == pytest.approx(found["completed_per_s"] * found["rows"], abs=0.1)


def test_a_run_that_misses_the_bound_is_invalid_and_says_why(target: Target, small: Load):
    found = run(target, small, replace(SERVER, bound_ms=1e-3, seconds=0.2), None, TIMEOUT_S)
    assert (found["valid"], found["loadgen_valid"], found["failures"]) == (False, False, {})
    assert "Result is : INVALID" in found["summary"]
    assert found["reasons"][0].startswith("LoadGen: ")
    assert "bound_ms" not in found["lowered"]


@pytest.mark.parametrize("asked", [SERVER, OFFLINE], ids=["server", "offline"])
def test_calls_that_fail_make_a_run_invalid_that_loadgen_holds_valid(target: Target, small: Load, asked: MlPerf):
    spoilt = tuple(b"\xff" if number % 10 == 0 else each for number, each in enumerate(small.requests))
    found = run(target, replace(small, requests=spoilt), asked, None, TIMEOUT_S)
    assert (found["valid"], found["loadgen_valid"]) == (False, True)
    assert set(found["failures"]) == {"INVALID_ARGUMENT"}
    assert 0 < found["failures"]["INVALID_ARGUMENT"] < found["answered"]
    assert found["reasons"] == [f"calls failed: {found['failures']['INVALID_ARGUMENT']} x INVALID_ARGUMENT"]


def test_an_interrupted_run_tells_what_it_counted():
    with faked() as (fake, _, target):

        def interrupt() -> None:
            eventually(lambda: fake.seen.total() > 100)
            os.kill(os.getpid(), signal.SIGINT)

        thread = Thread(target=interrupt)
        thread.start()
        found = run(
            target, FAKE_LOAD, MlPerf("server", rate=300, seconds=60, connections=2, warmup_s=0), None, TIMEOUT_S
        )
        thread.join()
    assert (found["partial"], found["valid"], found["summary"]) == (True, False, "")
    assert 0 < found["answered"] <= fake.seen.total()
    assert not multiprocessing.active_children()


def test_a_server_that_dies_is_told_with_the_status():
    with faked() as (fake, server, target):

        def kill() -> None:
            eventually(lambda: fake.seen.total() > 100)
            server.stop(None).wait()

        thread = Thread(target=kill)
        thread.start()
        with pytest.raises(Unavailable, match=r"no answer in 5 s: .*\d+ x UNAVAILABLE") as caught:
            run(target, FAKE_LOAD, MlPerf("server", rate=100, connections=2, warmup_s=0), None, TIMEOUT_S)
        thread.join()
    assert caught.value.where == target.access.endpoint
    assert not multiprocessing.active_children()


def test_nobody_there_is_told_with_the_status():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        access = Access(f"127.0.0.1:{taken.getsockname()[1]}")
        target = Target(access, "/a.B/C", "infer", "", "", None, (), None, None)
        with pytest.raises(Unavailable, match="UNAVAILABLE"):
            run(target, FAKE_LOAD, SERVER, None, TIMEOUT_S)


def test_what_cannot_be_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = Target(Access("127.0.0.1:1"), "/a.B/C", "infer", "", "", None, (), None, None)
    with pytest.raises(DataError, match="rate is positive"):
        run(target, FAKE_LOAD, replace(SERVER, rate=0), None, TIMEOUT_S)
    with pytest.raises(NotFound, match="LoadGen's logs go to a directory"):
        run(target, FAKE_LOAD, SERVER, tmp_path / "absent" / "logs", TIMEOUT_S)
    monkeypatch.setattr(mlperf, "find_spec", lambda _: None)
    with pytest.raises(NotFound, match=r"pip install 'quorem\[mlperf\]'"):
        run(target, FAKE_LOAD, SERVER, None, TIMEOUT_S)


@dataclass(frozen=True)
class Taken:
    """A sample, as LoadGen hands it out."""

    id: int
    index: int


@pytest.mark.parametrize("limit", [None, 3])
def test_every_sample_is_completed_once_and_no_more_are_in_flight_than_allowed(limit: int | None):
    completed = Counter[int]()
    requests: tuple = (b"a", 5, b"b")  # gRPC raises at the second
    with faked(0.005) as (fake, _, target):
        channels = [target.access.channel() for _ in range(2)]
        calls = [channel.unary_unary(target.path) for channel in channels]
        sut = Sut(calls, requests, lambda id: completed.update([id]), limit, TIMEOUT_S)
        sut.issue([Taken(id, id % 3) for id in range(60)])
        eventually(lambda: completed.total() == 60)
        for channel in channels:
            channel.close()
    assert completed == Counter(range(60))
    assert (sut.answered, sut.failures) == (40, {"TypeError": 20})
    assert fake.seen == {b"a": 20, b"b": 20}
    assert 1 < fake.most <= (limit or 16)
