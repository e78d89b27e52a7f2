"""The peers' benchmark: its requests, its arithmetic and what it tells, on a server of our own."""

import ast
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
import runs
import served
from quorem.export.bundle import export
from quorem.protos import manifest_pb2 as pb
from quorem.protos import open_inference_pb2 as inference
from quorem.protos import scoring_pb2
from quorem.protos.encode import Column, encode

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `benchmarks` is no part of the package
from benchmarks.peers import environment, plot, proof, race, report, rows, servers  # noqa: E402  # found there

sys.path.remove(str(ROOT))

PEERS = ROOT / "benchmarks" / "peers"
GOLDEN = 40


def make_model(root: Path) -> Path:
    """A version of a model of integers and numbers, half of them the context's."""
    features = [
        runs.categorical("user", "id", 50),
        runs.categorical("item", "id", 300),
        runs.number("age", pb.NONE),
        runs.number("price", pb.STANDARD, mean=1, scale=2),
    ]
    features[0].side, features[3].side = pb.CONTEXT, pb.CANDIDATE
    fields = [runs.field(features[0], "full", pb.MULT, 4), runs.field(features[1], "qr", pb.MULT, 4)]
    manifest, rng = runs.model(features, fields, "deepfm"), np.random.default_rng(3)
    weights = runs.weights(manifest, rng)
    columns = {
        "user": Column(integers=rng.integers(0, 50, GOLDEN)),
        "item": Column(integers=rng.integers(0, 300, GOLDEN)),
        "age": Column(floats=rng.normal(size=GOLDEN).astype(np.float32)),
        "price": Column(floats=rng.normal(size=GOLDEN).astype(np.float32)),
    }
    encoded = encode(manifest.schema, columns, GOLDEN, long_bags="refuse")
    logits = oracle.logits(manifest, weights, encoded.ids, encoded.dense).astype(np.float32)
    arrays = {"ids": encoded.ids, "dense": encoded.dense, "logit": logits, "label": np.zeros(GOLDEN, np.float32)}
    runs.write(root / "run", manifest, weights, arrays)
    export(root / "run", root / "models" / "ctr")
    return root / "models" / "ctr" / "1"


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def server(version: Path, tmp_path_factory: pytest.TempPathFactory):
    log = tmp_path_factory.mktemp("log") / "log"
    with served.serving(version.parents[1], log, "--workers", "1") as found:
        yield servers.Server(servers.OURS, found.address, found.process.pid), found.worker_pids


def test_our_own_server_gives_every_request_its_logits(server: tuple[servers.Server, list[int]], version: Path):
    made, (ours, _) = rows.Rows(version), server
    timed = made.timed
    everything = [each for pair in timed.values() for each in pair]
    golden = made.golden(32)
    assert proof.prove(ours.name, ours.address, [*golden, *everything], made.bound) <= made.bound
    assert [len(each.logits) for each in golden] == [32, 8]
    assert {size: len(pair.theirs.logits) for size, pair in timed.items() if size != 128} == {1: 1, 32: 32, 270: 270}


def test_peers_get_full_rows():
    assert [servers.Server(name, "").is_ours for name in ("quorem", "quorem-batched", "kserve", "triton")] == [
        True,
        True,
        False,
        False,
    ]


def test_candidates_are_the_same_rows_in_both_calls(version: Path):
    ours, theirs = rows.Rows(version).timed[rows.CANDIDATES]
    asked = scoring_pb2.ScoreRequest.FromString(ours.body)
    flat = inference.ModelInferRequest.FromString(theirs.body)
    ids = np.frombuffer(flat.raw_input_contents[0], np.int64).reshape(rows.CANDIDATES, 2)
    items = {each.name: np.frombuffer(each.int64s, np.int64) for each in asked.candidates if each.int64s}
    assert {each.name for each in asked.context} == {"user", "age"}
    np.testing.assert_array_equal(items["item"], ids[:, 1])
    assert (ids[:, 0] == ids[0, 0]).all(), "rows of one request have one context"
    assert ours.logits is theirs.logits
    assert len(ours.body) < len(theirs.body)


def test_a_server_of_other_logits_is_not_timed(server: tuple[servers.Server, list[int]], version: Path):
    made, (ours, _) = rows.Rows(version), server
    right = made.golden(8)[0]
    wrong = right._replace(logits=right.logits + np.float32(0.01))
    with pytest.raises(SystemExit, match=r"a logit is 0\.0\d+ off"):
        proof.prove(ours.name, ours.address, [right, wrong], made.bound)
    with pytest.raises(SystemExit, match="8 logits for 7 rows"):
        proof.prove(ours.name, ours.address, [right._replace(logits=right.logits[:7])], made.bound)
    with pytest.raises(SystemExit, match="does not answer"):
        proof.prove(ours.name, ours.address, [right._replace(path="/inference.Nobody/Home")], made.bound)


@pytest.mark.parametrize("shape", [[3], [3, 1]])
@pytest.mark.parametrize("raw", [True, False])
def test_logits_are_read_in_every_form(shape: list[int], raw: bool):
    logits = np.array([0.5, -1.25, 3], np.float32)
    reply = inference.ModelInferResponse()
    reply.outputs.add(name="ctr", datatype="FP32", shape=shape)
    output = reply.outputs.add(name="logit", datatype="FP32", shape=shape)
    if raw:
        reply.raw_output_contents.extend([b"\0" * 12, logits.tobytes()])
    else:
        output.contents.fp32_contents.extend(logits)
    np.testing.assert_array_equal(rows.logits_of(rows.INFER, reply.SerializeToString()), logits)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (nghttp2-client) is not installed")
def test_a_round_counts_calls_and_processors(server: tuple[servers.Server, list[int]], version: Path):
    ours, workers = server
    found = race.one_round(ours, rows.Rows(version).timed[1].ours, 2, 3.0)
    assert set(workers) < set(ours.pids())
    assert found.rate > 0
    assert 0 < found.p50_us <= found.p99_us
    assert found.cpu_us
    assert found.cpu_us > 0
    assert ours.pss_bytes()


def of_rates(*rates: float, cpu_us: float | None = 5.0) -> list[race.Round]:
    return [race.Round(rate, 1e6 / rate, 2e6 / rate, cpu_us, 0.2) for rate in rates]


def test_a_ratio_is_of_the_same_round():
    spread = report.ratio(of_rates(10, 20, 40), of_rates(5, 20, 10))
    assert (spread.median, spread.least, spread.greatest) == (2, 1, 4)
    with pytest.raises(ValueError, match="shorter"):
        report.ratio(of_rates(1, 2), of_rates(1))


def make_report() -> dict[str, object]:
    found = {"quorem": of_rates(600, 660), "kserve": of_rates(200, 200), "mlserver": of_rates(150, 150)}
    cells = report.cell_json(race.Cell(270, 8), {**found, "elsewhere": of_rates(300, 300, cpu_us=None)})
    told = {name: {"pss_mb": 100.0, "start_s": 1.5} for name in found} | {
        "elsewhere": {"pss_mb": None, "start_s": None}
    }
    return {"modes": [{"name": report.ONE_CORE, "servers": told, "cells": cells}]}


def test_the_table_and_the_verdicts_tell_the_ratios():
    made = make_report()
    table = report.table(made)
    assert "| 270 | 8 | 630 1.59/3.18 [5] | 200 5.00/10.00 [5], **3.15** [3.00 3.30] |" in table
    assert "| 300 3.33/6.67, **2.10** [2.00 2.20] |" in table
    assert report.verdicts(made) == [
        "reached: 270 rows, 8 in flight, one core: 3.15 [3.00 3.30] x kserve, asked for 3",
        "MISSED: 270 rows, 8 in flight, one core: 4.20 [4.00 4.40] x mlserver, asked for 5",
    ]
    assert json.loads(json.dumps(made)) == made


def test_the_plot_has_every_server_and_the_same_bytes(tmp_path: Path):
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        plot.draw(make_report(), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert all(name.encode() in first for name in ("quorem", "kserve", "mlserver", "elsewhere", "270 rows, one core"))


@pytest.mark.parametrize("package", sorted(set(servers.PACKAGES.values())))
def test_versions_are_pinned(package: str):
    lines = (environment.REQUIREMENTS / f"{package}.txt").read_text().splitlines()
    assert all(line.count("==") == 1 for line in lines)
    assert environment.versions(package)["onnxruntime"] == "1.31.1", "one ONNX Runtime for all"


@pytest.mark.parametrize("file", ["kserve_server.py", "mlserver_runtime.py", "pytriton_server.py"])
def test_a_peer_runs_without_us(file: str):
    nodes = list(ast.walk(ast.parse((PEERS / file).read_text())))
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [("." * node.level) + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.startswith((".", "quorem", "benchmarks"))] == []
