"""The display: a bar on a terminal, lines elsewhere, nothing when quiet, and one JSON line per epoch in any case."""

import io
import json
from pathlib import Path

import pytest
from quorem.train.checkpoint import Progress
from quorem.train.progress import Display
from rich.console import Console


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, False), (True, True)])
def test_what_is_shown(tmp_path: Path, terminal: bool, quiet: bool) -> None:
    out = io.StringIO()
    with Display(tmp_path, Console(file=out, force_terminal=terminal, quiet=quiet, width=120)) as display:
        for epoch in (1, 2):
            display.epoch(epoch, 10, 0)
            display.step(10, 1000, 0.5)
            display.validated(epoch, 0.5, {"auc": 0.75, "logloss": 0.6}, 0.001, epoch == 1)
    shown = out.getvalue()
    assert ("valid AUC 0.75000" in shown) == (not quiet)
    assert ("\x1b" in shown) == (terminal and not quiet)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["best"]) for line in lines] == [(1, True), (2, False)]


def test_a_resumed_run_drops_lines_that_its_checkpoint_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    Display(tmp_path, Console(quiet=True)).resumed(Progress(epoch=1, best_epoch=1, best_auc=0.7))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
