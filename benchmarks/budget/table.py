"""The tables: a row for each budget, what search and training cost, and every single method, as Markdown."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .gather import Group
from .run import seconds_of
from .steps import ALONE, FULL, SEARCHED, Study

HEADS = (
    "budget",
    "bytes",
    "taken",
    "full AUC",
    "searched AUC",
    "less full",
    "without a teacher",
    "searched logloss",
    "best single method in as many bytes",
    "its AUC",
    "searched less it",
    "in standard errors",
    "retraining / full",
)


def budget_table(groups: Sequence[Group], budgets: Mapping[str, int]) -> str:
    """Test AUC at each budget: mean ± standard deviation over seeds."""
    full = next((group for group in groups if group.arm == FULL), None)
    found = {(group.arm, group.setting): group for group in groups}
    lines = [_row(HEADS), _row(["---", *["---:"] * 7, "---", *["---:"] * 4])]
    for text, budget in budgets.items():
        own, alone = found.get((SEARCHED, text)), found.get((ALONE, text))
        best = best_single(groups, budget)
        lines.append(
            _row(
                [
                    text,
                    f"{budget:,}",
                    f"{own.bytes:,.0f}" if own else "-",
                    _spread(full, "auc"),
                    _spread(own, "auc"),
                    f"{own.mean('auc') - full.mean('auc'):+.5f}" if own and full else "-",
                    _spread(alone, "auc"),
                    _spread(own, "logloss"),
                    f"{best.arm}, {best.setting}: {best.bytes:,.0f} bytes" if best else "none",
                    _spread(best, "auc"),
                    f"{own.mean('auc') - best.mean('auc'):+.5f}" if own and best else "-",
                    _in_errors(own, best),
                    _times(_seconds(own), _seconds(full)),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def cost_table(groups: Sequence[Group], study: Study) -> str:
    """CPU seconds of the searches, and how many full trainings they are."""
    full = _seconds(next((group for group in groups if group.arm == FULL), None))
    searches = [seconds_of(f"search-{seed}", study.directory) for seed in study.seeds]
    one = seconds_of(f"search-one-{study.seeds[0]}", study.directory)
    rows = {
        "a training of full tables": full,
        f"a search for {', '.join(study.budgets)}": _mean(searches),
        f"a search for {study.budgets[:2][-1]} alone": one,
    }
    lines = [_row(("", "CPU seconds", "trainings of full tables")), _row(("---", "---:", "---:"))]
    for name, seconds in rows.items():
        lines.append(_row([name, "-" if seconds is None else f"{seconds:.0f}", _times(seconds, full)]))
    return "\n".join(lines) + "\n"


def single_table(groups: Sequence[Group]) -> str:
    """Every method but the search, by arm and bytes."""
    lines = [_row(("method", "setting", "bytes", "runs", "AUC", "logloss"))]
    lines.append(_row(("---", "---", "---:", "---:", "---:", "---:")))
    shown = [group for group in groups if group.arm not in (SEARCHED, ALONE)]
    order = list(dict.fromkeys(group.arm for group in shown))
    for group in sorted(shown, key=lambda each: (order.index(each.arm), -each.bytes)):
        told = [group.arm, group.setting, f"{group.bytes:,.0f}", str(len(group.runs))]
        lines.append(_row([*told, _spread(group, "auc"), _spread(group, "logloss")]))
    return "\n".join(lines) + "\n"


def best_single(groups: Sequence[Group], budget: int) -> Group | None:
    """The method but the search that has the highest AUC in at most so many bytes."""
    fits = [group for group in groups if group.arm not in (SEARCHED, ALONE) and group.bytes <= budget]
    return max(fits, key=lambda group: group.mean("auc"), default=None)


def differ(one: Group, other: Group) -> float | None:
    """How many standard errors the AUC of one is above that of another; of a single run, the deviation is the other's.

    None where neither has one.
    """
    own, theirs = one.deviation("auc"), other.deviation("auc")
    known = [each for each in (own, theirs) if each is not None]
    if not known:
        return None
    parts = ((known[0] if own is None else own, one), (known[0] if theirs is None else theirs, other))
    error = math.sqrt(sum(deviation**2 / len(group.runs) for deviation, group in parts))
    return (one.mean("auc") - other.mean("auc")) / error if error else None


def write_tables(path: Path, head: str, groups: Sequence[Group], budgets: Mapping[str, int], study: Study) -> None:
    """Write the Markdown."""
    told = [
        f"{head}\n",
        "AUC and logloss of the test rows, mean ± standard deviation over seeds; bytes of all of `tables.bin`.\n",
        budget_table(groups, budgets),
        "What is one run has the other's deviation in its standard error. CPU seconds are user's and system's of a "
        "whole command, with one thread: its start, reading the rows and scoring them by the teacher included, the "
        "teacher's own training not.\n",
        cost_table(groups, study),
        single_table(groups),
        f"![AUC and logloss against bytes]({path.with_suffix('.svg').name})\n",
    ]
    path.write_text("\n".join(told))


def _seconds(group: Group | None) -> float | None:
    return _mean([run["seconds"] for run in group.runs]) if group else None


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _times(seconds: float | None, full: float | None) -> str:
    return f"{seconds / full:.2f}" if seconds and full else "-"


def _spread(group: Group | None, metric: str) -> str:
    if group is None:
        return "-"
    deviation = group.deviation(metric)
    return f"{group.mean(metric):.5f}" + (f" ± {deviation:.5f}" if deviation is not None else "")


def _in_errors(own: Group | None, best: Group | None) -> str:
    found = differ(own, best) if own and best else None
    return "-" if found is None else f"{found:+.1f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
