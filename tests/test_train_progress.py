"""The display: a bar on a terminal, lines elsewhere, nothing when quiet; and the record, whatever is shown."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from quorem.protos.errors import Malformed, MissingFile
from quorem.protos.metrics import auc
from quorem.train.board import Board
from quorem.train.checkpoint import Progress
from quorem.train.progress import Display
from quorem.train.record import NAME, Record, read_record, steps, validations
from quorem.train.streaming import BINS, FARTHEST, StreamingAuc
from rich.console import Console

LABELS = torch.tensor([0.0, 1.0, 0.0, 1.0])
LOGITS = torch.tensor([-1.0, -0.5, 0.0, 3.0])  # three of four pairs in order


def train_for(display: Display, epochs: range) -> None:
    """Two glances an epoch, of five batches each."""
    for number in epochs:
        display.epoch(number, 10, 0, 1000 * (number - 1))
        for loss in (0.6, 0.5):
            display.seen(LOGITS, LABELS, None)
            display.step(5, 500, loss, 0.001)
        display.validated(number, 0.5, {"auc": 0.7 + number / 100, "logloss": 0.6}, 0.001, number == 1)


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, False), (True, True)])
def test_what_is_shown(tmp_path: Path, terminal: bool, quiet: bool) -> None:
    out = io.StringIO()
    with Display(tmp_path, Console(file=out, force_terminal=terminal, quiet=quiet, width=120)) as display:
        train_for(display, range(1, 3))
    shown = out.getvalue()
    assert ("valid AUC 0.71000" in shown) == (not quiet)
    assert ("\x1b" in shown) == (terminal and not quiet)
    lines = read_record(tmp_path)
    assert [(line["epoch"], line["best"]) for line in validations(lines)] == [(1, True), (2, False)]
    told = [(line["step"], line["epoch"], line["batch"], line["rows"], line["loss"]) for line in steps(lines)]
    assert told == [(5, 1, 5, 500, 0.6), (10, 1, 10, 1000, 0.5), (15, 2, 5, 1500, 0.6), (20, 2, 10, 2000, 0.5)]
    assert {line["auc"] for line in steps(lines)} == {0.75}
    assert all(
        line["train_auc"] == 0.75 and line["seconds"] >= 0 and line["lr"] == 0.001 for line in validations(lines)
    )


@pytest.mark.parametrize("batch", [0, 5])
def test_a_resumed_run_tells_every_step_once(tmp_path: Path, batch: int) -> None:
    """What a checkpoint of the first epoch, and perhaps half of the second, does not know is told again."""
    quiet = Console(quiet=True)
    with Display(tmp_path, quiet) as display:
        train_for(display, range(1, 4))
    with (tmp_path / NAME).open("a") as file:
        file.write('{"kind": "step", "st')  # the process was killed there
    before = (tmp_path / NAME).read_text().splitlines()
    with Display(tmp_path, quiet) as display:
        display.resumed(Progress(epoch=1, batch=batch, best_epoch=1, best_auc=0.7))
        kept = (tmp_path / NAME).read_text().splitlines()
        assert kept == before[: 4 if batch else 3]
        display.epoch(2, 10, batch, 1000 + 100 * batch)
        for _ in range((10 - batch) // 5):
            display.step(5, 500, 0.4, 0.001)
        display.validated(2, 0.4, {"auc": 0.8, "logloss": 0.5}, 0.001, True)
    lines = read_record(tmp_path)
    assert [line["step"] for line in steps(lines)] == [5, 10, 15, 20]
    assert [line["rows"] for line in steps(lines)] == [500, 1000, 1500, 2000]
    assert [line["epoch"] for line in validations(lines)] == [1, 2]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    place = {"step": 1, "epoch": 1, "batch": 1, "rows": 10, "seconds": 0.1, "lr": 0.1}
    Record(tmp_path).add("step", {**place, "loss": float("inf"), "auc": float("nan")})
    (line,) = [json.loads(text, parse_constant=pytest.fail) for text in (tmp_path / NAME).read_text().splitlines()]
    assert (line["loss"], line["auc"]) == (None, None)
    assert read_record(tmp_path) == [line]


@pytest.mark.parametrize(
    "text", ["{}\n", "[1]\n", "no\n", '{"epoch": 1, "auc": 0.7}\n', '{"kind": "step", "step": "1"}\n']
)
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(Malformed, match="line 1"):
        read_record(tmp_path)
    assert Record(tmp_path).cut(9, 9) is None


@pytest.mark.parametrize("text", [None, "", '{"kind": "st'])
def test_a_run_without_metrics_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / NAME).write_text(text)
    with pytest.raises(MissingFile, match=r"metrics\.jsonl"):
        read_record(tmp_path)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_streaming_auc_is_that_of_all_rows_in_bounded_memory(weighted: bool) -> None:
    rng = np.random.default_rng(4)
    labels = (rng.random(40_000) < 0.2).astype(np.float32)
    logits = (rng.normal(-1, 1.5, 40_000) + labels).astype(np.float32)
    weights = rng.exponential(size=40_000).astype(np.float32) if weighted else None
    streaming = StreamingAuc()
    for start in range(0, 40_000, 1000):
        part = slice(start, start + 1000)
        given = None if weights is None else torch.from_numpy(weights[part])
        streaming.add(torch.from_numpy(logits[part]), torch.from_numpy(labels[part]), given)
    assert streaming.value() == pytest.approx(auc(logits, labels, weights), abs=2e-6)
    first = streaming.value()
    assert streaming.value() == first, "looking does not count twice"
    step = 2 * FARTHEST / (BINS - 1)
    exact = StreamingAuc()
    exact.add(torch.arange(100) * step, (torch.arange(100) % 3 == 0).float())
    assert exact.value() == pytest.approx(auc(np.arange(100.0), (np.arange(100) % 3 == 0).astype(np.float32)))


def test_the_streaming_auc_of_hostile_logits() -> None:
    streaming = StreamingAuc()
    assert np.isnan(streaming.value())
    streaming.add(torch.tensor([float("-inf"), -1e30, 1e30, float("inf")]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert streaming.value() == 1.0
    streaming.add(torch.tensor([float("nan")] * 2), torch.tensor([0.0, 1.0]))  # tied, between all others
    assert streaming.value() == pytest.approx(8.5 / 9)
    one_class = StreamingAuc()
    one_class.add(torch.zeros(3), torch.ones(3))
    assert np.isnan(one_class.value())


def test_tensorboard_reads_what_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last, value in ((1, 6, 0.5), (4, 8, 0.25)):  # the second process goes on from step 4
        board = Board(tmp_path)
        board.open()
        for step in range(first, last):
            board.add(step, {"train/loss": value, "gpu_bytes": None})
        board.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Tags()["scalars"] == ["train/loss"]
    told = [(each.step, each.value) for each in found.Scalars("train/loss")]
    assert told == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25), (6, 0.25), (7, 0.25)]


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with Display(tmp_path, Console(quiet=True)) as display:
        train_for(display, range(1, 2))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_rows_that_wait_to_be_counted_are_bounded_and_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that the next step fills again may be handed over."""
    monkeypatch.setattr("quorem.train.streaming.WAITING", 8)
    streaming, logits, labels = StreamingAuc(), torch.empty(4), torch.empty(4)
    for shift in range(5):
        logits.copy_(LOGITS + shift)
        labels.copy_(LABELS)
        streaming.add(logits, labels)
        assert streaming._rows < 8
    shifted = torch.cat([LOGITS + shift for shift in range(5)])
    assert streaming.value() == pytest.approx(auc(shifted.numpy(), LABELS.repeat(5).numpy()))
