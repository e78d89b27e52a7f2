"""The table of a study: one section a factor, as Markdown for a reader and as CSV for a spreadsheet."""

import csv
import io
import statistics
from collections.abc import Sequence

from .noise import Difference, Sample
from .study_file import written
from .summary import Entry, Failure, Summary

ABSENT = "-"
NOTES = """\
Means ± standard deviations over seeds, of the best epoch by validation AUC. Bytes are those of float32 embedding
tables and of classes, without first-order tables; compression is against full tables. Differences are of test AUC, ±
the 95 % interval of Welch's t-test; *pooled*: one of the two arms has a single run, and the noise is that of the
study's arms with several on the same rows. One in twenty verdicts on arms that do not differ is chance."""
SEARCH_NOTES = """\
The plan of a searched arm is found anew for each seed, and its compression is against full tables of the widest
candidate's dim. Alike: the mean Pearson correlation of the dims that pairs of seeds find."""
COLUMNS = (
    "factor",
    "arm",
    "series",
    "runs",
    "wanted",
    "test_auc",
    "test_auc_sd",
    "test_logloss",
    "test_logloss_sd",
    "valid_auc",
    "valid_auc_sd",
    "embedding_parameters",
    "embedding_parameters_sd",
    "bytes",
    "full_bytes",
    "compression",
    "collisions",
    "tuned",
    "against",
    "alike",
    "search_seconds",
    "seconds",
)


def to_markdown(summary: Summary) -> str:
    """The table for a reader. Only its last columns, of seconds, differ when the same study is run again."""
    parts = [f"# {summary.title}"]
    for factor, entries in summary.sections().items():
        parts += [f"## {factor}", _section(entries), *_stabilities(entries)]
        if any(entry.sample("test", "auc") for entry in entries):
            parts.append(f"![test AUC]({factor}.auc.svg) ![test logloss]({factor}.logloss.svg)")
    if summary.failures:
        parts += ["## Failed runs", _failures(summary.failures)]
    searched = any(entry.searches for entry in summary.entries)
    return "\n\n".join([*parts, NOTES, *([SEARCH_NOTES] if searched else [])]) + "\n"


def to_csv(summary: Summary) -> str:
    """The table for a spreadsheet: a line for each factor and arm; seconds are the last columns."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(COLUMNS)
    for factor, entries in summary.sections().items():
        for entry in entries:
            lines.writerow([factor, *_numbers(entry)])
    return out.getvalue()


def _section(entries: Sequence[Entry]) -> str:
    rows = [
        {
            "arm": entry.arm.name,
            "runs": _runs(entry),
            "test AUC": _spread(entry.sample("test", "auc")),
            "test logloss": _spread(entry.sample("test", "logloss")),
            "valid AUC": _spread(entry.sample("valid", "auc")),
            "parameters": _count(entry.facts("embedding_parameters")),
            "bytes": _count(entry.facts("bytes")),
            "compression": ABSENT if (times := _compression(entry)) is None else f"{times:.1f}x",
            "colliding ids": _count(entry.facts("collisions")),
            "tuned to": _tuned(entry) or ABSENT,
            "test AUC against": "<br>".join(_comparisons(entry)) or ABSENT,
            "s a search": _seconds(entry.search_seconds()),
            "s a run": _seconds(entry.seconds()),
        }
        for entry in entries
    ]
    optional = {"colliding ids", "tuned to", "test AUC against", "s a search"}
    columns = [name for name in rows[0] if name not in optional or any(row[name] != ABSENT for row in rows)]
    left = {"arm", "tuned to", "test AUC against"}
    return _aligned(columns, [[row[name] for name in columns] for row in rows], [name in left for name in columns])


def _stabilities(entries: Sequence[Entry]) -> list[str]:
    """How alike the dims are that the seeds of searched arms find; nothing where no arm has several."""
    told = [f"{entry.arm.name} {alike:.3f}" for entry in entries if (alike := entry.stability()) is not None]
    return [f"Dims alike over seeds: {'; '.join(told)}."] if told else []


def _failures(failures: Sequence[Failure]) -> str:
    rows = [[failure.arm, str(failure.seed), failure.why] for failure in failures]
    return _aligned(["arm", "seed", "why"], rows, [True, False, True])


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """A Markdown table whose columns line up in a terminal too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [
        ":" + "-" * (width - 1) if side else "-" * (width - 1) + ":" for width, side in zip(widths, left, strict=True)
    ]
    lines = [
        [cell.ljust(width) if side else cell.rjust(width) for cell, width, side in zip(row, widths, left, strict=True)]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _numbers(entry: Entry) -> list[object]:
    spreads = [
        number
        for split, metric in (("test", "auc"), ("test", "logloss"), ("valid", "auc"))
        for number in _mean_and_sd(entry.sample(split, metric))
    ]
    facts = [_rounded(entry.fact(name), 2) for name in ("bytes", "full_bytes")]
    return [
        entry.arm.name,
        entry.arm.series,
        len(entry.results),
        entry.wanted,
        *spreads,
        *_mean_and_sd(entry.facts("embedding_parameters")),
        *facts,
        _rounded(_compression(entry), 4),
        _rounded(entry.fact("collisions"), 2),
        _tuned(entry),
        "; ".join(_comparisons(entry)),
        _rounded(entry.stability(), 4),
        _rounded(entry.search_seconds(), 2),
        _rounded(entry.seconds(), 2),
    ]


def _rounded(number: float | None, digits: int) -> float | None:
    return number if number is None or isinstance(number, int) else round(number, digits)


def _mean_and_sd(sample: Sample) -> tuple[float | None, float | None]:
    mean = round(statistics.fmean(sample), 8) if sample else None
    return mean, round(statistics.stdev(sample), 8) if len(sample) > 1 else None


def _runs(entry: Entry) -> str:
    done = len(entry.results)
    return str(done) if done == entry.wanted else f"{done} of {entry.wanted}"


def _spread(sample: Sample) -> str:
    if not sample:
        return ABSENT
    return f"{statistics.fmean(sample):.5f}" + (f" ± {statistics.stdev(sample):.5f}" if len(sample) > 1 else "")


def _count(numbers: Sequence[int]) -> str:
    """What all seeds have, or their mean and deviation, where each has a plan of its own."""
    if len(set(numbers)) > 1:
        return f"{statistics.fmean(numbers):,.0f} ± {statistics.stdev(numbers):,.0f}"
    return f"{numbers[0]:,}" if numbers else ABSENT


def _seconds(seconds: float | None) -> str:
    return ABSENT if seconds is None else f"{seconds:.1f}"


def _compression(entry: Entry) -> float | None:
    full, held = entry.fact("full_bytes"), entry.fact("bytes")
    return full / held if full is not None and held else None


def _tuned(entry: Entry) -> str:
    return ", ".join(f"{key}={written(value)}" for key, value in entry.tuned.items())


def _comparisons(entry: Entry) -> list[str]:
    return [f"{name}: {_difference(found['auc'])}" for name, found in entry.against.items()]


def _difference(found: Difference) -> str:
    bound = "" if found.bound is None else f" ± {found.bound:.5f}"
    return f"{found.mean:+.5f}{bound}, {found.verdict}"
