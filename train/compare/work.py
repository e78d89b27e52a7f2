"""The work on a study: which runs are due, doing them several at a time, and telling of each that ends."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ...protos.manifest import write_atomically
from .arms import Arm, Due, all_runs, schedule
from .children import Children, Task
from .estimate import Costs, told
from .probe import probe
from .progress import Display
from .results import Results, sweep
from .summary import Summary, as_dict, summarise
from .table import to_csv, to_markdown

RUNS, TABLE, SHEET, NUMBERS = "runs", "table.md", "table.csv", "results.json"


class Work:
    """A study in its directory.

    arms: all of them. chosen: those that are run now, with their first `seeds` seeds.
    runs: every one that an arm may take. results, costs: what is known of them.
    """

    def __init__(self, title: str, arms: Sequence[Arm], chosen: Sequence[Arm], out: Path, seeds: int | None) -> None:
        self.title, self.arms, self.chosen, self.out, self.seeds = title, arms, chosen, out, seeds
        self.results, self.costs, self.runs = Results(out / RUNS), Costs(), all_runs(arms)
        for run in self.runs:
            if self.results.look(run):
                self.costs.learn(run, self.results.finished[run.digest])

    def due(self) -> list[Due]:
        """Every run that this command is to see done, finished or not."""
        return schedule(self.chosen, self.results.finished, self.results.failed, self.seeds)

    def left(self) -> list[Due]:
        """Those that are neither finished nor failed."""
        known = self.results.finished.keys() | self.results.failed.keys()
        return [due for due in self.due() if due.run.digest not in known]

    def counts(self) -> dict[str, int]:
        """How many runs there are, finished, failed, and left."""
        due, left = self.due(), len(self.left())
        failed = sum(each.run.digest in self.results.failed for each in due)
        return {"all": len(due), "finished": len(due) - failed - left, "failed": failed, "left": left}

    def estimate(self, jobs: int) -> list[str]:
        """How many runs there are, and how long those that are left will take, in words."""
        counts, left = self.counts(), [due.run for due in self.left()]
        return [
            f"{counts['finished']} of {counts['all']} runs finished, {counts['left']} to do",
            *(told(left, self.costs, jobs) if left else ()),
        ]

    def measure(self, children: Children, display: Display) -> None:
        """Tell how long it will take, having probed what is not known."""
        left = [due.run for due in self.left()]
        if any(self.costs.of(run.kind) is None for run in left):
            display.say("Measuring how long a run takes, where none of its kind is finished …")
            probe(left, self.costs, children)
        for line in self.estimate(children.jobs) if not children.stopping else ():
            display.say(line)

    def run(self, children: Children, display: Display, deadline: float) -> None:
        """Do all that is left, and write the tables whenever a run has ended."""
        for directory in (self.out, self.results.directory):
            sweep(directory)
        at_work = dict[str, Due]()
        while True:
            left = self.left()
            self._show(display, left, children.jobs)
            waiting = [due for due in left if due.ready and due.run.digest not in at_work]
            while waiting and len(at_work) < children.jobs and not children.stopping and time.monotonic() < deadline:
                due = waiting.pop(0)
                children.start(self._task(due))
                at_work[due.run.digest] = due
            if not at_work:
                return
            ended = children.next()
            due = at_work.pop(ended.name)
            run = due.run
            self.results.record(run, due.label, ended, stopped=children.stopping)
            self.results.fail_with_searches(self.runs)
            result = self.results.finished.get(run.digest)
            if result is not None:
                self.costs.learn(run, result)
            why = "saved" if children.stopping else f"failed: {self.results.failed.get(run.digest)}"
            display.ended(due.label, run, ended.seconds, result or why)
            self.write()

    def summary(self) -> Summary:
        """What is known of all arms of the study."""
        return summarise(self.title, self.arms, self.results)

    def write(self) -> str:
        """Write the tables; the one for a reader is returned."""
        summary = self.summary()
        table = to_markdown(summary)
        numbers = json.dumps(as_dict(summary, self.results), indent=1, ensure_ascii=False)
        for name, text in ((TABLE, table), (SHEET, to_csv(summary)), (NUMBERS, numbers + "\n")):
            write_atomically(self.out / name, text.encode())
        return table

    def _task(self, due: Due) -> Task:
        resume = self.results.prepare(due.run)
        run, out = due.run, self.results.directory / due.run.digest
        plan = self.results.directory / run.search.digest if run.search else None
        return Task(run.digest, run.verb, out.with_suffix(".toml"), out, out.with_suffix(".log"), resume, plan)

    def _show(self, display: Display, left: Sequence[Due], jobs: int) -> None:
        total = len(self.due())
        display.counted(total - len(left), total, self.costs.left((due.run for due in left), jobs))
