"""The summary: what the finished runs of a study say of its arms, and of the differences between them."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .arms import Arm
from .noise import Difference, Sample, compare, stability
from .results import Result, Results
from .study import Value
from .training import Run

METRICS = {"auc": True, "logloss": False}  # name -> whether higher is better


@dataclass(frozen=True)
class Failure:
    """A run that failed."""

    arm: str
    seed: int
    why: str


@dataclass(frozen=True)
class Entry:
    """What is known of an arm: its finished runs, of how many, the values it was tuned to, and how it compares.

    searches: of each run the search that found its plan, or that it is; empty for an arm without.
    against: name of the other arm -> metric -> difference on the test rows.
    """

    arm: Arm
    runs: tuple[Run, ...]
    results: tuple[Result, ...]
    searches: tuple[Result, ...]
    wanted: int
    tuned: Mapping[str, Value]
    against: Mapping[str, Mapping[str, Difference]]

    def sample(self, split: str, metric: str) -> Sample:
        """A metric of "valid" or "test" of its finished runs."""
        return tuple(value for result in self.results if (value := result.metric(split, metric)) is not None)

    def facts(self, name: str) -> tuple[int, ...]:
        """What its runs tell of themselves, such as "bytes"; of those that do."""
        return tuple(value for result in self.results if (value := result.report.get(name)) is not None)

    def fact(self, name: str) -> Any:
        """The mean of `facts`: what its runs have in common, unless each seed has a plan of its own; None of none."""
        found = self.facts(name)
        if len(set(found)) == 1:
            return found[0]
        return statistics.fmean(found) if found else None

    def seconds(self) -> float | None:
        """Mean wall time of its trainings, without the searches before them."""
        return _mean_seconds([] if self.results == self.searches else self.results)

    def search_seconds(self) -> float | None:
        """Mean wall time of its searches."""
        return _mean_seconds(self.searches)

    def stability(self) -> float | None:
        """How alike the dims are that its seeds find; see noise.py."""
        return stability([tuple(search.report["dims"].values()) for search in self.searches])


@dataclass(frozen=True)
class Summary:
    """All arms of a study, in its order, and the runs that failed."""

    title: str
    entries: tuple[Entry, ...]
    failures: tuple[Failure, ...]

    def sections(self) -> dict[str, list[Entry]]:
        """The entries of each factor, in order."""
        found = dict[str, list[Entry]]()
        for entry in self.entries:
            for factor in entry.arm.factors:
                found.setdefault(factor, []).append(entry)
        return found


def summarise(title: str, arms: Iterable[Arm], results: Results) -> Summary:
    """What the finished runs say."""
    bare = {arm.name: _entry(arm, results) for arm in arms}
    noise = {metric: _noise(bare.values(), metric) for metric in METRICS}
    entries = list[Entry]()
    for entry in bare.values():
        found = {name: _differences(entry, bare[name], noise) for name in entry.arm.against}
        known = {name: differences for name, differences in found.items() if differences is not None}
        entries.append(dataclasses.replace(entry, against=known))
    failures = {
        run.digest: Failure(entry.arm.name, run.seed, results.failed[run.digest])
        for entry in entries
        for variant in entry.arm.variants
        for run in variant.runs
        if run.digest in results.failed
    }
    return Summary(title, tuple(entries), tuple(failures.values()))


def _entry(arm: Arm, results: Results) -> Entry:
    chosen = arm.chosen(results.finished, results.failed)
    done = [run for run in chosen.runs if run.digest in results.finished] if chosen else []
    searches = [run if run.verb == "search" else run.search for run in done]
    return Entry(
        arm=arm,
        runs=tuple(done),
        results=tuple(results.finished[run.digest] for run in done),
        searches=tuple(results.finished[run.digest] for run in searches if run and run.digest in results.finished),
        wanted=len(arm.variants[0].runs),
        tuned=chosen.tuned if chosen else {},
        against={},
    )


def _mean_seconds(results: Iterable[Result]) -> float | None:
    found = [result.seconds for result in results if result.seconds is not None]
    return statistics.fmean(found) if found else None


def _noise(entries: Iterable[Entry], metric: str) -> dict[str, list[Sample]]:
    """The samples of all arms of some rows, by those rows; arms that share their runs count once."""
    found = dict[str, dict[tuple[str, ...], Sample]]()
    for entry in entries:
        digests = tuple(result.digest for result in entry.results)
        found.setdefault(entry.arm.rows, {})[digests] = entry.sample("test", metric)
    return {rows: list(samples.values()) for rows, samples in found.items()}


def _differences(
    entry: Entry, other: Entry, noise: Mapping[str, Mapping[str, list[Sample]]]
) -> dict[str, Difference] | None:
    """The differences of two arms by metric; None where they have other rows, or one has no finished run yet."""
    rows = entry.arm.rows
    pairs = {metric: (entry.sample("test", metric), other.sample("test", metric)) for metric in METRICS}
    if rows != other.arm.rows or not all(mine and theirs for mine, theirs in pairs.values()):
        return None
    return {
        metric: compare(mine, theirs, noise[metric][rows], higher_is_better=METRICS[metric])
        for metric, (mine, theirs) in pairs.items()
    }


def as_dict(summary: Summary, results: Results) -> dict[str, Any]:
    """The summary for a script."""
    return {
        "study": summary.title,
        "arms": [_arm_as_dict(entry, results) for entry in summary.entries],
        "failures": [dataclasses.asdict(failure) for failure in summary.failures],
    }


def _arm_as_dict(entry: Entry, results: Results) -> dict[str, Any]:
    arm = entry.arm
    tuning = [
        {"values": dict(variant.tuned), "valid_auc": results.finished[run.digest].metric("valid", "auc")}
        for variant in arm.variants
        if (run := variant.runs[0]).digest in results.finished
    ]
    facts = ("embedding_parameters", "bytes", "full_bytes", "first_order_bytes", "collisions")
    return {
        "arm": arm.name,
        "factors": arm.factors,
        "series": arm.series,
        "recipe": arm.variants[0].runs[0].recipe,
        "set": entry.runs[0].settings if entry.runs else None,
        "wanted": entry.wanted,
        "tuned": dict(entry.tuned),
        "tuning": tuning if len(arm.variants) > 1 else [],
        **{name: entry.fact(name) for name in facts},
        **({"stability": entry.stability()} if entry.searches else {}),
        "runs": [_run_as_dict(run, results) for run in entry.runs],
        "against": {
            name: {metric: dataclasses.asdict(difference) for metric, difference in found.items()}
            for name, found in entry.against.items()
        },
    }


def _run_as_dict(run: Run, results: Results) -> dict[str, Any]:
    result = results.finished[run.digest]
    search = result if run.verb == "search" else results.finished.get(run.search.digest) if run.search else None
    known = [key for key in ("best_epoch", "valid", "test") if key in result.report]
    told = {"seed": run.seed, "run": run.digest, **{key: result.report[key] for key in known}}
    if search:
        told |= {
            "embedding_parameters": result.report["embedding_parameters"],
            "dims": search.report["dims"],
            "search": search.digest,
            "search_seconds": search.seconds,
        }
    return told | {"seconds": None if result is search else result.seconds, "peak_bytes": result.peak_bytes}
