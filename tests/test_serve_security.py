"""What a server refuses, seen from outside: callers, calls, names that are paths, links that lead out."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from authority import Authority, Issued
from grpc_health.v1 import health_pb2, health_pb2_grpc
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import open_inference_pb2_grpc as oip_grpc
from quorem.protos import scoring_pb2 as pb
from quorem.protos import scoring_pb2_grpc as scorer
from quorem.serve.client import request_of
from served import Rows, Served, quorem, serving

OVER = ("nghttp2", "grpcio")
TOKEN = "0123456789abcdef-the-token"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
TRUSTED = (("authorization", f"Bearer {TOKEN}"),)
STATUS = grpc.StatusCode


@dataclass(frozen=True)
class Guarded:
    """A server that demands a certificate and a token."""

    server: Served
    ours: Authority
    caller: Issued

    def channel(self, caller: Issued | None) -> grpc.Channel:
        given = (caller.key.read_bytes(), caller.cert.read_bytes()) if caller else (None, None)
        trusted = grpc.ssl_channel_credentials(self.ours.own.cert.read_bytes(), *given)
        return grpc.secure_channel(self.server.address, trusted, OWN_CONNECTION)


@pytest.fixture(scope="module")
def place(served_root: Path, golden: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model, beside a model that is not in it and links that lead there."""
    place = tmp_path_factory.mktemp("security")
    shutil.copytree(served_root / "models" / "ctr", place / "models" / "ctr")
    shutil.copytree(served_root / "models" / "ctr", place / "outside")
    (place / "models" / "linked").symlink_to(place / "outside")
    (place / "models" / "ctr" / "7").symlink_to(place / "outside" / "1")
    shutil.copytree(place / "outside" / "1", place / "models" / "ctr" / "8")
    (place / "models" / "ctr" / "8" / "manifest.json").unlink()
    (place / "models" / "ctr" / "8" / "manifest.json").symlink_to(place / "outside" / "1" / "manifest.json")
    return place


@pytest.fixture(scope="module")
def guarded(place: Path, transport: str) -> Iterator[Guarded]:
    ours = Authority(place / transport)
    issued, caller = ours.issue("server"), ours.issue("caller")
    (place / "tokens").write_text(f"tester {TOKEN}\n")
    (place / "tokens").chmod(0o600)
    tls = ("--tls-cert", str(issued.cert), "--tls-key", str(issued.key), "--tls-ca", str(ours.own.cert))
    tokens = ("--token-file", str(place / "tokens"), "--token-for", "all", "--allow-control")
    options = ("--workers", "2", "--transport", transport)
    with serving(place / "models", place / f"log-{transport}", *options, *tls, *tokens) as server:
        yield Guarded(server, ours, caller)
        assert TOKEN not in server.log.read_text()
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def channel(guarded: Guarded) -> Iterator[grpc.Channel]:
    """A connection with the right certificate; calls still need a token."""
    with guarded.channel(guarded.caller) as channel:
        yield channel


def code_of(call: Any, request: object, **options: Any) -> grpc.StatusCode:
    """The status of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20, **options)
    return caught.value.code()  # pyright: ignore[reportAttributeAccessIssue]  # grpc's errors have no public type


def test_callers_without_tls_or_a_certificate_of_ours_are_refused(guarded: Guarded, tmp_path: Path):
    health = health_pb2.HealthCheckRequest()
    stranger = Authority(tmp_path / "theirs").issue("stranger")
    plain = grpc.insecure_channel(guarded.server.address, OWN_CONNECTION)
    for channel in (plain, guarded.channel(None), guarded.channel(stranger)):
        with channel:
            assert code_of(health_pb2_grpc.HealthStub(channel).Check, health) == STATUS.UNAVAILABLE
    with guarded.channel(guarded.caller) as channel:
        assert health_pb2_grpc.HealthStub(channel).Check(health, timeout=20).status == 1, "health needs no token"


def test_calls_without_a_token_that_is_known_are_refused(channel: grpc.Channel, golden: Rows):
    request = request_of(golden.take(4), 4)
    calls = [
        (scorer.ScorerStub(channel).Score, request),
        (scorer.ScorerStub(channel).Describe, pb.DescribeRequest()),
        (oip_grpc.GRPCInferenceServiceStub(channel).ServerLive, oip.ServerLiveRequest()),
        (oip_grpc.GRPCInferenceServiceStub(channel).ModelMetadata, oip.ModelMetadataRequest(name="ctr")),
        (oip_grpc.GRPCInferenceServiceStub(channel).RepositoryModelUnload, oip.RepositoryModelUnloadRequest()),
    ]
    wrong = ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer tester"]
    for call, asked in calls:
        assert code_of(call, asked) == STATUS.UNAUTHENTICATED
        for value in wrong:
            assert code_of(call, asked, metadata=(("authorization", value),)) == STATUS.UNAUTHENTICATED
    stream = scorer.ScorerStub(channel).ScoreStream(iter([request]), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() == STATUS.UNAUTHENTICATED  # pyright: ignore[reportAttributeAccessIssue]  # as above
    reply = scorer.ScorerStub(channel).Score(request, timeout=20, metadata=TRUSTED)
    np.testing.assert_allclose(np.frombuffer(reply.scores, "<f4"), golden.scores[:4], rtol=1e-5)


def hostile(place: Path) -> list[str]:
    """Names that would find a model, or break something, if they ever reached the file system."""
    paths = ["../outside", "../../outside", "./ctr", "ctr/", "ctr/1", "ctr/../ctr", "..", ".", "/", "~", "ctr\\1"]
    absolute = [str(place / "outside"), str(place / "models" / "ctr"), (place / "outside").as_uri(), "/absolute/path"]
    odd = [
        "ctr\0",
        "\0",
        "ctr\0../outside",
        "\uff43\uff54\uff52",
        "ctr\u200b",
        "CTR",
        "ctr\n",
        "%2e%2e/outside",
        "$HOME",
    ]
    return [*paths, *absolute, *odd, "../" * 2000, "c" * 1_000_000, "\U0001f600" * 5000, "linked"]


def test_names_that_are_paths_find_nothing(channel: grpc.Channel, guarded: Guarded, place: Path):
    inference, scoring = oip_grpc.GRPCInferenceServiceStub(channel), scorer.ScorerStub(channel)
    before = guarded.server.workers()
    for name in hostile(place):
        calls = [
            (inference.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name=name)),
            (inference.RepositoryModelUnload, oip.RepositoryModelUnloadRequest(model_name=name)),
            (inference.ModelInfer, oip.ModelInferRequest(model_name=name)),
            (inference.ModelMetadata, oip.ModelMetadataRequest(name=name)),
            (inference.ModelConfig, oip.ModelConfigRequest(name=name)),
            (scoring.Score, pb.ScoreRequest(model=name)),
            (scoring.Describe, pb.DescribeRequest(model=name)),
            (scoring.Describe, pb.DescribeRequest(model="ctr", label=name)),
        ]
        for call, asked in calls:
            assert code_of(call, asked, metadata=TRUSTED) == STATUS.NOT_FOUND, (name[:40], type(asked).__name__)
        version = oip.ModelMetadataRequest(name="ctr", version=name)
        assert code_of(inference.ModelMetadata, version, metadata=TRUSTED) == STATUS.INVALID_ARGUMENT, name[:40]
        ready = inference.ModelReady(oip.ModelReadyRequest(name=name), timeout=20, metadata=TRUSTED)
        assert not ready.ready
    for number in (7, 8):
        asked = pb.DescribeRequest(model="ctr", version=number)
        assert code_of(scoring.Describe, asked, metadata=TRUSTED) == STATUS.NOT_FOUND
    assert guarded.server.workers() == before, "no worker died"


def test_links_that_lead_out_of_the_repository_are_told_and_not_followed(guarded: Guarded, place: Path):
    assert guarded.server.facts["models"] == [{"name": "ctr", "version": 1}]
    log = guarded.server.log.read_text()
    for link in ("models/linked", "models/ctr/7", "models/ctr/8/manifest.json"):
        assert str(place / link) in log, link


def test_control_calls_reach_the_model_that_they_name(channel: grpc.Channel):
    inference = oip_grpc.GRPCInferenceServiceStub(channel)
    ready = oip.ModelReadyRequest(name="ctr")
    inference.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="ctr"), timeout=60, metadata=TRUSTED)
    assert not inference.ModelReady(ready, timeout=20, metadata=TRUSTED).ready
    inference.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="ctr"), timeout=60, metadata=TRUSTED)
    assert inference.ModelReady(ready, timeout=20, metadata=TRUSTED).ready


def test_control_calls_are_forbidden_unless_the_server_allows_them(server: Served):
    with grpc.insecure_channel(server.address) as channel:
        inference = oip_grpc.GRPCInferenceServiceStub(channel)
        for metadata in ((), TRUSTED):
            load = oip.RepositoryModelLoadRequest(model_name="ctr")
            assert code_of(inference.RepositoryModelLoad, load, metadata=metadata) == STATUS.PERMISSION_DENIED
            unload = oip.RepositoryModelUnloadRequest(model_name="ctr")
            assert code_of(inference.RepositoryModelUnload, unload, metadata=metadata) == STATUS.PERMISSION_DENIED
        assert inference.ModelReady(oip.ModelReadyRequest(name="ctr"), timeout=20).ready


def test_a_server_with_half_of_what_it_needs_does_not_start(place: Path, tmp_path: Path):
    ours = Authority(tmp_path / "ours")
    (tmp_path / "tokens").write_text(f"tester {TOKEN}\n")
    models, own, other = place / "models", ours.own, ours.issue("other")
    for options, told in {
        ("--allow-control",): "--allow-control needs --token-file",
        ("--token-for", "all"): "--token-for all needs --token-file",
        ("--token-file", tmp_path / "tokens"): "--token-file guards",
        ("--token-file", place / "none", "--allow-control"): "a token file is there",
        ("--tls-cert", own.cert): "both --tls-cert and --tls-key",
        ("--tls-cert", own.cert, "--tls-key", other.key): "a TLS key is that of the certificate",
    }.items():
        assert told in quorem("serve", models, "--port", "0", *options, status=2).stderr
