"""The cache as Ray's workers make it: that of processes, to the byte; errors, a kill, and a machine without Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from cached import write_kinds
from commands import quorem

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'quorem[ray]'")
SECONDS = 120


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """A recipe of every kind of feature, over three files of made rows."""
    return write_kinds(tmp_path)


def command(kinds: Path, out: Path, *arguments: str) -> list[str]:
    usual = [sys.executable, "-m", "quorem", "encode", kinds.name, "--out", str(out.relative_to(kinds.parent))]
    return [*usual, "--engine", "ray", "--jobs", "2", *arguments]


def on_ray(kinds: Path, out: Path, *arguments: str, check: int = 0, **environment: str) -> tuple[str, str]:
    """What the command says on stdout and stderr; it is given relative paths."""
    done = subprocess.run(
        command(kinds, out, *arguments),
        cwd=kinds.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == check, done.stderr
    return done.stdout, done.stderr


def same(one: Path, other: Path) -> None:
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


@needs_ray
def test_the_cache_is_that_of_processes(kinds: Path, tmp_path: Path) -> None:
    told = json.loads(on_ray(kinds, tmp_path / "ray", "--json")[0])
    assert told["rows"] == {"train": 840, "valid": 240, "test": 120}
    quorem("encode", kinds, "--out", tmp_path / "local", "--quiet", "--jobs", "2")
    same(tmp_path / "local", tmp_path / "ray")


@needs_ray
def test_from_a_run_it_is_that_of_processes(kinds: Path, tmp_path: Path) -> None:
    quorem("train", kinds, "--out", tmp_path / "run", "--quiet", "--device", "cpu", "--set", "train.epochs=1")
    write_kinds(tmp_path, 2, 4)
    told = json.loads(on_ray(kinds, tmp_path / "ray", "--json", "--from", "run")[0])
    assert told["from"]["run"] == "run"
    quorem("encode", kinds, "--from", tmp_path / "run", "--out", tmp_path / "local", "--quiet", "--jobs", "2")
    same(tmp_path / "local", tmp_path / "ray")


@needs_ray
def test_what_a_task_refuses_is_told(kinds: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows1.csv"
    lines = path.read_text().splitlines()
    lines[301] = lines[301].rpartition(",")[0] + ",2"
    path.write_text("\n".join(lines) + "\n")
    error = json.loads(on_ray(kinds, tmp_path / "ray", "--json", check=2)[1])
    assert (error["error"], error["where"]) == ("DataError", f"row 301 of {path}, column 'click'")


@needs_ray
def test_a_killed_encoding_goes_on_where_it_was(kinds: Path, tmp_path: Path) -> None:
    lines = (tmp_path / "rows0.csv").read_text().splitlines()
    (tmp_path / "rows0.csv").write_text("\n".join([lines[0], *lines[1:] * 1000]) + "\n")
    little = ("--quiet", "--memory", "0.001")
    process = subprocess.Popen(command(kinds, tmp_path / "ray", *little), cwd=tmp_path)
    work, deadline = tmp_path / "ray" / ".work", time.monotonic() + SECONDS
    while len([*work.glob("*.part")]) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ray" / "manifest.json").exists()
    kept = {path.name: path.stat().st_ino for path in work.glob("*.part")}
    assert len(kept) >= 2
    (tmp_path / "ray" / ".train-00000.safetensors.1").touch()  # as of a shard that was being written
    process = subprocess.Popen(command(kinds, tmp_path / "ray", *little), cwd=tmp_path)
    seen = dict[str, int]()
    while process.poll() is None and time.monotonic() < deadline:
        for name in kept:
            try:
                seen[name] = (work / name).stat().st_ino
            except FileNotFoundError:
                break
        time.sleep(0.005)
    assert process.wait() == 0
    assert seen == kept, "the parts are those that were there"
    quorem("encode", kinds, "--out", tmp_path / "local", "--jobs", "2", *little)
    same(tmp_path / "local", tmp_path / "ray")


@needs_ray
def test_a_cluster_that_does_not_answer_is_told(kinds: Path, tmp_path: Path) -> None:
    error = on_ray(kinds, tmp_path / "ray", check=2, RAY_ADDRESS="127.0.0.1:1")[1]
    assert "RAY_ADDRESS=127.0.0.1:1" in error
    assert "Traceback" not in error


def test_without_ray_the_extra_is_named(kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = quorem("encode", kinds, "--out", tmp_path / "ray", "--engine", "ray", check=2).stderr
    assert "pip install 'quorem[ray]'" in told
    assert not (tmp_path / "ray").exists()
