"""`quorem plot`: learning curves of several runs, legible on light and dark pages, and refusals."""

import json
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from commands import quorem
from quorem.train.curves import COLOURS, Run, names_of
from quorem.train.record import Record, read_record


def write_run(directory: Path, height: float, *, epochs: int = 3, shown: int | None = None) -> Path:
    """A record as training writes it: ten glances an epoch, then a validation; `shown` lines of it."""
    directory.mkdir(parents=True)
    record, left = Record(directory), shown if shown is not None else 11 * epochs
    for epoch in range(1, epochs + 1):
        for batch in range(1, 12):
            step = 10 * (epoch - 1) + min(batch, 10)
            place = {"step": step, "epoch": epoch, "batch": min(batch, 10), "rows": 100 * step, "seconds": 0.1 * step}
            loss = {"loss": 1 / step, "auc": None if step == 1 else height - 0.1 / step}
            metrics = {"train_loss": 1 / step, "auc": height + 0.01 * epoch, "logloss": 0.6, "best": True}
            left -= 1
            if left >= 0:
                record.add(
                    "step" if batch <= 10 else "validation", {**place, "lr": 0.1, **(loss if batch <= 10 else metrics)}
                )
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs, one of the same name elsewhere, and one in its first epoch; a name that XML would break."""
    root = tmp_path_factory.mktemp("runs")
    return [
        write_run(root / "full", 0.8),
        write_run(root / "old" / "full", 0.75, epochs=5),
        write_run(root / "a<b>&$c$", 0.7, shown=4),
        write_run(root / "qr", 0.6),
    ]


def test_a_name_is_as_short_as_it_can_be() -> None:
    paths = [Path("/r/full"), Path("/r/old/full"), Path("/r/qr"), Path("/r/qr"), Path("/")]
    assert names_of(paths) == ["r/full", "old/full", "qr", "qr", "/"]


def test_an_svg_holds_every_run_and_follows_the_reader(runs: list[Path], tmp_path: Path) -> None:
    facts = json.loads(quorem("plot", *runs, "--out", tmp_path / "c.svg", "--json").stdout)
    assert [run["best_auc"] for run in facts["runs"]] == [
        pytest.approx(0.83),
        pytest.approx(0.8),
        None,
        pytest.approx(0.63),
    ]
    assert [(run["step"], run["best_epoch"]) for run in facts["runs"]] == [(30, 3), (50, 5), (4, None), (30, 3)]
    text = (tmp_path / "c.svg").read_text()
    root = ET.fromstring(text)
    words = [" ".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    for word in ("old/full", "a<b>&$c$", "qr", "loss", "training AUC", "validation AUC", "steps", "seconds"):
        assert word in words, word
    assert "prefers-color-scheme:dark" in text
    assert "currentColor" in text
    assert "#010203" not in text
    for colour in COLOURS[: len(runs)]:
        assert text.count(f"stroke: {colour}") >= 5, "loss, training AUC, in both rows, and the legend"
    quorem("plot", *runs, "--out", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "c.svg").read_bytes()


def test_a_page_holds_the_picture_and_a_table(runs: list[Path], tmp_path: Path) -> None:
    quorem("plot", *runs, "--out", tmp_path / "c.html")
    text = (tmp_path / "c.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"https?:", text), "it needs nothing else"
    assert "a&lt;b&gt;&amp;$c$" in text
    for cell in ("0.83000", "3,000", "5,000"):
        assert f"<td>{cell}</td>" in text


def luminance(path: Path) -> float:
    from matplotlib.image import imread

    return float(imread(path)[:, :, :3].mean())


def test_a_png_is_light_or_dark(runs: list[Path], tmp_path: Path) -> None:
    quorem("plot", runs[0], "--out", tmp_path / "light.png")
    quorem("plot", runs[0], "--out", tmp_path / "dark.png", "--dark")
    data = (tmp_path / "light.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", data[16:24])) > 800
    assert luminance(tmp_path / "light.png") > 0.9
    assert luminance(tmp_path / "dark.png") < 0.2


def test_more_runs_than_colours_differ_in_their_dashes(tmp_path: Path) -> None:
    many = [write_run(tmp_path / f"run{number}", 0.5 + number / 100) for number in range(8)]
    quorem("plot", *many, "--out", tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    drawn = set(re.findall(rf"stroke-dasharray: [^;]*;[^\"]*stroke: ({'|'.join(COLOURS)})", text))
    assert drawn == set(COLOURS[:2])


def test_what_cannot_be_drawn_is_refused(runs: list[Path], tmp_path: Path) -> None:
    told = quorem("plot", runs[0], tmp_path, "--out", tmp_path / "c.svg", check=2).stderr
    assert "metrics.jsonl" in told
    assert str(tmp_path) in told
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "auc": 0.5}\n')
    assert "line 1" in quorem("plot", tmp_path, "--out", tmp_path / "c.svg", check=2).stderr
    assert ".svg, .png, .html" in quorem("plot", runs[0], "--out", tmp_path / "c.pdf", check=2).stderr
    error = json.loads(quorem("plot", runs[0], "--out", tmp_path / "c", "--json", check=2).stderr)
    assert error["error"] == "QuoremError"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_before_its_first_validation_has_no_best_epoch(runs: list[Path]) -> None:
    assert Run("x", runs[2], read_record(runs[2])).facts()["best_epoch"] is None
