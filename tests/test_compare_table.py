"""What is written of a study: tables to the letter, figures to the byte, and nothing that the runs do not say."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from quorem.protos import manifest_pb2 as pb
from quorem.train.compare.arms import make_arms
from quorem.train.compare.figures import draw_figures
from quorem.train.compare.results import Result, Results, last_words
from quorem.train.compare.summary import Summary, as_dict, summarise
from quorem.train.compare.table import to_csv, to_markdown
from quorem.train.report import as_dict as report_as_dict
from studies import without_seconds

GOLDEN = Path(__file__).with_name("golden")
STUDY = """
[study]
title = "Made up"
recipe = "synthetic"
seeds = [1, 2, 3]
against = "qr c=4"
[[arms]]
name = "full"
factor = "size"
seeds = [1]
tune = { "train.l2" = [0.1, 0.01] }
[[grids]]
name = "qr c={collisions}"
series = "qr"
factors = ["size", "alone"]
[grids.over]
"embedding.collisions" = [2, 4, 10]
[[arms]]
name = "never run"
factor = "none"
set = ["embedding.collisions=3"]
[[arms]]
name = "the same as c=4"
factor = "alone"
"""
VALUES = {  # arm -> AUC of each seed
    "full": (0.75, 0.76),  # of the two values that are tried
    "qr c=2": (0.74, 0.742, 0.744),
    "qr c=4": (0.73, 0.731, 0.732),
    "qr c=10": (0.70,),
}
BYTES = {"full": 4000, "qr c=2": 2000, "qr c=4": 1000, "qr c=10": 500}


def report(auc: float, held: int, **more: Any) -> dict[str, Any]:
    return {
        "bytes": held,
        "full_bytes": 4000,
        "embedding_parameters": held // 4,
        "first_order_bytes": 0,
        "best_epoch": 1,
        "valid": {"auc": auc + 0.001},
        "test": {"auc": auc, "logloss": 1 - auc},
        **more,
    }


@pytest.fixture
def made(tmp_path: Path) -> tuple[Summary, Results]:
    """A study of which some runs are finished, in ten seconds each, and one has failed."""
    (tmp_path / "study.toml").write_text(STUDY)
    study, arms = make_arms(tmp_path / "study.toml", ())
    results = Results(tmp_path / "runs")
    for arm in arms:
        if arm.name in VALUES:
            runs = [run for variant in arm.variants for run in variant.runs]
            for run, auc in zip(runs, VALUES[arm.name], strict=False):
                results.finished[run.digest] = Result(run.digest, report(auc, BYTES[arm.name]), 10.0, 1 << 20)
            for run in runs[len(VALUES[arm.name]) :][:1]:
                results.failed[run.digest] = "Two | three. Found: one"
    return summarise(study.title, arms, results), results


def test_the_table_for_a_reader(made: tuple[Summary, Results]):
    assert to_markdown(made[0]) == (GOLDEN / "compare_table.md").read_text("utf-8")


def test_the_table_for_a_spreadsheet(made: tuple[Summary, Results]):
    lines = list(csv.DictReader(io.StringIO(to_csv(made[0]))))
    assert [(line["factor"], line["arm"]) for line in lines] == [
        *(("size", name) for name in VALUES),
        ("none", "never run"),
        *(("alone", name) for name in ("the same as c=4", "qr c=2", "qr c=4", "qr c=10")),
    ]
    found = {line["arm"]: line for line in lines}
    assert float(found["qr c=2"]["test_auc"]) == pytest.approx(0.742)
    assert float(found["qr c=2"]["test_auc_sd"]) == pytest.approx(0.002)
    assert (found["qr c=10"]["runs"], found["qr c=10"]["wanted"], found["qr c=10"]["test_auc_sd"]) == ("1", "3", "")
    assert (found["full"]["tuned"], found["full"]["compression"]) == ("train.l2=0.01", "1.0")
    assert found["never run"]["test_auc"] == found["never run"]["bytes"] == found["never run"]["seconds"] == ""
    assert list(lines[0])[-1] == "seconds"


def test_only_the_last_column_tells_of_time(made: tuple[Summary, Results]):
    summary, results = made
    before = to_markdown(summary)
    for digest, result in results.finished.items():
        results.finished[digest] = dataclasses.replace(result, seconds=None)
    after = to_markdown(summarise(summary.title, [entry.arm for entry in summary.entries], results))
    assert after != before
    assert without_seconds(after) == without_seconds(before)


def test_collisions_that_runs_report_become_a_column(made: tuple[Summary, Results]):
    summary, results = made
    assert "colliding ids" not in to_markdown(summary)
    plan = pb.Plan(fields=[pb.Field(feature="a", cardinality=5000, tables=[pb.Table(rows=3766, dim=1)])])
    plan.fields[0].MergeFrom(pb.Field(scheme=pb.HASHED, combine=pb.ALONE, dim=1, collisions=1234))
    told = report_as_dict(pb.Manifest(plan=plan))
    for digest, result in results.finished.items():
        results.finished[digest] = dataclasses.replace(result, report={**told, **result.report})
    again = summarise(summary.title, [entry.arm for entry in summary.entries], results)
    assert "colliding ids" in to_markdown(again)
    assert "1,234" in to_markdown(again)
    assert {line["collisions"] for line in csv.DictReader(io.StringIO(to_csv(again)))} == {"", "1234"}
    assert {arm["collisions"] for arm in as_dict(again, results)["arms"]} == {None, 1234}


def test_nothing_is_said_without_test_rows(made: tuple[Summary, Results]):
    summary, results = made
    for digest, result in results.finished.items():
        results.finished[digest] = dataclasses.replace(result, report={**result.report, "test": {}})
    bare = summarise(summary.title, [entry.arm for entry in summary.entries], results)
    assert not any(entry.against for entry in bare.entries)
    assert ".svg" not in to_markdown(bare)
    assert "0.73200 ± 0.00100" in to_markdown(bare)  # the validation rows are told all the same


def test_the_numbers_for_a_script(made: tuple[Summary, Results]):
    found = json.loads(json.dumps(as_dict(*made)))
    arms = {arm["arm"]: arm for arm in found["arms"]}
    assert [point["valid_auc"] for point in arms["full"]["tuning"]] == [0.751, 0.761]
    assert arms["full"]["tuned"] == {"train.l2": 0.01}
    assert [run["seed"] for run in arms["qr c=2"]["runs"]] == [1, 2, 3]
    assert arms["qr c=2"]["against"]["qr c=4"]["auc"]["verdict"] == "better"
    assert arms["qr c=2"]["against"]["qr c=4"]["logloss"]["verdict"] == "better"
    assert arms["qr c=10"]["against"]["qr c=4"]["auc"]["pooled"]
    assert [(each["arm"], each["seed"]) for each in found["failures"]] == [("qr c=10", 2)]


def test_the_same_figures_have_the_same_bytes(made: tuple[Summary, Results], tmp_path: Path):
    (tmp_path / "once").mkdir()
    (tmp_path / "again").mkdir()
    for name in ("once", "again"):
        draw_figures(made[0], tmp_path / name)
    once = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert once == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert set(once) == {f"{factor}.{metric}.svg" for factor in ("size", "alone") for metric in ("auc", "logloss")}
    for name, content in once.items():
        assert content.lstrip().startswith(b"<?xml"), name
        assert b"<dc:date>" not in content


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        (
            'warning\n{"error": "X", "rule": "A rule", "found": "this", "where": "there", "remedy": "z"}\n',
            "there: A rule. Found: this.",
        ),
        ('{"error": "MissingExtra"}', '{"error": "MissingExtra"}'),
        ("[1]", "[1]"),
    ],
)
def test_why_a_run_failed(tmp_path: Path, said: str, told: str):
    (tmp_path / "log").write_text(said)
    assert last_words(tmp_path / "log") == told
