"""The demo: what it finds, the page that tells it, what it leaves behind, and how it ends when it cannot go on."""

import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quorem import command, demo, demo_page
from quorem.demo_steps import LOG, Memory, Steps
from quorem.protos.errors import ParityError, QuoremError
from rich.console import Console
from safetensors.numpy import save_file

HAS_PROC = Path("/proc/self/smaps_rollup").exists()
LEFT = {"demo.json", "demo.log", "index.html"}
SECONDS = 300


@dataclass(frozen=True)
class Demo:
    """A demo that was run to its end."""

    out: Path
    printed: dict[str, Any]
    page: str


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`quorem demo --quick --json`, run as a user runs it."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(start(out), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr + (out / LOG).read_text()
    assert done.stderr == ""
    return Demo(out, json.loads(done.stdout), (out / "index.html").read_text("utf-8"))


def start(out: Path) -> list[str]:
    return [sys.executable, "-m", "quorem", "demo", "--quick", "--json", "--out", str(out)]


def running(out: Path) -> list[str]:
    """Command lines of living processes that name this directory."""
    found = list[str]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(out) in line:
            found.append(line)
    return found


def test_every_model_goes_the_whole_road(quick: Demo):
    found, models = quick.printed, quick.printed["models"]
    assert list(models) == ["full", "hash", "qr"]
    road = [f"{step} {name}" for step in ("train", "export") for name in models]
    road += ["serve", *(f"{step} {name}" for step in ("score", "bench") for name in models)]
    assert [step["name"] for step in found["steps"]] == road
    for model in models.values():
        assert model["rows_compared"] == 2048
        assert model["largest_difference"] <= 1e-5
        assert model["parity"] <= 1e-5
        assert [(cell["rows"], cell["concurrency"]) for cell in model["bench"]] == [(1, 1), (1, 8), (128, 1), (128, 8)]
        assert all(cell["answered"] and not cell["failures"] for cell in model["bench"])
        assert 0.6 < model["auc"] < found["optimal_auc"] + 0.02


def test_tables_are_compressed_and_the_hashed_ones_are_as_large(quick: Demo):
    full, hashed, qr = (quick.printed["models"][name]["table_bytes"] for name in ("full", "hash", "qr"))
    assert 3.5 < full / qr < 4.1
    assert hashed == qr


@pytest.mark.skipif(not HAS_PROC, reason="memory is read from /proc")
def test_memory_stays_within_bounds(quick: Demo):
    assert 0.1e9 < quick.printed["peak_bytes"] < 1.5e9
    assert quick.printed["server"]["bytes"] > 50e6
    for model in quick.printed["models"].values():
        assert 0 < model["resident_bytes"] <= model["file_bytes"] + mmap.PAGESIZE


def test_only_findings_are_left(quick: Demo):
    assert {path.name for path in quick.out.iterdir()} == LEFT
    assert json.loads((quick.out / "demo.json").read_text()) | {"page": str(quick.out / "index.html")} == quick.printed
    log = (quick.out / LOG).read_text("utf-8")
    assert [line[2:] for line in log.splitlines() if line.startswith("$ ")] == [
        step["command"] for step in quick.printed["steps"]
    ]
    assert running(quick.out) == []


class Checker(HTMLParser):
    """Reads a page: elements that were not closed, ids, and what would be loaded from elsewhere."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.tags = list[str](), Counter[str](), list[str](), Counter[str]()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself, as SVG has them."""
        self.note(tag, attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that is closed later."""
        self.note(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It must close what was opened last."""
        assert self.open.pop() == tag

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name.rpartition(":")[2] in ("href", "src", "srcset"):
                self.links.append(value or "")


def test_the_page_is_well_formed_and_stands_alone(quick: Demo):
    checker = Checker()
    checker.feed(quick.page)
    checker.close()
    assert checker.open == []
    assert checker.tags["svg"] == 3
    assert checker.tags["script"] == checker.tags["link"] == checker.tags["img"] == 0
    assert [one for one, count in checker.ids.items() if count > 1] == []
    inside = [*checker.links, *re.findall(r"url\(([^)]*)\)", quick.page)]
    assert inside
    assert all(link.startswith("#") and link[1:] in checker.ids for link in inside)
    assert "@import" not in quick.page
    assert "//" not in quick.page.replace("\n", "")
    assert demo_page.INK not in quick.page


def test_the_page_tells_what_was_found(quick: Demo):
    for model in quick.printed["models"].values():
        assert f"{model['auc']:.4f}" in quick.page
    for step in quick.printed["steps"]:
        assert step["command"].replace("'", "&#x27;") in quick.page
    assert demo_page.QUICK in quick.page
    assert quick.printed["machine"]["processor"] in quick.page
    assert f"torch {quick.printed['versions']['torch']}" in quick.page


def test_the_page_claims_no_more_than_was_found(quick: Demo):
    models = quick.printed["models"]
    findings = {
        auc: quick.printed
        | {
            "quick": False,
            "models": {name: models[name] | {"auc": auc[position]} for position, name in enumerate(models)},
        }
        for auc in ((0.8, 0.7, 0.75), (0.8, 0.75, 0.7), (0.7, 0.7, 0.7))
    }
    claims = {auc: "wins 50% back" in demo_page.render(found) for auc, found in findings.items()}
    assert claims == {(0.8, 0.7, 0.75): True, (0.8, 0.75, 0.7): False, (0.7, 0.7, 0.7): False}


def test_the_table_fits_a_terminal(quick: Demo, capsys: pytest.CaptureFixture[str]):
    demo_page.show(quick.printed, Console(width=80, highlight=False))
    table = capsys.readouterr().out
    assert all(name in table for name in (*demo_page.HEAD, *demo_page.NAMES.values()))


def test_an_earlier_demo_is_written_over_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert command.main(["demo", "--out", str(tmp_path), "--json"]) == 2
    assert "something else" in json.loads(capsys.readouterr().err)["found"]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / LOG).write_text("$ quorem train")
    (tmp_path / "runs" / "full").mkdir(parents=True)
    (tmp_path / "index.html").write_text("old")
    demo._open(tmp_path, LOG)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", LOG}


def test_a_missing_extra_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == "onnx" else True)
    assert command.main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith("onnx, which is not installed: pip install 'quorem[all]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Steps]:
    with Steps(tmp_path, Console(stderr=True, width=200)) as opened:
        yield opened


def test_a_step_that_fails_shows_the_end_of_its_log(steps: Steps, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(QuoremError, match="exit status 2, from `quorem train no_such_recipe") as caught:
        steps.run("train", "train", "no_such_recipe", "--out", str(steps.out / "run"))
    assert caught.value.where == str(steps.out / LOG)
    assert "Shipped recipes" in capsys.readouterr().err
    assert steps.done == []


def test_a_server_that_does_not_start_is_told(steps: Steps):
    with pytest.raises(QuoremError, match="exit status 2 before it was ready"):
        steps.serve("serve", str(steps.out / "nothing"), "--port", "0")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_stopped_ends_its_children(tmp_path: Path, number: signal.Signals, status: int):
    out = tmp_path / "out"
    with subprocess.Popen(start(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while len(running(out)) < 2 and time.monotonic() < deadline:  # the demo and its training
            time.sleep(0.1)
        child.send_signal(number)
        printed, told = child.communicate(timeout=60)
    assert (child.returncode, printed, told) == (status, "", "")
    assert running(out) == []
    assert not (out / "index.html").exists()


def test_scores_that_differ_are_refused(tmp_path: Path):
    save_file({"logit": np.array([0.5, -2.0], np.float32)}, tmp_path / "reference.safetensors")
    assert demo._compare([0.5, -2.0 + 1e-5], tmp_path)["largest_difference"] == pytest.approx(5e-6)
    for scores in ([0.5, -2.001], [float("nan"), -2.0]):
        with pytest.raises(ParityError):
            demo._compare(scores, tmp_path)


def test_rows_are_written_in_the_order_of_the_schema_and_read_back_the_same(tmp_path: Path):
    features = [{"name": "C1", "vocabulary": {}}, {"name": "I1", "dense": {}}, {"name": "C2", "vocabulary": {}}]
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": {"features": features}}))
    dense = np.array([[0.1], [-3.0000002]], np.float32)
    ids = np.array([[2**62 + 1, 5], [0, 6]])
    save_file({"ids": ids, "dense": dense}, tmp_path / "reference.safetensors")
    demo._write_rows(tmp_path, tmp_path / "rows.csv")
    head, *rows = [line.split(",") for line in (tmp_path / "rows.csv").read_text().splitlines()]
    assert head == ["C1", "I1", "C2"]
    assert [[int(row[0]), int(row[2])] for row in rows] == ids.tolist()
    assert [np.float32(row[1]) for row in rows] == dense[:, 0].tolist()


@pytest.mark.skipif(not HAS_PROC, reason="memory is read from /proc")
def test_memory_of_mapped_files_and_of_the_family(tmp_path: Path):
    size, path = 64 * mmap.PAGESIZE, tmp_path / "tables of 1.bin"
    path.write_bytes(bytes(size))
    memory, pids = Memory(), [os.getpid()]
    assert memory.of_files(pids, {"one": path}) == {"one": 0}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
        assert memory.of_files(pids, {"one": path, "two": tmp_path}) == {"one": size, "two": 0}
    memory.start()
    with subprocess.Popen([sys.executable, "-c", "held = b'1' * 200_000_000; input()"], stdin=subprocess.PIPE) as child:
        highest, deadline = 0, time.monotonic() + 30
        while highest < 200e6 and time.monotonic() < deadline:
            highest = max(highest, memory.lap())
            time.sleep(0.1)
        child.communicate(b"\n")
    memory.stop()
    assert 200e6 < highest <= memory.peak()
