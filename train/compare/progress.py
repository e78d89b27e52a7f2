"""The progress of a study: a bar with runs done and time left, and a line for each run that ended; on stderr."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .estimate import duration
from .results import Result
from .training import Run


class Display:
    """Shows how a study comes along."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=console.quiet or not console.is_terminal)
        self.task = self.bar.add_task("runs", total=None, left="")

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing, whatever happened."""
        self.bar.stop()

    def counted(self, done: int, total: int, seconds: float | None) -> None:
        """So many runs are done or failed, and this long is left."""
        left = "" if seconds is None else f"about {duration(seconds)} left"
        self.bar.update(self.task, completed=done, total=total, left=left)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def ended(self, label: str, run: Run, seconds: float, outcome: Result | str) -> None:
        """A run ended: its result, or why there is none."""
        if isinstance(outcome, str):
            self.say(f"{label}  seed {run.seed}  {outcome}")
            return
        split = "test" if outcome.report["test"] else "valid"
        found = [
            f"{word} {value:.5f}  "
            for name, word in (("auc", "AUC"), ("logloss", "logloss"))
            if (value := outcome.metric(split, name)) is not None
        ]
        told = f"{split} {''.join(found)}" if found else ""
        self.say(f"{label}  seed {run.seed}  {told}{seconds:.1f} s")
