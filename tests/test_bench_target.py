"""Laws of a bench's target: what an endpoint serves is found out, proved before it is timed, or told in one line."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
import pytest
import runs
from quorem.export.bundle import export
from quorem.protos.errors import (
    Malformed,
    MissingFile,
    NotFound,
    ParityError,
    QuoremError,
    Unavailable,
    Unimplemented,
    WrongSchema,
)
from quorem.protos.scoring_pb2 import ScoreResponse
from quorem.serve.bench import questions, target
from quorem.serve.bench.load import Drawn, GoldenRows, Load, RowsFile, build
from quorem.serve.bench.prove import prove
from quorem.serve.bench.sizes import Fixed, parse_size
from quorem.serve.bench.target import Tensor, find
from quorem.serve.channel import Access
from served import Rows, Served

FOREIGN = Path(__file__).with_name("foreign.py")


@pytest.fixture(scope="module")
def bundle(served_root: Path, golden: Rows) -> Path:
    return served_root / "models" / "ctr" / "1"


@pytest.fixture(scope="module")
def foreign(bundle: Path) -> Iterator[Access]:
    command = [sys.executable, "-W", "error", str(FOREIGN), str(bundle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield Access(process.stdout.readline().strip())
        process.stdin.close()


def tensors(golden: Rows) -> tuple[Tensor, ...]:
    widths = golden.encoded.ids.shape[1], golden.encoded.dense.shape[1]
    return Tensor("ids", "INT64", (-1, widths[0])), Tensor("dense", "FP32", (-1, widths[1]))


def test_our_own_server_is_asked_for_score(server: Served, golden: Rows, bundle: Path):
    access = Access(server.address)
    for protocol, given in (("auto", None), ("score", None), ("auto", bundle)):
        found = find(access, "", protocol, given)
        assert (found.protocol, found.path) == ("score", "/quorem.v1.Scorer/Score")
        assert (found.model, found.version, found.max_rows, found.tensors) == ("ctr", "1", 128, ())
        assert found.served is not None
        assert found.schema == found.served.schema == golden.schema
        prove(found, build(found, Drawn(), parse_size("1-128"), 1))


def test_our_own_server_is_asked_for_tensors(server: Served, golden: Rows, bundle: Path):
    found = find(Access(server.address), "ctr", "infer", None)
    assert (found.protocol, found.path) == ("infer", "/inference.GRPCInferenceService/ModelInfer")
    assert found.served is not None
    assert (found.model, found.version, found.max_rows, found.tensors) == ("ctr", "1", 128, tensors(golden))
    prove(found, build(found, Drawn(), Fixed(8), 1))
    prove(found, build(found, GoldenRows(bundle), Fixed(16), 1))
    with pytest.raises(NotFound, match="NOT_FOUND"):
        find(Access(server.address), "absent", "infer", None)


@pytest.mark.parametrize("protocol", ["auto", "infer"])
def test_a_foreign_server_is_asked_for_tensors(
    foreign: Access, golden: Rows, protocol: Literal["auto", "infer"], tmp_path: Path, bundle: Path
):
    found = find(foreign, "raw", protocol, None)
    assert (found.protocol, found.path) == ("infer", "/inference.GRPCInferenceService/ModelInfer")
    assert (found.model, found.version, found.max_rows, found.served, found.schema) == ("raw", "", None, None, None)
    assert found.tensors == tensors(golden)
    with pytest.raises(Unimplemented, match="UNIMPLEMENTED"):
        find(foreign, "raw", "score", None)
    with pytest.raises(NotFound, match="Name one with --model"):
        find(foreign, "", protocol, None)
    with pytest.raises(NotFound, match="NOT_FOUND: no model absent"):
        find(foreign, "absent", protocol, None)
    with pytest.raises(MissingFile):
        find(foreign, "raw", protocol, tmp_path)
    described = find(foreign, "raw", protocol, bundle)
    assert described == replace(found, schema=golden.schema)


@pytest.mark.parametrize("model", ["raw", "typed", "silent"])
def test_a_foreign_server_proves_a_bundles_rows(foreign: Access, bundle: Path, model: str, tmp_path: Path):
    found = find(foreign, model, "auto", bundle)
    load = build(found, GoldenRows(bundle), Fixed(32), 1)
    prove(found, load)
    prove(found, build(found, Drawn(), parse_size("mlperf"), 1))
    (tmp_path / "rows.jsonl").write_text(
        '{"user": 1, "item": "a", "city": null, "tags": ["b"], "seen": [1, 2], "age": 3, "price": 1.5, "rank": 2}\n' * 9
    )
    prove(found, build(found, RowsFile(tmp_path / "rows.jsonl"), Fixed(3), 1))
    logits = load.expected[0]
    assert logits is not None
    for wrong in (logits + np.float32(1e-2), np.full_like(logits, np.nan)):
        with pytest.raises(ParityError, match="golden rows get their own scores"):
            prove(found, replace(load, expected=(None, wrong, *load.expected[2:])))


def test_score_is_proved_by_probabilities(server: Served, golden: Rows):
    found = find(Access(server.address), "", "score", None)
    load = build(found, Drawn(), Fixed(1), 1)
    right = np.array([reply(found, load)], np.float32)
    prove(found, Load("1", load.requests[:1], (1,), (right,), 1e-3))
    with pytest.raises(ParityError, match="times further off"):
        prove(found, Load("1", load.requests[:1], (1,), (right + 1,), 1e-3))


def reply(found: target.Target, load: Load) -> float:
    """The logit behind the probability that the server gives the only row of the first request."""
    with found.access.channel() as channel:
        score = channel.unary_unary(found.path, response_deserializer=ScoreResponse.FromString)
        (ctr,) = np.frombuffer(score(load.requests[0], timeout=30).scores, "<f4").astype(np.float64)
    return float(np.log(ctr / (1 - ctr)))


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("off", ParityError, "times further off"),
        ("short", Malformed, r"a reply to 32 rows holds a score a row. Found: FP32 'logit' of shape \[31\]"),
        ("crashes", QuoremError, r"^127.0.0.1:\d+, INTERNAL: Traceback: line line"),
    ],
)
def test_wrong_replies_are_not_timed(foreign: Access, bundle: Path, model: str, error: type[QuoremError], said: str):
    found = find(foreign, model, "auto", bundle)
    with pytest.raises(error, match=said) as told:
        prove(found, build(found, GoldenRows(bundle), Fixed(32), 1))
    assert type(told.value) is error
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


def test_a_foreign_model_with_tensors_of_its_own(foreign: Access):
    found = find(foreign, "other", "auto", None)
    assert [each.name for each in found.tensors] == ["item", "kind", "price", "new"]
    prove(found, build(found, Drawn(id_range=50), parse_size("3-30"), 1))


def test_a_bundle_of_another_model_is_refused(foreign: Access, server: Served, bundle: Path, tmp_path: Path):
    features = [runs.categorical("user", "id", 50)]
    fields = [runs.field(features[0], "full", runs.pb.MULT, 4)]
    runs.make_run(tmp_path / "run", runs.model(features, fields, "dnn"), np.random.default_rng(1))
    export(tmp_path / "run", tmp_path / "ctr")
    with pytest.raises(WrongSchema, match="a bundle and the served model have one schema"):
        find(Access(server.address), "", "auto", tmp_path / "ctr" / "1")
    for model, given in (("raw", tmp_path / "ctr" / "1"), ("narrow", bundle)):
        found = find(foreign, model, "auto", given)
        with pytest.raises(WrongSchema, match="has the inputs of its schema"):
            build(found, GoldenRows(given), Fixed(1), 1)


class Web(BaseHTTPRequestHandler):
    """A server of another kind."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def mute(backlog: int | None) -> Iterator[str]:
    """An address that takes connections and says nothing; or, without a backlog, that takes none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if backlog is not None:
            listener.listen(backlog)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [(mute(None), "UNAVAILABLE"), (mute(8), "DEADLINE_EXCEEDED"), (web(), "UNAVAILABLE|DEADLINE_EXCEEDED")],
    ids=["refuses", "hangs", "speaks HTTP"],
)
def test_an_endpoint_that_does_not_answer_is_told_in_one_line(endpoint, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target, "FIND_S", 1.0)
    with endpoint as address:
        for protocol in ("auto", "infer"):
            with pytest.raises(
                Unavailable, match=rf"^{address}: an endpoint answers gRPC within 1 s. Found: ({status}): "
            ) as told:
                find(Access(address), "ctr", protocol, None)
            assert "\n" not in str(told.value)
            assert len(str(told.value)) < questions.QUOTED + 300


def test_a_grpc_server_of_other_calls_is_told():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(
            Unimplemented, match=r"speaks quorem.v1.Scorer or the Open Inference Protocol. Found: UNIMPL"
        ):
            find(Access(f"127.0.0.1:{port}"), "", "auto", None)
    finally:
        server.stop(None).wait()
