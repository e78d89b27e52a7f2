"""The progress of a run: a bar with loss, AUC, rows/s and time left; a line per epoch; metrics.jsonl."""

import json
import math
import time
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..protos.manifest import write_atomically
from .checkpoint import Progress as Checkpointed

METRICS = "metrics.jsonl"


class Display:
    """Shows a run on the terminal (stderr) and appends one JSON line per epoch to the run's metrics.jsonl."""

    def __init__(self, directory: Path, console: Console) -> None:
        self.console, self.path = console, directory / METRICS
        self.best_auc, self.rate, self.rows, self.since = float("nan"), 0.0, 0, time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(
            *columns, console=self.console, transient=True, disable=console.quiet or not console.is_terminal
        )
        self.task = self.bar.add_task("epoch", total=None, told="")

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self.bar.stop()

    def resumed(self, progress: Checkpointed) -> None:
        """The run goes on: lines of epochs that the checkpoint does not know are dropped, whole or half-written."""
        self.best_auc = progress.best_auc if progress.best_epoch else float("nan")
        lines = self.path.read_text("utf-8").splitlines()[: progress.epoch] if self.path.exists() else []
        write_atomically(self.path, "".join(f"{line}\n" for line in lines).encode())

    def epoch(self, number: int, batches: int, done: int) -> None:
        """An epoch begins, `done` of its batches behind it."""
        self.rows, self.since = 0, time.perf_counter()
        self.bar.reset(self.task, total=batches, completed=done, description=f"epoch {number}")

    def step(self, batches: int, rows: int, loss: float) -> None:
        """So many batches and rows more are done."""
        self.rows += rows
        self.rate = self.rows / max(time.perf_counter() - self.since, 1e-9)
        best = "" if math.isnan(self.best_auc) else f"best AUC {self.best_auc:.5f}  "
        self.bar.update(self.task, advance=batches, told=f"loss {loss:.4f}  {best}{self.rate:,.0f} rows/s")

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        """An epoch ended with these metrics on the validation rows."""
        if best:
            self.best_auc = metrics["auc"]
        line = {"epoch": epoch, "train_loss": loss, **metrics, "lr": lr, "best": best, "rows_per_s": round(self.rate)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        told = f"epoch {epoch:3}  loss {loss:.4f}  valid AUC {metrics['auc']:.5f}  logloss {metrics['logloss']:.4f}"
        self.console.print(f"{told}  {self.rate:,.0f} rows/s{'  best' if best else ''}", highlight=False)
