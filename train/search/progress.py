"""The progress of a search: a bar with loss, temperature, entropy and expected parameters; history.jsonl."""

import json
import time
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ...protos.manifest import write_atomically

HISTORY = "history.jsonl"
ROOMY = 100  # columns of a terminal that has room for a bar beside what is told


class Display:
    """Shows a search on the terminal (stderr) and appends a JSON line now and then to its history.jsonl."""

    def __init__(self, directory: Path, console: Console, held: str = "parameters") -> None:
        """`held`: what of the expected tables is told, by its name in the facts."""
        self.console, self.path, self.held = console, directory / HISTORY, held
        self.rows, self.since, self.told = 0, time.perf_counter(), ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(None) if console.width >= ROOMY else TaskProgressColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        hidden = console.quiet or not console.is_terminal
        self.bar = Progress(*columns, console=console, transient=True, disable=hidden)
        self.task = self.bar.add_task("epoch", total=None, told="")

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self.bar.stop()

    def resumed(self, step: int) -> None:
        """The search goes on: lines that the checkpoint does not know are dropped, whole or half-written."""
        kept = [line for line in read_history(self.path) if line["step"] <= step]
        write_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in kept).encode())

    def epoch(self, number: int, batches: int, done: int, *, warmup: bool) -> None:
        """An epoch begins, `done` of its batches behind it; the one before is told in a line."""
        if self.told:
            self._say()
        self.rows, self.since = 0, time.perf_counter()
        told = f"warm-up {number}" if warmup else f"epoch {number}"
        self.bar.reset(self.task, total=batches, completed=done, description=told)

    def record(self, facts: dict[str, Any], batches: int, rows: int) -> None:
        """So many batches and rows more are done, and this is how the choice stands."""
        self.rows += rows
        rate = self.rows / max(time.perf_counter() - self.since, 1e-9)
        told = f"loss {facts['train_loss']:.4f}  tau {facts['tau']:.3f}  entropy {facts['entropy']:.3f}  "
        told += f"{facts[self.held]:,.0f} {self.held}"
        self.bar.update(self.task, advance=batches, told=told)
        self.told = f"{self.bar.tasks[0].description:10}  {told} expected  {rate:,.0f} rows/s"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def ended(self) -> None:
        """The last epoch is told."""
        self._say()

    def note(self, told: str) -> None:
        """A line of what is done beside epochs."""
        self.console.print(told, highlight=False, soft_wrap=True)

    def _say(self) -> None:
        if self.told:
            self.console.print(self.told, highlight=False, soft_wrap=True)
        self.told = ""


def read_history(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a history, in order."""
    found = list[dict[str, Any]]()
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
