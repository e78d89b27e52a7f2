"""The progress of a run: a bar with loss, AUC, rows/s, GPU memory and time left; a line per epoch; its record."""

import math
import time
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from .board import Board
from .checkpoint import Progress as Checkpointed
from .record import STEP, VALIDATION, Record
from .streaming import StreamingAuc


class Display:
    """Shows a run on the terminal (stderr), writes its metrics.jsonl and, where there is one, to TensorBoard."""

    def __init__(self, directory: Path, console: Console) -> None:
        self.console, self.record, self.board = console, Record(directory), Board(directory)
        self.best_auc, self.auc, self.rate = float("nan"), StreamingAuc(), 0.0
        self.number, self.batches, self.batch = 0, 0, 0  # epoch, its batches, those done
        self.rows, self.fresh = 0, 0  # of all epochs; of this one, by this process
        self.earlier, self.began, self.since = 0.0, None, 0.0  # seconds of other processes; when this one began
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
        self.board.open()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self.bar.stop()
        self.board.close()

    def resumed(self, progress: Checkpointed) -> None:
        """The run goes on: its record goes back to what the checkpoint knows."""
        self.best_auc = progress.best_auc if progress.best_epoch else float("nan")
        if last := self.record.cut(progress.epoch, progress.batch):
            self.earlier = last["seconds"]

    def taught(self, batches: int, done: int) -> None:
        """A teacher has scored so many of the batches that it is to score before the first step."""
        self.bar.update(self.task, total=batches, completed=done, description="teacher")

    def epoch(self, number: int, batches: int, done: int, rows: int) -> None:
        """An epoch begins, `done` of its batches behind it, and so many rows of all epochs."""
        self.number, self.batches, self.batch, self.rows = number, batches, done, rows
        self.fresh, self.since, self.auc = 0, time.perf_counter(), StreamingAuc()
        self.began = self.since if self.began is None else self.began
        self.bar.reset(self.task, total=batches, completed=done, description=f"epoch {number}")

    def seen(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        """A batch, (B,) each, scored as it was learned from."""
        self.auc.add(logits, labels, weights)

    def step(self, batches: int, rows: int, loss: float, lr: float) -> None:
        """So many batches and rows more are done; mean loss of the epoch so far."""
        self.batch, self.rows, self.fresh = self.batch + batches, self.rows + rows, self.fresh + rows
        self.rate = self.fresh / max(time.perf_counter() - self.since, 1e-9)
        auc, place = self.auc.value(), self._place(lr)
        self.record.add(STEP, {**place, "loss": loss, "auc": auc})
        shown = {
            "train/loss": loss,
            "train/auc": auc,
            **{name: place.get(name) for name in ("rows_per_s", "gpu_bytes")},
        }
        self.board.add(place["step"], shown | {"lr": lr})
        told = [f"loss {loss:.4f}"]
        told += [f"{name} {each:.5f}" for name, each in (("AUC", auc), ("best", self.best_auc)) if not math.isnan(each)]
        told += [f"{self.rate:,.0f} rows/s", *_memory(place.get("gpu_bytes"))]
        self.bar.update(self.task, advance=batches, told="  ".join(told))

    def warned(self, told: str) -> None:
        """Something went wrong, and the run goes on."""
        Console(stderr=True, soft_wrap=True).print(told, style="yellow", highlight=False, markup=False)

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        """An epoch ended with these metrics on the validation rows."""
        if best:
            self.best_auc = metrics["auc"]
        auc, place = self.auc.value(), self._place(lr)
        self.record.add(VALIDATION, {**place, "train_loss": loss, "train_auc": auc, **metrics, "best": best})
        self.board.add(place["step"], {f"valid/{name}": value for name, value in metrics.items()})
        told = f"epoch {epoch:3}  loss {loss:.4f}  valid AUC {metrics['auc']:.5f}  logloss {metrics['logloss']:.4f}"
        told = "  ".join([told, f"{self.rate:,.0f} rows/s", *_memory(place.get("gpu_bytes"))])
        self.console.print(f"{told}{'  best' if best else ''}", highlight=False)

    def _place(self, lr: float) -> dict[str, Any]:
        """Where the run is, as the record has it."""
        place: dict[str, Any] = {
            "step": (self.number - 1) * self.batches + self.batch,
            "epoch": self.number,
            "batch": self.batch,
            "rows": self.rows,
            "seconds": round(self.earlier + time.perf_counter() - (self.began or self.since), 3),
            "rows_per_s": round(self.rate),
            "lr": lr,
        }
        if torch.cuda.is_initialized():
            place["gpu_bytes"] = torch.cuda.max_memory_allocated()
        return place


def _memory(gpu_bytes: int | None) -> list[str]:
    return [] if gpu_bytes is None else [f"GPU {gpu_bytes / 2**30:.1f} GiB"]
