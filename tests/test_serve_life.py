"""The life of a server: ready, killed workers, draining."""

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quorem.serve.call import Call
from quorem.serve.client import request_of
from quorem.serve.grpc_transport import THREADS
from quorem.serve.port import reserve
from served import ROWS, Rows, Served, alive, connections, eventually, serving
from transports import make

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
SCORE = "/quorem.v1.Scorer/Score"
OVER = ("nghttp2", "grpcio")


class Load:
    """Threads that call Score in a closed loop, each on its own connection, and count how calls end."""

    def __init__(self, address: str, request: bytes, threads: int) -> None:
        self.ends, self.at_once, self._on = Counter[str](), threads, True
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._loop, args=(address, request)) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _loop(self, address: str, request: bytes) -> None:
        with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
            call = channel.unary_unary(SCORE)
            while self._on:
                try:
                    call(request, timeout=20)
                    end = "OK"
                except grpc.RpcError as error:
                    end = error.code().name
                    time.sleep(0.01)
                with self._lock:
                    self.ends[end] += 1

    def stop(self) -> Counter[str]:
        self._on = False
        for thread in self._threads:
            thread.join()
        return self.ends


@contextmanager
def loading(address: str, request: bytes, threads: int) -> Iterator[Load]:
    load = Load(address, request, threads)
    try:
        eventually(lambda: load.ends["OK"] > 10 * threads)
        yield load
    finally:
        load.stop()


@pytest.fixture
def models(served_root: Path, golden: Rows) -> Path:
    """The repository of the session; nothing here writes to it."""
    return served_root / "models"


@pytest.fixture
def request_bytes(golden: Rows) -> bytes:
    return request_of(golden.columns, ROWS).SerializeToString()


def test_one_line_says_that_calls_are_answered(server: Served):
    assert server.facts["models"] == [{"name": "ctr", "version": 1}]
    assert server.facts["pid"] == server.process.pid
    assert server.workers() == sorted(server.worker_pids)
    assert len(server.worker_pids) == 2


def test_every_worker_has_a_core_and_maps_the_tables(server: Served):
    cores = [os.sched_getaffinity(pid) for pid in server.worker_pids]
    if len(os.sched_getaffinity(0)) > 1:
        assert [len(each) for each in cores] == [1, 1]
        assert cores[0] != cores[1]
    for pid in server.worker_pids:
        assert "/ctr/1/tables.bin" in Path(f"/proc/{pid}/maps").read_text()


def test_the_supervisor_loads_neither_grpc_nor_onnxruntime(server: Served):
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "cygrpc" not in maps
    assert "onnxruntime" not in maps


@pytest.mark.parametrize("name", ["", "quorem.v1.Scorer", "inference.GRPCInferenceService", "ctr"])
def test_health_is_told_for_the_server_its_services_and_its_models(server: Served, name: str):
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == SERVING
        with pytest.raises(grpc.RpcError) as refused:
            check(health_pb2.HealthCheckRequest(service="other"), timeout=20)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_killed_worker_loses_only_its_own_calls_and_is_replaced(
    models: Path, request_bytes: bytes, transport: str, tmp_path: Path
):
    with (
        serving(models, tmp_path / "log", "--workers", "2", "--transport", transport) as server,
        loading(server.address, request_bytes, 4) as load,
    ):
        victim, survivor = server.worker_pids
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(server.workers()) == 2 and not alive([victim]))
        so_far = load.ends["OK"]
        eventually(lambda: load.ends["OK"] > so_far + 50)
        ends = load.stop()
        assert set(ends) <= {"OK", "UNAVAILABLE"}
        assert ends["UNAVAILABLE"] <= load.at_once  # each thread had at most one call in the worker
        assert survivor in server.workers()
        assert "worker 0 ended: signal 9" in server.log.read_text()
        (new,) = set(server.workers()) - {survivor}
        eventually(lambda: answers(server.address, new, request_bytes))
        assert server.stop() == 0


def answers(address: str, pid: int, request: bytes) -> bool:
    """Whether a process takes a new connection of ours."""
    with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
        channel.unary_unary(SCORE)(request, timeout=20)
        return connections(pid, address) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_with_nothing_but_refusals(
    models: Path, request_bytes: bytes, transport: str, tmp_path: Path, number: signal.Signals
):
    with (
        serving(models, tmp_path / "log", "--workers", "2", "--grace", "5", "--transport", transport) as server,
        loading(server.address, request_bytes, 4) as load,
    ):
        assert server.stop(number) == 0
        assert set(load.stop()) <= {"OK", "UNAVAILABLE"}
        assert server.log.read_text() == ""
        assert not alive(server.worker_pids[:1])
        assert not alive(server.worker_pids[1:])


def test_ctrl_c_in_a_terminal_reaches_everybody_and_still_drains(models: Path, request_bytes: bytes, tmp_path: Path):
    with serving(models, tmp_path / "log", "--workers", "1", "--grace", "2") as server:
        for pid in [*server.worker_pids, server.process.pid]:
            os.kill(pid, signal.SIGINT)
        assert server.process.wait(timeout=20) == 0
        assert server.log.read_text() == ""


def test_every_call_that_began_before_the_drain_is_answered(transport: str):
    """The transport itself, with a slow method: as many answers arrive as calls were begun."""
    begun = Counter[int]()

    def slow(request: bytes, _call: Call) -> bytes:
        begun[threading.get_ident()] += 1
        time.sleep(0.02)
        return request

    port = reserve("127.0.0.1", 0)
    server = make(transport, {"quorem.v1.Scorer": {"Score": slow}})
    server.start("127.0.0.1", port.number)
    with port.holder, loading(port.address, b"x", 8) as load:
        server.refuse_health()
        server.drain(10)
        eventually(lambda: load.ends["UNAVAILABLE"])
        ends = load.stop()
        assert set(ends) == {"OK", "UNAVAILABLE"}
        assert ends["OK"] == sum(begun.values())
    server.close()


def test_a_call_that_outlasts_the_grace_is_cut_off(transport: str):
    release, begun = threading.Event(), threading.Event()

    def slow(request: bytes, _call: Call) -> bytes:
        begun.set()
        release.wait(20)
        return request

    port = reserve("127.0.0.1", 0)
    server = make(transport, {"quorem.v1.Scorer": {"Score": slow}})
    server.start("127.0.0.1", port.number)
    with port.holder, grpc.insecure_channel(port.address) as channel:
        pending = channel.unary_unary(SCORE).future(b"x", timeout=20)
        assert begun.wait(20)
        began = time.monotonic()
        server.drain(0.2)
        assert 0.2 <= time.monotonic() - began < 5
        assert not pending.done()
        threading.Timer(2, release.set).start()
        server.close()
        with pytest.raises(grpc.RpcError):
            pending.result()


def test_a_call_whose_caller_has_gone_is_neither_computed_nor_waited_for(transport: str):
    begun, release = Counter[int](), threading.Event()

    def slow(request: bytes, _call: Call) -> bytes:
        begun[threading.get_ident()] += 1
        release.wait(20)
        return request

    port = reserve("127.0.0.1", 0)
    server = make(transport, {"quorem.v1.Scorer": {"Score": slow}})
    server.start("127.0.0.1", port.number)
    with port.holder, grpc.insecure_channel(port.address) as channel:
        call = channel.unary_unary(SCORE)
        pending = [call.future(b"x", timeout=20) for _ in range(12)]
        eventually(lambda: sum(begun.values()) == THREADS)
        for each in pending:
            each.cancel()
        time.sleep(1)  # for the cancellations to arrive
        release.set()
        assert call(b"y", timeout=20) == b"y"
        began = time.monotonic()
        server.drain(20)
        assert time.monotonic() - began < 5
        assert sum(begun.values()) == THREADS + 1
    server.close()


def test_an_unforeseen_error_is_internal_and_its_log_holds_no_request(transport: str, caplog: pytest.LogCaptureFixture):
    def broken(request: bytes, _call: Call) -> bytes:
        raise ValueError(f"cannot read {request!r}")

    port = reserve("127.0.0.1", 0)
    server = make(transport, {"quorem.v1.Scorer": {"Score": broken}})
    server.start("127.0.0.1", port.number)
    with port.holder, grpc.insecure_channel(port.address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(SCORE)(b"secret", timeout=20)
        assert refused.value.code() == grpc.StatusCode.INTERNAL
        assert "secret" not in str(refused.value)
    server.close()
    (record,) = caplog.records
    assert "ValueError" in record.getMessage()
    assert "in broken" in record.getMessage()
    assert "secret" not in caplog.text


def test_watchers_learn_of_the_end_and_do_not_delay_it(models: Path, transport: str, tmp_path: Path):
    with (
        serving(models, tmp_path / "log", "--workers", "1", "--grace", "20", "--transport", transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "ctr") for _ in range(4)]
        assert [next(watch).status for watch in watches] == [SERVING] * 8  # more than the server has threads
        channel.unary_unary("/quorem.v1.Scorer/Describe")(b"", timeout=20)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert [[each.status for each in watch] for watch in watches] == [[NOT_SERVING]] * 8
        assert server.process.wait(timeout=20) == 0
        assert time.monotonic() - began < 10


def test_workers_end_when_the_supervisor_is_killed(models: Path, tmp_path: Path):
    with serving(models, tmp_path / "log", "--workers", "2", "--grace", "1") as server:
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        eventually(lambda: not alive(server.worker_pids[:1]) and not alive(server.worker_pids[1:]))


def test_a_server_whose_workers_die_again_and_again_gives_up(models: Path, tmp_path: Path):
    shutil.copytree(models, tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "1", "--watch", "0") as server:
        shutil.rmtree(tmp_path / "models" / "ctr" / "1")
        os.kill(server.worker_pids[0], signal.SIGKILL)
        assert server.process.wait(timeout=120) == 1
        said = server.log.read_text()
        assert "died 5 times before it could serve" in said
        assert "a run directory and a bundle hold manifest.json" in said


def test_a_worker_that_cannot_be_replaced_leaves_the_others_serving(models: Path, request_bytes: bytes, tmp_path: Path):
    shutil.copytree(models, tmp_path / "models")
    version = tmp_path / "models" / "ctr" / "1"
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "2", "--watch", "0") as server:
        victim, survivor = server.worker_pids
        version.rename(tmp_path / "away")  # the survivor holds its files open
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: server.log.read_text().count("worker 0 ended") >= 6, 60)  # more than end a server alone
        assert answers(server.address, survivor, request_bytes)
        (tmp_path / "away").rename(version)
        eventually(lambda: len(server.workers()) == 2 and server.process.poll() is None, 30)
        assert server.stop() == 0


def test_a_second_sigterm_does_not_cut_the_drain_short(models: Path, request_bytes: bytes, tmp_path: Path):
    with (
        serving(models, tmp_path / "log", "--workers", "1") as server,
        loading(server.address, request_bytes, 4) as load,
    ):
        eventually(lambda: load.ends["OK"] > 20)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
        assert server.stop() == 0
        assert set(load.stop()) <= {"OK", "UNAVAILABLE"}


def test_health_answers_while_every_thread_scores(transport: str):
    release = threading.Event()
    methods = {
        "quorem.v1.Scorer": {
            "Score": lambda request, _call: request * release.wait(20),
            "Describe": lambda request, _call: request,
        }
    }
    port = reserve("127.0.0.1", 0)
    server = make(transport, methods, healthy=["ctr"])
    server.start("127.0.0.1", port.number)
    with port.holder, grpc.insecure_channel(port.address) as channel:
        pending = [channel.unary_unary(SCORE).future(b"x", timeout=20) for _ in range(3 * THREADS)]
        eventually(lambda: server.unfinished() == 3 * THREADS)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service="ctr"), timeout=20).status == 1
        assert next(iter(health.Watch(health_pb2.HealthCheckRequest(service="ctr"), timeout=20))).status == 1
        assert channel.unary_unary("/quorem.v1.Scorer/Describe")(b"d", timeout=20) == b"d"
        assert not any(each.done() for each in pending)
        release.set()
        assert [each.result() for each in pending] == [b"x"] * len(pending)
    server.close()
