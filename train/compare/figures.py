"""The figures of a study: AUC and logloss against bytes, a line for each series, with error bars, as SVG."""

import io
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from ...protos.manifest import write_atomically
from .summary import METRICS, Entry, Summary

WORDS = {"auc": "test AUC", "logloss": "test logloss"}
MARKERS = "osD^vP*Xp<>h"


def draw_figures(summary: Summary, directory: Path) -> None:
    """Draw FACTOR.auc.svg and FACTOR.logloss.svg for each factor with a finished arm; the same bytes each time."""
    for factor, entries in summary.sections().items():
        for metric in METRICS:
            if shown := [entry for entry in entries if entry.sample("test", metric)]:
                drawn = _draw(f"{summary.title}: {factor}", shown, metric)
                write_atomically(directory / f"{factor}.{metric}.svg", drawn)


def _draw(title: str, entries: Sequence[Entry], metric: str) -> bytes:
    by_bytes = len({entry.fact("bytes") for entry in entries}) > 1
    several = len({entry.arm.series for entry in entries}) < len(entries)
    with mpl.rc_context({"svg.hashsalt": "quorem", "font.size": 9}):
        lines = by_bytes and several
        size = (8, 4.5) if lines else (8, 1.2 + 0.3 * len(entries))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title)
        (_draw_lines if lines else _draw_dots)(axes, entries, metric)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _draw_lines(axes: Axes, entries: Sequence[Entry], metric: str) -> None:
    """Metric against bytes: a line for each series, a labelled marker for each arm."""
    series = dict[str, list[Entry]]()
    for entry in entries:
        series.setdefault(entry.arm.series, []).append(entry)
    labelled = set[tuple[int, str]]()
    for number, (name, arms) in enumerate(series.items()):
        arms.sort(key=lambda entry: entry.fact("bytes"))
        places = [entry.fact("bytes") for entry in arms]
        means, deviations = zip(*(_spread(entry, metric) for entry in arms), strict=True)
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(places, means, deviations, marker=marker, capsize=3, linewidth=1, markersize=5, label=name)
        for entry, place, mean in zip(arms, places, means, strict=True):
            label = entry.arm.name.removeprefix(name).strip() or name
            if (place, label) not in labelled:  # "c=4" once, where several series have it at the same bytes
                labelled.add((place, label))
                axes.annotate(label, (place, mean), (4, 4), textcoords="offset points", fontsize=7, color="dimgray")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="embedding bytes (float32)", ylabel=WORDS[metric])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_dots(axes: Axes, entries: Sequence[Entry], metric: str) -> None:
    """Arms from top to bottom, the metric to the right: for arms of the same bytes, or without series."""
    places = range(len(entries))
    means, deviations = zip(*(_spread(entry, metric) for entry in entries), strict=True)
    axes.errorbar(means, places, xerr=deviations, marker="o", linestyle="none", capsize=3, markersize=5)
    for place, mean in zip(places, means, strict=True):
        axes.annotate(f"{mean:.4f}", (mean, place), (0, 5), textcoords="offset points", fontsize=7, ha="center")
    axes.set_yticks(places, [entry.arm.name for entry in entries])
    axes.margins(y=0.5 / len(entries))
    axes.invert_yaxis()
    axes.set(xlabel=WORDS[metric])
    axes.grid(axis="x", alpha=0.3)


def _spread(entry: Entry, metric: str) -> tuple[float, float]:
    """Mean and standard deviation of a metric; one run has no bar."""
    sample = entry.sample("test", metric)
    return statistics.fmean(sample), statistics.stdev(sample) if len(sample) > 1 else 0.0
