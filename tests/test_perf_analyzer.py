"""perf_analyzer measures our server as it measures Triton: it finds the model, its limits and its statistics."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from served import Rows, Served

PROGRAM = os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")
ROWS, CALLS = 16, 200
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no perf_analyzer: name it by PERF_ANALYZER, or put it on PATH (tritonclient 2.51 has it)"
)


def analyze(server: Served, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROGRAM is not None
    command = (PROGRAM, "-m", "ctr", "-u", server.address, "-i", "grpc", "--service-kind", "triton", *arguments)
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def rows(golden: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden rows as the program reads them; a batch is as many of them as it asks for."""
    encoded = golden.encoded
    steps = [
        {"ids": ids.tolist(), "dense": dense.tolist()} for ids, dense in zip(encoded.ids, encoded.dense, strict=True)
    ]
    path = tmp_path_factory.mktemp("perf") / "rows.json"
    path.write_text(json.dumps({"data": steps}))
    return path


def counted(said: str, name: str) -> int:
    found = re.search(rf"{name}: (\d+)", said)
    assert found, said
    return int(found[1])


@pytest.mark.parametrize("streaming", [(), ("--streaming", "--async")], ids=["unary", "streaming"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_it_measures_and_reads_our_statistics(
    server: Served, rows: Path, tmp_path: Path, concurrency: int, streaming: tuple[str, ...]
):
    out = tmp_path / "found.csv"
    load = ("-b", str(ROWS), "--concurrency-range", str(concurrency), "--request-count", str(CALLS))
    done = analyze(server, *load, "--input-data", rows, "-f", out, *streaming)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = counted(done.stdout, "Successful request count")  # the server's count, from somewhere within the client's
    assert calls > 0
    assert counted(done.stdout, "Request count") > 0
    assert counted(done.stdout, "Inference count") == calls * ROWS
    (row,) = csv.DictReader(out.read_text().splitlines())
    found = {name: float(value) for name, value in row.items()}
    assert found["Concurrency"] == concurrency
    assert found["Inferences/Second"] > 0
    stages = [f"Server {name}" for name in ("Compute Input", "Compute Infer", "Compute Output")]
    assert all(found[name] > 0 for name in stages)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-b", "129"), "128"),
        (("-x", "7"), "version 7. Ask for one of [1]"),
        (("--input-data", "random"), "an id of feature 'user' lies in [0, 1000)"),
    ],
    ids=["more rows than the server takes", "a version that is not served", "ids that no table has"],
)
def test_what_it_may_not_ask_for_is_told_in_our_words(server: Served, arguments: tuple[str, ...], said: str):
    done = analyze(server, *arguments, "--request-count", "10")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
