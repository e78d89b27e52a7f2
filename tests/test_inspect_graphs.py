"""`quorem inspect` of a bundle: precision, codes, bytes by part, and graphs by stage, as numbers and as a picture."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from quorem.command import main
from quorem.protos import inspect_run, manifest
from quorem.protos import manifest_pb2 as pb
from quorem.protos.inspect_picture import ASCII, draw
from rich.console import Console

GOLDEN = Path(__file__).parent / "golden" / "manifest.json"
Stages = list[tuple[str, int, int]]
ROW: Stages = [("ids", 12, 800), ("lookup", 7, 0), ("dense", 3, 20), ("net", 20, 9999), ("output", 1, 0)]
RANK: Stages = [
    *[("context.ids", 9, 1), ("context.lookup", 7, 2), ("context.dense", 2, 3), ("context.net", 3, 4)],
    *[("ids", 5, 5), ("lookup", 6, 6), ("net", 21, 7), ("output", 1, 8)],
]
ROW_PICTURE = """
                   ┌──────────┐   ┌─────────┐     ┌──────────┐   ┌────────┐
8 ids, 1 bucket ──▶│ ids      ├──▶│ lookup  ├─┬──▶│ net      ├──▶│ output ├──▶ logit, ctr
                   │ 12 nodes │   │ 7 nodes │ │   │ 20 nodes │   │ 1 node │
                   └──────────┘   └─────────┘ │   └──────────┘   └────────┘
                   ┌─────────┐                │
2 numbers       ──▶│ dense   ├────────────────┘
                   │ 3 nodes │
                   └─────────┘
"""
RANK_PICTURE = """
once per request
                   ┌─────────┐   ┌─────────┐     ┌─────────┐
5 ids           ──▶│ ids     ├──▶│ lookup  ├─┬──▶│ net     ├─┐
                   │ 9 nodes │   │ 7 nodes │ │   │ 3 nodes │ │
                   └─────────┘   └─────────┘ │   └─────────┘ │
                   ┌─────────┐               │               │
2 numbers       ──▶│ dense   ├───────────────┘               │
                   │ 2 nodes │                               │
                   └─────────┘                               │
per candidate                                                │
                   ┌─────────┐   ┌─────────┐                 │   ┌──────────┐   ┌────────┐
3 ids, 1 bucket ──▶│ ids     ├──▶│ lookup  ├─────────────────┴──▶│ net      ├──▶│ output ├──▶ logit, ctr
                   │ 5 nodes │   │ 6 nodes │                     │ 21 nodes │   │ 1 node │
                   └─────────┘   └─────────┘                     └──────────┘   └────────┘
"""


def graph(file: str, stages: Stages) -> pb.GraphFacts:
    told = [pb.Stage(name=name, nodes=nodes, bytes=size) for name, nodes, size in stages]
    return pb.GraphFacts(file=file, stages=told)


def precision(tables: pb.Number, dense: pb.Number) -> pb.Precision:
    return pb.Precision(tables=tables, dense=dense)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The golden manifest, as an export to fp16 tables and int8 layers would have it."""
    made = manifest.parse(GOLDEN.read_bytes(), "golden")
    made.export.CopyFrom(
        pb.Export(
            parity_bound=2e-3,
            precision=precision(pb.FP16, pb.INT8),
            codes=[
                pb.TableCode(tensor="embedding.ad.0", code=pb.HALF, error=2e-4),
                pb.TableCode(tensor="embedding.user.0", code=pb.HALF, error=3e-4),
                pb.TableCode(tensor="embedding.user.1", code=pb.ROW_SCALE, error=1e-2),
            ],
            int8_layers=["mlp.0", "mlp.1"],
            graphs=[graph("model.onnx", ROW), graph("rank.onnx", RANK)],
            parts=[pb.PartBytes(name="tables", bytes=8192), pb.PartBytes(name="alignment", bytes=96)],
            candidates=[
                pb.Candidate(precision=precision(pb.FP32, pb.FP32), bytes=40_960, auc=0.8, logloss=0.4),
                pb.Candidate(
                    precision=precision(pb.FP16, pb.INT8), bytes=20_480, auc=0.79995, logloss=0.4001, rmse=2e-3
                ),
            ],
        )
    )
    manifest.write(tmp_path, made)
    return tmp_path


def facts_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def told_by(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["inspect", str(path)]) == 0
    return capsys.readouterr().out


def test_the_facts_of_an_export_for_a_script(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(bundle, capsys)["export"]
    assert facts["precision"] == {"tables": "fp16", "dense": "int8"}
    assert facts["codes"] == [
        {"code": "half", "tables": 2, "worst_error": 3e-4, "worst_table": "embedding.user.0"},
        {"code": "row_scale", "tables": 1, "worst_error": 1e-2, "worst_table": "embedding.user.1"},
    ]
    assert facts["table_codes"][0] == {"tensor": "embedding.ad.0", "code": "half", "error": 2e-4}
    assert facts["int8_layers"] == ["mlp.0", "mlp.1"]
    assert facts["no_rank"] is None
    assert facts["parts"] == [{"name": "tables", "bytes": 8192}, {"name": "alignment", "bytes": 96}]
    assert facts["candidates"][1] == {
        "precision": {"tables": "fp16", "dense": "int8"},
        "bytes": 20_480,
        "auc": 0.79995,
        "logloss": 0.4001,
        "rmse": 2e-3,
    }
    row, rank = facts["graphs"]
    assert (row["file"], row["nodes"], row["bytes"]) == ("model.onnx", 43, 10_819)
    assert row["inputs"] == [{"side": "row", "slots": 8, "buckets": 1, "numbers": 2}]
    assert row["stages"][1] == {"name": "lookup", "nodes": 7, "bytes": 0}
    assert (rank["nodes"], rank["bytes"]) == (54, 36)
    assert rank["inputs"] == [
        {"side": "context", "slots": 5, "buckets": 0, "numbers": 2},
        {"side": "candidate", "slots": 3, "buckets": 1, "numbers": 0},
    ]


def test_a_reader_sees_them_with_a_picture_of_each_graph(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told_by(bundle, capsys)
    words = [line.split() for line in text.splitlines()]
    within = "logits within 2.00e-03 * max(1, |logit|)"
    assert f"precision: tables fp16, dense layers int8 (mlp.0, mlp.1); {within}" in text
    assert ["half", "2", "3.00e-04", "embedding.user.0"] in words
    assert ["tables", "8.0", "KiB", "8,192"] in words
    assert ["fp16", "int8", "20.0", "KiB", "0.799950", "0.400100", "2.00e-03", "chosen"] in words
    assert ["context.lookup", "7", "2", "B"] in words
    assert "model.onnx: 43 nodes, 10.6 KiB of constants inside" in text
    assert ROW_PICTURE in text
    assert RANK_PICTURE in text
    assert "embedding tables, as trained: " in text


def test_why_there_is_no_graph_for_ranking(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = manifest.read(bundle)
    del made.export.graphs[1:]
    made.export.no_rank = "layer 'attend' is an attention"
    manifest.write(bundle, made)
    assert "no rank.onnx: layer 'attend' is an attention" in told_by(bundle, capsys)


@pytest.mark.parametrize(("width", "drawn"), [(88, False), (89, True)])
def test_a_picture_is_drawn_where_it_fits_and_in_ascii_where_need_be(bundle: Path, width: int, drawn: bool) -> None:
    made = manifest.read(bundle)
    del made.export.graphs[1:]
    manifest.write(bundle, made)
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, "ascii") as file:
        inspect_run.show(inspect_run.describe(bundle), Console(file=file, width=width, markup=False, highlight=False))
        file.flush()
        text = raw.getvalue().decode("ascii")
    assert max(map(len, ROW_PICTURE.splitlines())) == 89
    assert (ROW_PICTURE.translate(ASCII) in text) == drawn
    assert "model.onnx: 43 nodes" in text


@pytest.mark.parametrize(
    ("inputs", "stages", "expected"),
    [
        (
            [{"side": "row", "slots": 1, "buckets": 0, "numbers": 0}],
            [("lookup", 1)],
            """
        ┌────────┐
1 id ──▶│ lookup ├────▶ logit, ctr
        │ 1 node │
        └────────┘
""",
        ),
        (
            [{"side": "row", "slots": 0, "buckets": 2, "numbers": 1}],
            [("ids", 2), ("net", 3)],
            """
             ┌─────────┐     ┌─────────┐
2 buckets ──▶│ ids     ├─┬──▶│ net     ├──▶ logit, ctr
             │ 2 nodes │ │   │ 3 nodes │
             └─────────┘ │   └─────────┘
                         │
1 number  ───────────────┘
""",
        ),
    ],
)
def test_what_is_absent_is_not_drawn(inputs: list[Any], stages: list[tuple[str, int]], expected: str) -> None:
    told = [{"name": name, "nodes": nodes, "bytes": 0} for name, nodes in stages]
    assert "\n".join(["", *draw({"inputs": inputs, "stages": told}), ""]) == expected


def test_a_context_that_feeds_the_net_directly_joins_between_the_candidates_lanes() -> None:
    sides = [
        {"side": "context", "slots": 5, "buckets": 0, "numbers": 0},
        {"side": "candidate", "slots": 2, "buckets": 0, "numbers": 4},
    ]
    names = ("context.ids", "context.lookup", "ids", "lookup", "net")
    lines = draw({"inputs": sides, "stages": [{"name": name, "nodes": 2, "bytes": 0} for name in names]})
    column = lines[2].index("┐")
    assert "".join(line[column] for line in lines[2:12]) == "┐││││┼│││┘"


@pytest.mark.parametrize("file", ["model.onnx", "rank.onnx", "\x1b[2J"])
def test_a_manifest_of_odd_facts_is_told_without_a_crash(
    file: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stages without a name or twice the same, numbers of later versions, a graph for ranking of one side alone."""
    made = manifest.read(bundle)
    made.export.graphs[0].CopyFrom(graph(file, [("", 0, 0), ("net", 1, 1), ("net", 1, 1), ("\x1b]0;x\x07", 1, 1)]))
    for feature in made.schema.features:
        feature.side = pb.CANDIDATE
    made.export.precision.tables = 99
    made.export.codes[0].code = 98
    made.export.codes[0].error = float("nan")
    manifest.write(bundle, made)
    facts = facts_of(bundle, capsys)["export"]
    assert facts["precision"]["tables"] == "99"
    assert {"code": "98", "tables": 1, "worst_error": None, "worst_table": "embedding.ad.0"} in facts["codes"]
    text = told_by(bundle, capsys)
    assert "\x1b" not in text
    assert "\x07" not in text
