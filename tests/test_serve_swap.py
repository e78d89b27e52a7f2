"""A running server follows its repository: versions come and go, labels move, calls control it, workers die meanwhile.

Every version has weights of its own, so that an answer is right only for the version that it names.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import exposition
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quorem.export.bundle import export
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import scoring_pb2 as pb
from quorem.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from served import Served, alive, eventually, serving
from soak_versions import BAD, LABEL, NAME, SCORE, Asked, make_variants, publish

OVER = ("nghttp2", "grpcio")  # of the tests that ask for it: what swaps is the same for both
TOKEN = "0123456789abcdef0123"
WATCH = ("--watch", "0.2", "--workers", "2")
LOOKS_S = 1.0  # several looks
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
CONNECTIONS = 8  # each reaches one worker: that none of them reaches the other happens once in 128 times


@dataclass(frozen=True)
class Variants:
    """Bundles of different weights, the runs that they are of, and requests with the right logits of each."""

    root: Path
    bundles: list[Path]
    asked: list[Asked]

    def publish(self, models: Path, *numbers: int, bad: str = "") -> None:
        for number in numbers:
            publish(self.bundles, models, number, bad=bad)

    def ask(self, *, labelled: bool = False) -> Asked:
        return next(each for each in self.asked if each.path == SCORE and each.labelled == labelled)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    root = tmp_path_factory.mktemp("variants")
    return Variants(root, *make_variants(root))


@pytest.fixture
def models(variants: Variants, tmp_path: Path) -> Path:
    """A repository of version 1."""
    variants.publish(tmp_path / "models", 1)
    return tmp_path / "models"


def answers(server: Served, asked: Asked, request: bytes | None = None) -> set[int | str]:
    """The versions, or the statuses, that new connections meet; every score is that of its version."""
    found = set[int | str]()
    for _ in range(CONNECTIONS):
        with grpc.insecure_channel(server.address, options=OWN_CONNECTION) as channel:
            try:
                version, wrong = asked.answered(channel.unary_unary(asked.path)(request or asked.request, timeout=20))
            except grpc.RpcError as error:
                found.add(error.code().name)
            else:
                assert not wrong
                found.add(version)
    return found


def of_version(asked: Asked, number: int) -> bytes:
    request = pb.ScoreRequest.FromString(asked.request)
    request.version = number
    return request.SerializeToString()


def label(models: Path, **labels: int) -> None:
    path = models / NAME / "labels.json"
    path.with_suffix(".new").write_text(json.dumps(labels))
    path.with_suffix(".new").rename(path)


def maps(server: Served, number: int) -> list[bool]:
    """Of every worker, whether it holds the tables of a version."""
    held = f"/{NAME}/{number}/tables.bin"
    return [held in Path(f"/proc/{pid}/maps").read_text() for pid in server.workers()]


@dataclass
class Callers:
    """What callers, each in a closed loop on a connection of its own, have met."""

    ends: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])


@contextmanager
def calling(server: Served, asked: Sequence[Asked], threads: int = 4) -> Iterator[Callers]:
    """Call all the while; versions that a connection sees never go back."""
    stop, callers = Event(), Callers()

    def call() -> None:
        with grpc.insecure_channel(server.address, options=OWN_CONNECTION) as channel:
            last = 0
            while not stop.is_set():
                for each in asked:
                    try:
                        version, wrong = each.answered(channel.unary_unary(each.path)(each.request, timeout=20))
                    except grpc.RpcError as error:
                        callers.ends[error.code().name] += 1
                        last = 0  # the next connection may reach another worker
                        time.sleep(0.01)
                        continue
                    if wrong or version < last:
                        callers.wrong.append(wrong or f"version {version} after {last}")
                    last = version
                    callers.ends["OK"] += 1

    running = [Thread(target=call) for _ in range(threads)]
    for each in running:
        each.start()
    try:
        yield callers
    finally:
        stop.set()
        for each in running:
            each.join()


def test_a_new_version_is_served_after_export_and_the_old_one_leaves_memory(
    models: Path, variants: Variants, tmp_path: Path
):
    asked = variants.ask()
    unlabelled = [each for each in variants.asked if not each.labelled]
    with serving(models, tmp_path / "log", *WATCH) as server:
        with calling(server, unlabelled) as callers:
            assert answers(server, asked) == {1}
            assert export(variants.root / "run-2", models / NAME).name == "2"
            eventually(lambda: answers(server, asked) == {2})
            so_far = callers.ends["OK"]
            eventually(lambda: callers.ends["OK"] > so_far + 50)
        assert not callers.wrong
        assert set(callers.ends) == {"OK"}
        assert answers(server, asked, of_version(asked, 1)) == {"NOT_FOUND"}
        eventually(lambda: maps(server, 1) == [False, False])
        assert maps(server, 2) == [True, True]
        assert sorted(server.worker_pids) == server.workers()
        assert server.log.read_text() == ""
        assert server.stop() == 0


def test_a_bad_version_is_reported_once_and_the_old_one_stays(models: Path, variants: Variants, tmp_path: Path):
    asked = variants.ask()
    with serving(models, tmp_path / "log", *WATCH) as server, calling(server, [asked]) as callers:
        for number, bad in enumerate(BAD, 2):
            variants.publish(models, number, bad=bad)
            eventually(lambda number=number: f"ctr/{number} is passed over: " in server.log.read_text())
        time.sleep(LOOKS_S)
        assert answers(server, asked) == {1}
        said = server.log.read_text()
        assert said.count("is passed over") == len(said.splitlines()) == len(BAD), said
        assert "a file has the digest its manifest says" in said
        assert "gives its golden logits" in said
        assert "ONNX Runtime opens a bundle's graph" in said
        variants.publish(models, 5)
        eventually(lambda: answers(server, asked) == {5})
        assert not callers.wrong
        assert set(callers.ends) == {"OK"}
        assert sorted(server.worker_pids) == server.workers()


def test_a_bad_version_that_is_put_right_is_served(models: Path, variants: Variants, tmp_path: Path):
    asked = variants.ask()
    with serving(models, tmp_path / "log", *WATCH) as server:
        variants.publish(models, 2, bad=BAD[1])
        eventually(lambda: "ctr/2 is passed over" in server.log.read_text())
        (models / NAME / "2").rename(tmp_path / "away")
        variants.publish(models, 2)
        eventually(lambda: answers(server, asked) == {2})


def test_other_files_in_the_place_of_a_version_are_served_as_they_are_not_before_they_are_proved(
    models: Path, variants: Variants, tmp_path: Path
):
    asked = variants.ask()
    spoilt = tmp_path / "spoilt"
    variants.publish(spoilt, 1, bad=BAD[0])
    with serving(models, tmp_path / "log", *WATCH) as server:
        (models / NAME / "1").rename(tmp_path / "away")
        (spoilt / NAME / "1").rename(models / NAME / "1")
        eventually(lambda: "ctr/1 is passed over" in server.log.read_text())
        eventually(lambda: answers(server, asked) == {"NOT_FOUND"})
        (models / NAME / "1").rename(tmp_path / "bad")
        (tmp_path / "away").rename(models / NAME / "1")
        eventually(lambda: answers(server, asked) == {1})


def test_a_model_whose_versions_are_gone_is_served_no_longer_and_comes_back(
    models: Path, variants: Variants, tmp_path: Path
):
    asked = variants.ask()
    with serving(models, tmp_path / "log", *WATCH) as server, grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        kinds = health_pb2.HealthCheckResponse
        (models / NAME).rename(tmp_path / "away")
        eventually(lambda: answers(server, asked) == {"NOT_FOUND"})
        assert check(health_pb2.HealthCheckRequest(service=NAME), timeout=20).status == kinds.NOT_SERVING
        assert check(health_pb2.HealthCheckRequest(service=""), timeout=20).status == kinds.SERVING
        (tmp_path / "away").rename(models / NAME)
        eventually(lambda: answers(server, asked) == {1})
        assert check(health_pb2.HealthCheckRequest(service=NAME), timeout=20).status == kinds.SERVING


def test_a_label_moves_and_rolls_back(models: Path, variants: Variants, tmp_path: Path):
    latest, labelled = variants.ask(), variants.ask(labelled=True)
    label(models, **{LABEL: 1})
    with serving(models, tmp_path / "log", *WATCH) as server:
        assert answers(server, labelled) == {1}
        variants.publish(models, 2)
        eventually(lambda: answers(server, latest) == {2})
        assert answers(server, labelled) == {1}
        label(models, **{LABEL: 2})
        eventually(lambda: answers(server, labelled) == {2})
        eventually(lambda: answers(server, latest, of_version(latest, 1)) == {"NOT_FOUND"})
        label(models, **{LABEL: 1})
        eventually(lambda: answers(server, labelled) == {1})
        assert answers(server, latest) == {2}
        label(models, **{LABEL: 7})
        eventually(lambda: "a label names a version that is there" in server.log.read_text())
        (models / NAME / "labels.json").write_text("{")
        eventually(lambda: "labels.json is a JSON file" in server.log.read_text())
        time.sleep(LOOKS_S)
        assert answers(server, labelled) == {1}
        assert len(server.log.read_text().splitlines()) == 2
        (models / NAME / "labels.json").unlink()
        eventually(lambda: answers(server, labelled) == {"NOT_FOUND"})
        assert answers(server, latest) == {2}


# Triton's messages have the names of ours, so its client must not meet them in one process.
CONTROL = """
import sys
import tritonclient.grpc as triton

address, token, what = sys.argv[1:]
headers = {"authorization": "Bearer " + token}
client = triton.InferenceServerClient(address)
if what == "index":
    for each in client.get_model_repository_index(headers=headers).models:
        print(each.name, each.version, each.state, each.reason)
else:
    getattr(client, what)("ctr", headers=headers)
"""


def control(server: Served, what: str, *, token: str = TOKEN, status: int = 0) -> str:
    """What Triton's client prints, or the error that it ends with."""
    command = [sys.executable, "-c", CONTROL, server.address, token, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def test_control_reaches_every_worker_before_it_is_answered(
    models: Path, variants: Variants, transport: str, tmp_path: Path
):
    asked = variants.ask()
    (tmp_path / "tokens").write_text(f"tests {TOKEN}\n")
    (tmp_path / "tokens").chmod(0o600)
    options = ("--watch", "0", "--workers", "2", "--allow-control", "--token-file", str(tmp_path / "tokens"))
    with serving(models, tmp_path / "log", *options, "--transport", transport) as server:
        assert "UNAUTHENTICATED" in control(server, "unload_model", token="another" * 3, status=1)
        assert answers(server, asked) == {1}
        control(server, "unload_model")
        assert answers(server, asked) == {"NOT_FOUND"}
        assert "NOT_FOUND" in control(server, "unload_model", status=1)
        variants.publish(models, 2)
        variants.publish(models, 3, bad=BAD[0])
        control(server, "load_model")
        assert answers(server, asked) == {2}
        found = control(server, "index").splitlines()
        assert [each[: len("ctr 1 READY")] for each in found] == ["ctr 1 UNAVA", "ctr 2 READY", "ctr 3 UNAVA"]
        assert "digest" in found[2]
        shutil.rmtree(models / NAME)
        assert "NOT_FOUND" in control(server, "load_model", status=1)
        assert answers(server, asked) == {"NOT_FOUND"}


def test_a_worker_that_is_killed_during_a_swap_holds_nothing_up(
    models: Path, variants: Variants, transport: str, tmp_path: Path
):
    asked, options = variants.ask(), (*WATCH, "--transport", transport)
    with serving(models, tmp_path / "log", *options) as server, calling(server, [asked]) as callers:
        eventually(lambda: callers.ends["OK"] > 20)
        victim, survivor = server.worker_pids
        os.kill(victim, signal.SIGSTOP)
        variants.publish(models, 2)
        eventually(lambda: f"/{NAME}/2/tables.bin" in Path(f"/proc/{survivor}/maps").read_text())
        time.sleep(LOOKS_S)
        assert f"/{NAME}/1/tables.bin" in Path(f"/proc/{survivor}/maps").read_text()  # it serves on, with what all have
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: not alive([victim]) and len(server.workers()) == 2)
        eventually(lambda: answers(server, asked) == {2})
        eventually(lambda: maps(server, 1) == [False, False] and maps(server, 2) == [True, True])
    assert not callers.wrong
    assert set(callers.ends) <= {"OK", "UNAVAILABLE"}
    assert callers.ends["UNAVAILABLE"] <= 4 + 4  # a call of each caller in the worker, or on its way to it


def test_the_only_worker_may_be_killed_during_a_swap(models: Path, variants: Variants, tmp_path: Path):
    asked = variants.ask()
    with serving(models, tmp_path / "log", "--watch", "0.2", "--workers", "1") as server:
        (victim,) = server.worker_pids
        os.kill(victim, signal.SIGSTOP)
        variants.publish(models, 2, bad=BAD[1])
        time.sleep(LOOKS_S)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "ctr/2 is passed over" in server.log.read_text(), 40)
        eventually(lambda: answers(server, asked) == {1})
        variants.publish(models, 3)
        eventually(lambda: answers(server, asked) == {3})


def test_all_versions_are_served_where_the_policy_says_so(models: Path, variants: Variants, tmp_path: Path):
    asked = variants.ask()
    variants.publish(models, 2)
    with serving(models, tmp_path / "log", *WATCH, "--versions", "all") as server:
        assert server.facts["models"] == [{"name": NAME, "version": 1}, {"name": NAME, "version": 2}]
        variants.publish(models, 4)
        eventually(lambda: answers(server, asked) == {4})
        for number in (1, 2, 4):
            assert answers(server, asked, of_version(asked, number)) == {number}
        assert answers(server, asked, of_version(asked, 3)) == {"NOT_FOUND"}
        shutil.rmtree(models / NAME / "2")
        eventually(lambda: answers(server, asked, of_version(asked, 2)) == {"NOT_FOUND"})
        assert answers(server, asked, of_version(asked, 1)) == {1}


def metric(server: Served, name: str, **labels: str) -> float | None:
    """A sample of the metrics page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.facts['metrics_port']}/metrics", timeout=20) as reply:
        _, samples = exposition.parse(reply.read().decode())
    return samples.get((name, frozenset(labels.items())))


def test_statistics_and_metrics_are_the_same_sums_over_workers(models: Path, variants: Variants, tmp_path: Path):
    asked = variants.ask()
    rows = pb.ScoreRequest.FromString(asked.request).rows
    version = {"model": NAME, "version": "1"}
    with (
        serving(models, tmp_path / "log", *WATCH, "--metrics-port", "0") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)

        def statistics() -> oip.ModelStatistics:
            request = oip.ModelStatisticsRequest(name=NAME, version="1")
            (found,) = stub.ModelStatistics(request, timeout=20).model_stats
            return found

        assert answers(server, asked) == {1}
        eventually(lambda: metric(server, "nv_inference_request_success", **version) == CONNECTIONS)
        found = statistics()
        assert found.inference_stats.success.count == found.execution_count == CONNECTIONS
        assert found.inference_count == metric(server, "nv_inference_count", **version) == rows * CONNECTIONS
        assert metric(server, "quorem_score_count", **version) == rows * CONNECTIONS
        assert metric(server, "nv_inference_request_duration_us", **version) == found.inference_stats.success.ns // 1000
        assert metric(server, "quorem_workers") == 2
        for victim in server.worker_pids:  # what they had told does not go with them
            os.kill(victim, signal.SIGKILL)
            eventually(lambda victim=victim: not alive([victim]) and metric(server, "quorem_workers") == 2)
        assert answers(server, asked) == {1}
        eventually(lambda: metric(server, "nv_inference_request_success", **version) == 2 * CONNECTIONS)
        assert metric(server, "quorem_worker_restarts_total") == 2
    variants.publish(models, 2)
    with serving(models, tmp_path / "log", *WATCH, "--metrics-port", "0") as server:
        assert answers(server, asked) == {2}
        variants.publish(models, 3)
        eventually(lambda: metric(server, "quorem_version_served", model=NAME, version="3") == 1)
        assert metric(server, "quorem_version_served", model=NAME, version="2") is None
        assert metric(server, "nv_inference_count", model=NAME, version="2") is None
