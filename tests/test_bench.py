"""`quorem bench`: what it counts adds up, and what fails is counted too."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from quorem.protos.encode import encode
from quorem.protos.ids import MISSING
from quorem.serve.drive import LEAST_NS, MOST_NS, Measured
from quorem.serve.load import drawn
from quorem.serve.report import cell
from served import ROWS, Rows, Served, connections, eventually, quorem, serving

BRIEF = ("--duration", "0.4", "--warmup", "0.1", "--processes", "1")


def check(found: dict, rows: int, concurrency: int) -> None:
    assert (found["rows"], found["concurrency"], found["failures"]) == (rows, concurrency, {})
    assert found["answered"] > 0
    assert found["rate"] == pytest.approx(found["answered"] / 0.4, rel=0.5)
    assert found["rows_per_s"] == pytest.approx(found["rate"] * rows, rel=0.01)
    latency = found["latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert latency["mean"] == pytest.approx(concurrency / found["rate"] * 1e6, rel=0.5)  # Little's law
    assert 0 < found["client_cores"] <= 4


def test_a_bench_measures_every_cell(server: Served, tmp_path: Path):
    out = tmp_path / "bench.json"
    done = quorem("bench", server.address, *BRIEF, "--rows", "1,16", "--concurrency", "1,4", "--json", "--out", out)
    assert done.stdout == out.read_text()
    found = json.loads(done.stdout)
    assert (found["model"], found["version"], found["scenario"], found["protocol"]) == ("ctr", 1, "closed", "score")
    cells = [(rows, concurrency) for rows in (1, 16) for concurrency in (1, 4)]
    assert len(found["cells"]) == len(cells)
    for each, (rows, concurrency) in zip(found["cells"], cells, strict=True):
        check(each, rows, concurrency)


def test_a_bench_of_a_file_by_the_open_protocol(server: Served, golden: Rows, tmp_path: Path):
    names = [feature.name for feature in golden.schema.features]
    row = dict(zip(names, ["7", "item 1", "", "hats shoes", "1 2", "0.5", "", "2"], strict=True))
    (tmp_path / "rows.csv").write_text(f"{','.join(names)},label\n" + f"{','.join(row.values())},1\n" * 20)
    arguments = ("--rows-file", tmp_path / "rows.csv", "--ignore", "label", "--protocol", "infer")
    one = ("--rows", "8", "--concurrency", "2")
    found = json.loads(quorem("bench", server.address, *BRIEF, *arguments, *one, "--json").stdout)
    check(found["cells"][0], 8, 2)
    said = quorem("bench", server.address, *BRIEF, *arguments, "--rows", "21", "--concurrency", "2", status=2).stderr
    assert "a bench of 21 rows per call has that many rows to send" in said
    assert "20 rows" in said


def test_a_reader_gets_a_table(server: Served):
    lines = quorem("bench", server.address, *BRIEF, "--rows", "1", "--concurrency", "1").stdout.splitlines()
    assert lines[0].startswith(f"ctr/1 on {server.address}, closed loop, score, 0.4 s")
    assert all(word in "".join(lines) for word in ("calls/s", "p99.9 ms", "failed", "client cores"))


def test_rows_above_the_servers_limit_are_refused(server: Served):
    assert "at most 128 rows per call" in quorem("bench", server.address, "--rows", "129", status=2).stderr


def test_calls_that_fail_are_counted_by_status(served_root: Path, golden: Rows, tmp_path: Path):
    arguments = ("--duration", "2", "--warmup", "0", "--rows", "1", "--concurrency", "2", "--json")
    with serving(served_root / "models", tmp_path / "log", "--workers", "1") as server:

        def kill() -> None:
            eventually(lambda: connections(server.worker_pids[0], server.address) == 2)
            time.sleep(0.5)
            os.kill(server.worker_pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = json.loads(quorem("bench", server.address, *arguments, status=1).stdout)["cells"][0]
        killer.join()
    assert set(found["failures"]) == {"UNAVAILABLE"}
    assert found["failures"]["UNAVAILABLE"] >= 1
    assert found["answered"] > 0


def test_no_latency_is_dropped_for_being_long():
    measured = Measured(wall_s=2.0)
    for latency in (LEAST_NS, 5 * LEAST_NS, MOST_NS):
        assert measured.latencies.record_value(latency)
    found = cell(1, 1, measured)
    assert (found.answered, found.rate) == (3, 1.5)
    assert found.latency_us["max"] == pytest.approx(MOST_NS / 1e3, rel=1e-3)
    assert cell(1, 1, Measured()).latency_us == {}


def test_merged_measurements_are_those_of_one():
    left, right = Measured(wall_s=1.0, cpu_s=0.5), Measured(wall_s=2.0, cpu_s=0.25)
    left.failures["UNAVAILABLE"], right.failures["UNAVAILABLE"], right.failures["INTERNAL"] = 1, 2, 3
    for latency in range(1, 1000):
        (left if latency % 2 else right).latencies.record_value(latency * LEAST_NS)
    left.add(right)
    assert left.latencies.get_total_count() == 999
    assert left.latencies.get_value_at_percentile(50) == pytest.approx(500 * LEAST_NS, rel=1e-2)
    assert left.failures == {"UNAVAILABLE": 3, "INTERNAL": 3}
    assert (left.wall_s, left.cpu_s) == (2.0, 0.75)


def test_drawn_rows_are_valid_skewed_and_the_same_for_a_seed(golden: Rows):
    one, two, other = (next(drawn(golden.schema, ROWS, seed)) for seed in (1, 1, 2))
    first, second, third = (encode(golden.schema, each, ROWS, long_bags="refuse") for each in (one, two, other))
    np.testing.assert_array_equal(first.ids, second.ids)
    assert not np.array_equal(first.ids, third.ids)
    users = next(drawn(golden.schema, 5000, 1))["user"].integers
    assert users is not None
    assert 0 <= users.min() <= users.max() < 1000
    counts = np.sort(np.unique(users, return_counts=True)[1])[::-1]
    assert counts[0] > 20 * counts[len(counts) // 2]
    seen = first.ids[:, 7:10]
    assert (seen == MISSING).any()
    assert (seen != MISSING).any()
