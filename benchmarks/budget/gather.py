"""Gather: what the steps of a study left becomes a list of runs, and of groups that differ in their seeds alone."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quorem.protos import manifest as manifests
from quorem.protos.tables_bin import plan_bytes

from .run import result_of, seconds_of
from .steps import ALONE, FULL, SEARCHED, Step, Study


@dataclass(frozen=True)
class Group:
    """Runs of one arm and setting."""

    runs: Sequence[Mapping[str, Any]]

    @property
    def arm(self) -> str:
        """Of all of them."""
        return self.runs[0]["arm"]

    @property
    def setting(self) -> str:
        """Of all of them."""
        return self.runs[0]["setting"]

    @cached_property
    def bytes(self) -> float:
        """Their mean."""
        return statistics.fmean(run["bytes"] for run in self.runs)

    def values(self, metric: str) -> list[float]:
        """Of the test rows."""
        return [run[metric] for run in self.runs]

    def mean(self, metric: str) -> float:
        """Of the test rows."""
        return statistics.fmean(self.values(metric))

    def deviation(self, metric: str) -> float | None:
        """Over seeds; none of a single one."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None


def gather(steps: Sequence[Step], study: Study) -> list[dict[str, Any]]:
    """The runs that are done.

    Raises:
        SystemExit: bytes of a plan that are not those of its run or of its export, or above its budget.
    """
    found = list[dict[str, Any]]()
    for step in steps:
        told = result_of(step.name, study.directory)
        if step.run is None or not told:
            continue
        run, clock = step.run, study.timed(step.run.seed) if step.run.arm == FULL else step.name
        own = {
            "arm": run.arm,
            "setting": run.setting,
            "seed": run.seed,
            "budget": run.budget,
            "bytes": told["bytes"] if "bits" in told else _bytes(study.path(step.name)),
            "auc": told["test"]["auc"],
            "logloss": told["test"]["logloss"],
            "valid_auc": told["valid"]["auc"],
            "valid_logloss": told["valid"]["logloss"],
            "seconds": seconds_of(clock, study.directory),
        }
        if run.arm in (SEARCHED, ALONE) and run.budget is not None:
            own["exported_bytes"] = _exported(study, run.arm, run.budget, run.seed)
            _check(own, _plan(study, run.budget, run.seed), step.name)
        found.append(own)
    return found


def groups(runs: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Runs of one arm and setting together, in their order."""
    found = dict[tuple[str, str], list[Mapping[str, Any]]]()
    for run in runs:
        found.setdefault((run["arm"], run["setting"]), []).append(run)
    return [Group(each) for each in found.values()]


def _bytes(run: Path) -> int:
    manifest = manifests.read(run, verify_digests=False)
    return sum(plan_bytes(manifest.schema, manifest.plan).values())


def _plan(study: Study, budget: str, seed: int) -> dict[str, Any]:
    plans = result_of(f"search-{seed}", study.directory)["plans"]
    return next(plan for plan in plans if plan["asked"] == budget)


def _exported(study: Study, arm: str, budget: str, seed: int) -> int | None:
    """Bytes of the `tables.bin` that was exported, if it was."""
    told = result_of(f"export-{budget}-{seed}", study.directory) if arm == SEARCHED else {}
    return (Path(told["path"]) / "tables.bin").stat().st_size if told else None


def _check(run: Mapping[str, Any], plan: Mapping[str, Any], name: str) -> None:
    sizes = {run["bytes"], plan["bytes"], run["exported_bytes"] or plan["bytes"]}
    if len(sizes) > 1 or max(sizes) > plan["budget"]:
        raise SystemExit(
            f"{name}: the plan says {plan['bytes']:,} bytes, its run has {run['bytes']:,}, its export "
            f"{run['exported_bytes']}; the budget is {plan['budget']:,}"
        )
