"""Killing: runs in processes of their own, watched from outside until they are as far as a test wants them."""

import subprocess
import sys
import time
from pathlib import Path

CHECKPOINT = "checkpoint.safetensors"


def begin(recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "quorem", "train", str(recipe), "--out", str(out), "--device", "cpu", "--quiet"]
    return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Until the run has told of so many steps, and has a checkpoint."""
    record, deadline = out / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / CHECKPOINT).exists() and record.read_text("utf-8").count('"kind": "step"') >= step:
            return
        time.sleep(0.001)
    raise AssertionError(f"no step {step}: {process.communicate()[1]}")
