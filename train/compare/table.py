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
    "bytes",
    "full_bytes",
    "compression",
    "collisions",
    "tuned",
    "against",
    "seconds",
)


def to_markdown(summary: Summary) -> str:
    """The table for a reader. Only its last column, the seconds, differs when the same study is run again."""
    parts = [f"# {summary.title}"]
    for factor, entries in summary.sections().items():
        parts += [f"## {factor}", _section(entries)]
        if any(entry.sample("test", "auc") for entry in entries):
            parts.append(f"![test AUC]({factor}.auc.svg) ![test logloss]({factor}.logloss.svg)")
    if summary.failures:
        parts += ["## Failed runs", _failures(summary.failures)]
    return "\n\n".join([*parts, NOTES]) + "\n"


def to_csv(summary: Summary) -> str:
    """The table for a spreadsheet: a line for each factor and arm; `seconds` is the last column."""
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
            "parameters": _count(entry.fact("embedding_parameters")),
            "bytes": _count(entry.fact("bytes")),
            "compression": f"{_compression(entry):.1f}x" if entry.results else ABSENT,
            "colliding ids": _count(entry.fact("collisions")),
            "tuned to": _tuned(entry) or ABSENT,
            "test AUC against": "<br>".join(_comparisons(entry)) or ABSENT,
            "s a run": ABSENT if (seconds := entry.seconds()) is None else f"{seconds:.1f}",
        }
        for entry in entries
    ]
    optional = {"colliding ids", "tuned to", "test AUC against"}
    columns = [name for name in rows[0] if name not in optional or any(row[name] != ABSENT for row in rows)]
    left = {"arm", "tuned to", "test AUC against"}
    return _aligned(columns, [[row[name] for name in columns] for row in rows], [name in left for name in columns])


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
    facts = [entry.fact(name) for name in ("embedding_parameters", "bytes", "full_bytes")]
    return [
        entry.arm.name,
        entry.arm.series,
        len(entry.results),
        entry.wanted,
        *spreads,
        *facts,
        round(_compression(entry), 4) if entry.results else None,
        entry.fact("collisions"),
        _tuned(entry),
        "; ".join(_comparisons(entry)),
        None if (seconds := entry.seconds()) is None else round(seconds, 2),
    ]


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


def _count(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"


def _compression(entry: Entry) -> float:
    return entry.fact("full_bytes") / entry.fact("bytes")


def _tuned(entry: Entry) -> str:
    return ", ".join(f"{key}={written(value)}" for key, value in entry.tuned.items())


def _comparisons(entry: Entry) -> list[str]:
    return [f"{name}: {_difference(found['auc'])}" for name, found in entry.against.items()]


def _difference(found: Difference) -> str:
    bound = "" if found.bound is None else f" ± {found.bound:.5f}"
    return f"{found.mean:+.5f}{bound}, {found.verdict}"
