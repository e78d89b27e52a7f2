"""Metrics: the text is what Prometheus reads, and the numbers are what was counted."""

import json
import os
import signal
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import quorem
from exposition import parse, value
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos.errors import NotFound, Unavailable
from quorem.serve.call import Call
from quorem.serve.catalogue import Catalogue
from quorem.serve.client import Client
from quorem.serve.metrics import Server, pss_bytes, render
from quorem.serve.settings import Version
from quorem.serve.statistics import Statistics, add
from quorem.serve.statuses import Status
from quorem.serve.transport import Transport
from served import ROWS, Rows, eventually, serving

EMPTY = Server(Catalogue(), "cpu", Transport("grpcio", "as asked for"), {}, ready=0, restarts=0)


def counted() -> dict[str, object]:
    """What two workers would tell: versions, methods and statuses of every kind."""
    workers = [Statistics(), Statistics()]
    for number, worker in enumerate(workers):
        for rows in (1, 16, 270):
            call = Call(model="ctr", version=3, rows=rows)
            worker.record(call, "Score", Status.OK, 1_000, 20_000, 300_000, 400_000 + number * 4_000_000)
        worker.record(Call(model="ctr", version=10, rows=5), "ModelInfer", Status.OK, 0, 1, 1_999, 9_000_000_000)
        worker.record(Call(model="ctr", version=3, rows=9), "ModelInfer", Status.RESOURCE_EXHAUSTED, total_ns=5)
        worker.record(Call(model="ctr", version=3, rows=9), "ModelInfer", Status.CANCELLED, total_ns=5)
        worker.record(Call(model="ctr", version=3, rows=9), "Score", Status.INVALID_ARGUMENT, total_ns=5)
        worker.record(Call(), "Score", Status.NOT_FOUND, total_ns=5)
    total = add(workers[0].snapshot(), workers[1].snapshot())
    total["models"]["ctr"]["3"] |= {
        "scores": {"count": 4, "sum": 1.0, "squares": 0.4, "invalid": 1, "bins": {"0": 1, "2": 1, "1": 2, "3": 0}},
        "fields": {"user": {"values": 8, "missing": 2, "unseen": 1}, 'a"b\\c\nd': {"values": 0, "missing": 0}},
    }
    return total


@pytest.mark.parametrize(
    "text",
    [
        "a 1",
        "a 1\n",
        "# TYPE a counter\na 1\n",
        "# HELP a b\n# TYPE a counter\na -1\n",
        "# HELP a b\n# TYPE a counter\na 1\na 1\n",
        "# HELP a b\n# TYPE a gauge\na one\n",
        '# HELP a b\n# TYPE a gauge\na{b="c"d"} 1\n',
        '# HELP a b\n# TYPE a gauge\na{b="\\x"} 1\n',
        "# HELP a b\n# TYPE a gauge\nb 1\n",
        '# HELP a b\n# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n',
        '# HELP a b\n# TYPE a histogram\na_bucket{le="1"} 1\na_sum 1\na_count 1\n',
    ],
)
def test_what_is_not_in_the_format_is_not_read(text: str):
    with pytest.raises((AssertionError, KeyError)):
        parse(text)


def test_what_was_counted_is_told_under_triton_s_names():
    _, samples = parse(render(counted(), EMPTY))
    version = {"model": "ctr", "version": "3"}
    assert value(samples, "nv_inference_request_success", **version) == 6
    reasons = {reason: value(samples, "nv_inference_request_failure", reason=reason, **version) for reason in REASONS}
    assert reasons == {"REJECTED": 2, "CANCELED": 2, "BACKEND": 0, "OTHER": 2}
    assert value(samples, "nv_inference_count", **version) == 2 * 287
    assert value(samples, "nv_inference_exec_count", **version) == 6
    assert value(samples, "nv_inference_queue_duration_us", **version) == 6
    assert value(samples, "nv_inference_compute_input_duration_us", **version) == 120
    assert value(samples, "nv_inference_compute_infer_duration_us", **version) == 1800
    assert value(samples, "nv_inference_request_duration_us", **version) == 3 * 400 + 3 * 4400
    assert value(samples, "nv_inference_compute_output_duration_us", **version) == 3 * 79 + 3 * 4079
    assert not [key for key in samples if key[0].startswith("nv_") and ("model", "") in key[1]]


REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


def test_calls_are_told_by_method_and_status_with_a_histogram_of_their_times():
    kinds, samples = parse(render(counted(), EMPTY))
    asked = {"model": "ctr", "version": "3", "method": "Score"}
    assert value(samples, "quorem_calls_total", status="OK", **asked) == 6
    assert value(samples, "quorem_calls_total", status="INVALID_ARGUMENT", **asked) == 2
    nobody = {"model": "", "version": "", "method": "Score", "status": "NOT_FOUND"}
    assert value(samples, "quorem_calls_total", **nobody) == 2
    assert kinds["quorem_call_duration_seconds"] == "histogram"
    version = {"model": "ctr", "version": "3"}
    assert value(samples, "quorem_call_duration_seconds_bucket", le="0.0004", **version) == 3
    assert value(samples, "quorem_call_duration_seconds_bucket", le="0.0064", **version) == 6
    assert value(samples, "quorem_call_duration_seconds_sum", **version) == pytest.approx(0.0144)
    slow = {"model": "ctr", "version": "10"}
    assert value(samples, "quorem_call_duration_seconds_bucket", le="3.2768", **slow) == 0
    assert value(samples, "quorem_call_duration_seconds_count", **slow) == 2


def test_scores_and_fields_are_told_by_model_and_version():
    _, samples = parse(render(counted(), EMPTY))
    version = {"model": "ctr", "version": "3"}
    assert value(samples, "quorem_score_mean", **version) == 0.25
    buckets = [value(samples, "quorem_score_bucket", le=le, **version) for le in ("0.25", "0.5", "0.75", "1", "+Inf")]
    assert buckets == [1, 3, 4, 4, 4]
    assert value(samples, "quorem_score_invalid_total", **version) == 1
    assert value(samples, "quorem_field_missing_ratio", field="user", **version) == 0.25
    assert value(samples, "quorem_field_unseen_ratio", field="user", **version) == 0.125
    assert value(samples, "quorem_field_missing_total", field='a"b\\c\nd', **version) == 0, "escaped, and read back"


def test_what_the_supervisor_knows(tmp_path: Path):
    (tmp_path / "tables.bin").write_bytes(bytes(1234))
    versions = {"ctr": (Version("ctr", 2, tmp_path / "none"), Version("ctr", 3, tmp_path))}
    catalogue = Catalogue(versions, {"ctr": {"stable": 2}})
    server = Server(
        catalogue,
        "cpu",
        Transport("nghttp2", "the compiled shim"),
        {"supervisor": os.getpid(), "worker-0": 2**22 + 1},
        ready=1,
        restarts=4,
    )
    _, samples = parse(render({"models": {}, "access_log_dropped": 7}, server))
    assert value(samples, "quorem_info", version=quorem.__version__, device="cpu") == 1
    assert value(samples, "quorem_version_served", model="ctr", version="2") == 1
    assert value(samples, "quorem_embedding_bytes", model="ctr", version="3") == 1234
    assert ("quorem_embedding_bytes", frozenset({("model", "ctr"), ("version", "2")})) not in samples
    assert value(samples, "quorem_label_version", model="ctr", label="stable") == 2
    assert value(samples, "quorem_worker_restarts_total") == 4
    assert value(samples, "quorem_workers") == 1
    assert value(samples, "quorem_access_log_dropped_total") == 7
    if pss_bytes(os.getpid()) is not None:
        own = value(samples, "quorem_process_pss_bytes", process="supervisor")
        assert own == value(samples, "quorem_pss_bytes") > 1 << 20
        assert ("quorem_process_pss_bytes", frozenset({("process", "worker-0")})) not in samples, "it has gone"
        assert value(samples, "quorem_process_cpu_seconds_total", process="supervisor") > 0


def test_a_server_that_has_not_been_called_tells_what_it_is():
    kinds, _ = parse(render({"models": {}}, EMPTY))
    assert {"quorem_info", "quorem_workers"} <= kinds.keys()


@given(st.text(max_size=20), st.text(max_size=20))
def test_every_name_is_read_back(model: str, label: str):
    catalogue = Catalogue({model: (Version(model, 1, Path("/nowhere")),)}, {model: {label: 1}})
    _, samples = parse(render({"models": {}}, replace(EMPTY, catalogue=catalogue)))
    assert value(samples, "quorem_label_version", model=model, label=label) == 1


def test_a_server_tells_what_its_workers_counted(served_root: Path, golden: Rows, tmp_path: Path):
    log, told = tmp_path / "access.jsonl", ("--workers", "2", "--metrics-port", "0", "--access-log")
    with serving(served_root / "models", tmp_path / "log", *told, str(log)) as server:
        port = server.facts["metrics_port"]
        for _ in range(5):
            with Client(server.address) as client:
                client.score("ctr", golden.columns, ROWS)
        with Client(server.address) as client, pytest.raises(NotFound):
            client.score("other", golden.columns, ROWS)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
            kinds, samples = parse(reply.read().decode())
        assert server.stop() == 0
    version = {"model": "ctr", "version": "1"}
    assert value(samples, "nv_inference_request_success", **version) == 5
    assert value(samples, "nv_inference_count", **version) == 5 * ROWS
    assert value(samples, "nv_inference_compute_infer_duration_us", **version) > 0
    assert value(samples, "quorem_score_count", **version) == 5 * ROWS
    assert value(samples, "quorem_score_mean", **version) == pytest.approx(float(golden.scores.mean()), abs=1e-5)
    assert value(samples, "quorem_field_missing_ratio", field="user", **version) == pytest.approx(missing_users(golden))
    assert value(samples, "quorem_workers") == 2
    tables = served_root / "models" / "ctr" / "1" / "tables.bin"
    assert value(samples, "quorem_embedding_bytes", **version) == tables.stat().st_size
    assert {dict(key[1])["process"] for key in samples if key[0] == "quorem_process_pss_bytes"} == {
        "supervisor",
        "worker-0",
        "worker-1",
    }
    assert {"quorem_call_duration_seconds", "quorem_access_log_dropped_total"} <= kinds.keys()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    scored = [line for line in lines if line["method"] == "quorem.v1.Scorer/Score"]
    assert [line["status"] for line in scored].count("OK") == 5
    assert {line["worker"] for line in lines} <= set(server.worker_pids)
    assert all(line["rows"] == ROWS and line["reply_bytes"] > 4 * ROWS for line in scored if line["status"] == "OK")
    assert "NOT_FOUND" in {line["status"] for line in lines}
    assert "shoes" not in log.read_text(), "a value of a row"


def missing_users(golden: Rows) -> float:
    missing = golden.columns["user"].missing
    assert missing is not None
    return float(missing.mean())


def test_what_a_killed_worker_had_counted_is_told_on(served_root: Path, golden: Rows, tmp_path: Path):
    with serving(served_root / "models", tmp_path / "log", "--workers", "1", "--metrics-port", "0") as server:

        def scored() -> float:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{server.facts['metrics_port']}/metrics", timeout=20
            ) as reply:
                samples = parse(reply.read().decode())[1]
            return samples.get(("nv_inference_request_success", frozenset({("model", "ctr"), ("version", "1")})), 0)

        with Client(server.address) as client:
            client.score("ctr", golden.columns, ROWS)
        assert scored() == 1
        os.kill(server.worker_pids[0], signal.SIGKILL)
        eventually(lambda: server.workers() not in ([], server.worker_pids))
        assert scored() == 1, "a counter never falls"
        with Client(server.address) as client:
            eventually(lambda: scored_by(client, golden))
        assert scored() == 2


def scored_by(client: Client, golden: Rows) -> bool:
    try:
        client.score("ctr", golden.columns, ROWS)
    except Unavailable:
        return False
    return True
