"""The figure: AUC and logloss against bytes, a curve for each method, with error bars over seeds, as SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .gather import Group
from .steps import ALONE, FULL, SEARCHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2563eb", "#93b4f5", "#111827", "#f59e0b", "#10b981", "#8b5cf6", "#ef4444", "#6b7280")
MARKERS = "osD^vP*X"
FIRST = (SEARCHED, ALONE, FULL)
METRICS = {"auc": "test AUC", "logloss": "test logloss"}


def draw(groups: Sequence[Group], path: Path) -> None:
    """Two panels; the same bytes for the same runs."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    arms = [*FIRST, *dict.fromkeys(group.arm for group in groups if group.arm not in FIRST)]
    with mpl.rc_context({"svg.hashsalt": "budget", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        panels = figure.subplots(1, len(METRICS))
        for axes, (metric, words) in zip(panels, METRICS.items(), strict=True):
            for number, arm in enumerate(arms):
                own = sorted((group for group in groups if group.arm == arm), key=lambda group: group.bytes)
                if own:
                    _curve(axes, own, metric, number)
            _finish(axes, words)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _curve(axes: "Axes", groups: Sequence[Group], metric: str, number: int) -> None:
    places, means = [group.bytes for group in groups], [group.mean(metric) for group in groups]
    bars = [group.deviation(metric) or 0.0 for group in groups]
    axes.errorbar(
        places,
        means,
        bars,
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        capsize=3,
        linewidth=1.2,
        markersize=4.5,
        label=groups[0].arm,
        zorder=3 if groups[0].arm == SEARCHED else 2,
    )
    if groups[0].arm == FULL:
        axes.axhline(means[0], color=COLOURS[number], linewidth=0.7, linestyle=":")


def _finish(axes: "Axes", words: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="bytes of tables.bin", ylabel=words)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
