"""Results: what is known of a study's runs, read from and written to the directory that holds them."""

import json
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...protos import manifest as manifests
from ...protos import plan_directory
from ...protos.errors import QuoremError
from ...protos.plan import FLOAT_BYTES
from ..report import as_dict
from ..search.trials import NAME as TRIALS
from .searched import report_search
from .training import Run

if TYPE_CHECKING:
    from .children import Ended

CHECKPOINT = "checkpoint.safetensors"  # as checkpoint.py has it, which would import torch
BEGUN = (CHECKPOINT, TRIALS)  # a directory with one of these is gone on with
LAST = {"train": manifests.NAME, "search": plan_directory.SEARCH}  # a directory with this file is whole
TEMPORARY = re.compile(r"\..+\.\d+")  # what an atomic write that was killed leaves behind


@dataclass(frozen=True)
class Result:
    """A finished run.

    digest: its run. report: as `quorem train --json` tells it, from the manifest; of a search, see searched.py.
    seconds: wall time of all its processes together, peak_bytes: the memory of the largest; None where it was not
        measured: the study was killed when the run had just ended.
    """

    digest: str
    report: dict[str, Any]
    seconds: float | None
    peak_bytes: int | None

    def metric(self, split: str, name: str) -> float | None:
        """A metric of "valid" or "test"; None where the split has no rows, or the metric no meaning."""
        return self.report[split].get(name)


@dataclass
class Results:
    """The runs of a study: finished, and failed since this command began.

    directory: for each run its directory, named by its digest, and beside it DIGEST.toml, its recipe, DIGEST.log, what
        it said, and DIGEST.json, its facts.
    finished: by digest. failed: by digest, why.
    """

    directory: Path
    finished: dict[str, Result] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def look(self, run: Run) -> bool:
        """Whether a run is finished; if so, its result is read.

        Raises:
            ArtifactError: its manifest or plan directory cannot be trusted.
        """
        digest = run.digest
        if digest not in self.finished and (self.directory / digest / LAST[run.verb]).exists():
            facts = self.facts(digest)
            facts = facts if "result" in facts else {}  # else what is there tells of a part of the run
            self.finished[digest] = Result(digest, self._report(run), facts.get("seconds"), facts.get("peak_bytes"))
        return digest in self.finished

    def _report(self, run: Run) -> dict[str, Any]:
        path = self.directory / run.digest
        if run.verb == "search":
            return report_search(path, run)
        report = as_dict(manifests.read(path, verify_digests=False))
        if run.search and self.look(run.search):  # what its plan saves, it saves on the widest candidates
            widest = self.finished[run.search.digest].report["widest"]
            whole = sum(field["cardinality"] * widest[field["feature"]] for field in report["fields"])
            report["full_bytes"] = whole * FLOAT_BYTES
        return report

    def facts(self, digest: str) -> dict[str, Any]:
        """What was written down beside a run; nothing where there is nothing whole."""
        try:
            return json.loads((self.directory / f"{digest}.json").read_bytes())
        except (OSError, ValueError):
            return {}

    def prepare(self, run: Run) -> bool:
        """Lay a run's recipe beside its directory; whether it is to be resumed."""
        path = self.directory / run.digest
        sweep(path)
        manifests.write_atomically(path.with_suffix(".toml"), run.text.encode())
        resumed = any((path / name).exists() for name in BEGUN)
        if not resumed:  # what an attempt took that left nothing is no part of this one
            (self.directory / f"{run.digest}.json").unlink(missing_ok=True)
        return resumed

    def record(self, run: Run, label: str, ended: "Ended", *, stopped: bool) -> None:
        """Write down that a process of a run ended: finished, failed, or (all were told to) stopped on the way."""
        before = self.facts(run.digest)
        facts: dict[str, Any] = {
            "arm": label,
            "seed": run.seed,
            "recipe": run.recipe,
            "set": run.settings,
            "seconds": round(before.get("seconds", 0.0) + ended.seconds, 2),
            "peak_bytes": max(before.get("peak_bytes", 0), ended.peak_bytes),
        }
        done = (self.directory / run.digest / LAST[run.verb]).exists()
        if done:
            facts["result"] = json.loads(ended.printed) if ended.status == 0 else None
        elif not stopped:
            facts["failed"] = self.failed[run.digest] = self.why(run.digest, ended.status)
        manifests.write_atomically(self.directory / f"{run.digest}.json", json.dumps(facts, indent=1).encode() + b"\n")
        self.look(run)

    def recall_failures(self, runs: Sequence[Run]) -> None:
        """Take up what earlier commands wrote down of runs that failed."""
        for run in runs:
            if run.digest not in self.finished and (why := self.facts(run.digest).get("failed")):
                self.failed[run.digest] = why
        self.fail_with_searches(runs)

    def fail_with_searches(self, runs: Iterable[Run]) -> None:
        """A training whose search failed has failed with that reason."""
        for run in runs:
            if run.search and run.search.digest in self.failed and run.digest not in self.finished:
                self.failed[run.digest] = f"its search: {self.failed[run.search.digest]}"

    def why(self, digest: str, status: int) -> str:
        """Why a run failed, in one line: its signal, or the end of what it said."""
        if status < 0:
            hint = " (out of memory?)" if status == -signal.SIGKILL else ""
            return f"ended by {signal.Signals(-status).name}{hint}"
        return last_words(self.directory / f"{digest}.log") or f"exit status {status}"


def sweep(directory: Path) -> None:
    """Clear what atomic writes that were killed left behind; no one else may be writing there."""
    for path in directory.glob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()


def last_words(log: Path) -> str:
    """The error at the end of what a command said under `--json`, in one line; its last line, if that is none."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "")
    try:
        error = json.loads(said)
        return str(QuoremError(error["rule"], found=error["found"], where=error["where"]))
    except (ValueError, KeyError, TypeError):
        return said
