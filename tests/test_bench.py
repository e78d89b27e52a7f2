"""`quorem bench`: what it counts adds up, what fails is counted too, and an early end keeps what was found."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest
from quorem.protos import open_inference_pb2 as inference
from quorem.serve.bench.watch import STATISTICS
from served import Rows, Served, command, connections, eventually, quorem, serving

BRIEF = ("--window", "0.15", "--windows", "3", "--warmup", "0.1", "--processes", "1")
ONE = ("--rows", "1", "--concurrency", "1", "--no-noop")


def check(found: dict, load: str, concurrency: int) -> None:
    assert (found["load"], found["rows"], found["concurrency"], found["failures"]) == (load, int(load), concurrency, {})
    assert found["answered"] > 0
    assert found["seconds"] == pytest.approx(0.45)
    assert found["rate"] == pytest.approx(found["answered"] / found["seconds"], rel=0.2)
    assert found["rows_per_s"] == pytest.approx(found["rate"] * int(load), rel=0.01)
    latency = found["latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert latency["mean"] == pytest.approx(concurrency / found["rate"] * 1e6, rel=0.5)  # Little's law
    assert 0 < found["client_cores"] <= 4


def answered(server: Served) -> int:
    """Calls that the server has scored so far."""
    with grpc.insecure_channel(server.address) as channel:
        reply: bytes = channel.unary_unary(STATISTICS)(b"", timeout=20)
    found = inference.ModelStatisticsResponse.FromString(reply)
    return sum(each.inference_stats.success.count for each in found.model_stats)


def measuring(server: Served, before: int, seconds: float) -> None:
    """Wait until a bench has sent its first calls, however long it took to start, and let it measure."""
    eventually(lambda: answered(server) > before + 10, 60)
    time.sleep(seconds)


def test_a_bench_measures_every_cell_and_writes_a_page(server: Served, tmp_path: Path):
    out, page = tmp_path / "bench.json", tmp_path / "bench.html"
    loads = ("--rows", "1,16", "--concurrency", "1,4")
    done = quorem("bench", server.address, *BRIEF, *loads, "--json", "--out", out, "--page", page)
    assert done.stdout == out.read_text()
    found = json.loads(done.stdout)
    facts = [found["facts"][name] for name in ("model", "version", "scenario", "protocol")]
    assert facts == ["ctr", "1", "closed", "score"]
    cells = [(load, concurrency) for load in ("1", "16") for concurrency in (1, 4)]
    assert len(found["cells"]) == len(cells)
    for each, (load, concurrency) in zip(found["cells"], cells, strict=True):
        check(each, load, concurrency)
        assert each["server"]["compute_us"] > 0
    assert found["noop"]["rows_per_s"] == 0 < found["noop"]["rate"]
    assert "<svg" in page.read_text()


def test_a_bench_of_a_file_by_the_open_protocol(server: Served, golden: Rows, tmp_path: Path):
    names = [feature.name for feature in golden.schema.features]
    row = dict(zip(names, ["7", "item 1", "", "hats shoes", "1 2", "0.5", "", "2"], strict=True))
    (tmp_path / "rows.csv").write_text(f"{','.join(names)},label\n" + f"{','.join(row.values())},1\n" * 20)
    arguments = ("--rows-file", tmp_path / "rows.csv", "--ignore", "label", "--protocol", "infer", "--no-noop")
    one = ("--rows", "8", "--concurrency", "2")
    found = json.loads(quorem("bench", server.address, *BRIEF, *arguments, *one, "--json").stdout)
    check(found["cells"][0], "8", 2)
    said = quorem("bench", server.address, *BRIEF, *arguments, "--rows", "21", "--concurrency", "2", status=2).stderr
    assert "a bench of 21 rows per call has that many rows to send" in said
    assert "20 rows" in said


def test_calls_that_arrive_at_a_rate(server: Served):
    arguments = ("--scenario", "open", "--rate", "40,80", "--rows", "1-3", "--no-noop", "--json")
    found = json.loads(quorem("bench", server.address, *BRIEF, *arguments).stdout)
    assert [(each["load"], each["concurrency"], each["offered"]) for each in found["cells"]] == [
        ("1-3", None, 40),
        ("1-3", None, 80),
    ]
    assert all(each["answered"] and not each["failures"] for each in found["cells"])


def test_a_search_tells_what_it_found_and_how(server: Served):
    arguments = ("--scenario", "slo", "--bound", "600000", "--rows", "1", "--no-noop", "--timeout", "1", "--json")
    before = answered(server)
    process = subprocess.Popen(command("bench", server.address, *BRIEF, *arguments), stdout=subprocess.PIPE, text=True)
    measuring(server, before, 5)  # no rate of a client misses ten minutes: the search goes on until it is stopped
    process.send_signal(signal.SIGINT)
    found = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, found["partial"]) == (130, True)
    assert found["cells"][0]["offered"] >= 1


def test_offline_tells_the_most_rows_a_second(server: Served):
    said = quorem("bench", server.address, *BRIEF, "--scenario", "offline", "--rows", "64", "--no-noop").stdout
    assert "rows a second" in said


def test_a_reader_gets_a_table(server: Served):
    lines = quorem("bench", server.address, *BRIEF, *ONE).stdout.splitlines()
    assert f"ctr/1 on {server.address}, closed loop, score" in lines[0]
    assert all(word in "".join(lines) for word in ("calls/s", "p99.9", "failed", "client"))


def test_an_interrupted_bench_tells_what_it_has(server: Served, tmp_path: Path):
    out = tmp_path / "bench.json"
    long = ("--window", "0.2", "--windows", "3", "--warmup", "0", "--rows", "1", "--concurrency", ",".join(["1"] * 200))
    arguments = command("bench", server.address, *long, "--no-noop", "--processes", "1", "--out", out)
    before = answered(server)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    measuring(server, before, 3)
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in errors) == (130, False)
    found = json.loads(out.read_text())
    assert found["partial"]
    assert found["cells"]
    assert "interrupted" in told.lower() or "partial" in told.lower()


def test_a_server_that_dies_is_told_in_one_line_beside_what_was_measured(
    served_root: Path, golden: Rows, tmp_path: Path
):
    out = tmp_path / "bench.json"
    with serving(served_root / "models", tmp_path / "log", "--workers", "1") as server:
        many = ("--window", "0.2", "--windows", "3", "--warmup", "0", "--rows", "1", "--concurrency", "1,1,1,1,1,1,1,1")
        arguments = command("bench", server.address, *many, "--no-noop", "--out", out, "--timeout", "2")
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        measuring(server, 0, 2)
        for pid in (server.process.pid, *server.worker_pids):
            os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "UNAVAILABLE" in errors or "takes connections" in errors
    assert "Traceback" not in errors
    assert json.loads(out.read_text())["partial"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rows", "129"), "at most 128 rows per call"),
        (("--scenario", "open"), "has a --rate"),
        (("--scenario", "slo", "--rows", "1,2"), "takes one size"),
        (("--driver", "h2load", "--scenario", "slo", "--rows", "1"), "h2load sends a closed loop"),
        (("--out", "/nowhere/at/all.json"), "--out stands in a directory"),
        (("--out", "."), "--out is a file"),
        (("--rate", "100"), "--rate is of --scenario open and mlperf"),
        (("--pid", "2147483646"), "told by the process --pid"),
        (("--metrics", "localhost:1"), "the page --metrics"),
        (("--rows", "0"), "rows are 1 to"),
    ],
)
def test_what_cannot_be_measured_is_refused(server: Served, arguments: tuple[str, ...], said: str):
    assert said in quorem("bench", server.address, *arguments, status=2).stderr


def test_calls_that_fail_are_counted_by_status(served_root: Path, golden: Rows, tmp_path: Path):
    arguments = ("--window", "1", "--windows", "3", "--warmup", "0", "--rows", "1", "--concurrency", "8", "--no-noop")
    with serving(served_root / "models", tmp_path / "log", "--workers", "2") as server:

        def kill() -> None:
            eventually(lambda: connections(server.worker_pids[0], server.address) >= 1)
            time.sleep(0.5)
            os.kill(server.worker_pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = json.loads(quorem("bench", server.address, *arguments, "--json", status=1).stdout)["cells"][0]
        killer.join()
    assert set(found["failures"]) == {"UNAVAILABLE"}
    assert found["failures"]["UNAVAILABLE"] >= 1
    assert found["answered"] > 0
