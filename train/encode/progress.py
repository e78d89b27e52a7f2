"""Progress: what an encoding does now, how far it is, and how many rows a second it takes."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """A bar for each stage, on a terminal; a line for each where there is none.

    seconds: of each stage. ranges: in how many ranges of raw64 each vocabulary was counted.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.rows, self.since = console, 0, time.perf_counter()
        self.bars = Bars(
            TextColumn("{task.description:18}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.fields[told]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=console.quiet or not console.is_terminal,
        )
        self.ranges = dict[str, int]()
        self.stage, self.seconds, self.task = "", dict[str, float](), self.bars.add_task("", total=None, told="")
        self.bars.update(self.task, visible=False)

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self._end()
        self.bars.stop()

    def begin(self, stage: str, total: int) -> None:
        """A stage begins, of so many bytes, features or rows."""
        self._end()
        self.stage, self.rows, self.since = stage, 0, time.perf_counter()
        self.task = self.bars.add_task(stage, total=total, told="")
        if self.bars.disable:
            self.console.print(stage, highlight=False)

    def skip(self, amount: int) -> None:
        """So much was done by an earlier run."""
        self.bars.update(self.task, advance=amount)

    def add(self, amount: int, rows: int = 0) -> None:
        """So much more is done, and so many rows."""
        self.rows += rows
        rate = self.rows / max(time.perf_counter() - self.since, 1e-9)
        self.bars.update(self.task, advance=amount, told=f"{rate:,.0f} rows/s" if self.rows else "")

    def _end(self) -> None:
        if self.stage:
            self.seconds[self.stage] = round(time.perf_counter() - self.since, 3)
