"""The figures of a search: how probable each candidate became over time, and the dims that were chosen; as SVG.

Legend: N candidates of a field; T columns of a heat map.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, NullLocator

from ...protos.manifest import write_atomically

CHOICE, DIMS = "choice.svg", "dims.svg"
STYLE: Any = {"svg.hashsalt": "quorem", "font.size": 9, "axes.linewidth": 0.5}  # Any: matplotlib types it by version
COLUMNS = 400  # T: more than a screen tells apart would only make the file larger
TALL = 14  # fields below one another in one column; more stand in three
LABELLED = 8  # candidates whose dim is written beside their row
LONGEST = 24  # characters of a feature's name
ROW, LARGEST, GAP, CURVE = 0.11, 1.1, 0.1, 0.75  # inches: a candidate's row, a field at most, between, a curve
HEAD, FOOT, MARGIN = 0.6, 0.5, 0.6  # inches above and below all panels, and to the right of each
LETTER, SMALL = 0.075, 6  # inches a letter is wide; points of what is written beside rows
CURVES = {"tau": "temperature", "entropy": "mean entropy\n(nats)", "parameters": "expected\nparameters"}


def draw_choice(
    out: Path,
    fields: Sequence[str],
    candidates: Mapping[str, Sequence[int]],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Draw `choice.svg`: the probability of every candidate of every field over the search, and curves of the whole.

    Args:
        out: the directory to draw it in.
        fields: in the order in which they are shown.
        candidates: of each field its dims, rising.
        history: the lines of history.jsonl, at least one.
    """
    steps = np.array([record["step"] for record in history])
    moments = (np.arange(COLUMNS) + 0.5) * steps[-1] / COLUMNS
    told = [history[index]["probabilities"] for index in np.searchsorted(steps, moments)]
    heats = {name: np.array([each[name] for each in told]).T for name in fields}  # (N, T)
    top = max(heat.max() for heat in heats.values())
    columns = 1 if len(fields) <= TALL else 3
    rows = math.ceil(len(fields) / columns)
    tallest = [max(len(candidates[name]) for name in fields[row::rows]) for row in range(rows)]
    heights = [min(LARGEST, ROW * max(3, count)) for count in tallest] + [CURVE] * (len(CURVES) // columns)
    side = 0.45 + LETTER * max(12, *(len(short(name)) for name in fields))
    panel = 6.0 if columns == 1 else 3.0
    width = columns * (side + panel + MARGIN)
    height = HEAD + sum(heights) + GAP * (len(heights) - 1) + FOOT
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        grid = GridSpec(
            len(heights),
            columns,
            figure,
            left=side / width,
            right=1 - MARGIN / width,
            top=1 - HEAD / height,
            bottom=FOOT / height,
            hspace=GAP * len(heights) / sum(heights),
            wspace=(side + MARGIN) / panel,
            height_ratios=heights,
        )
        for number, name in enumerate(fields):
            column, row = divmod(number, rows)
            axes = figure.add_subplot(grid[row, column])
            _draw_field(axes, name, candidates[name], heats[name], steps[-1], top, history[-1]["probabilities"][name])
        for number, key in enumerate(CURVES):
            column, row = (0, rows + number) if columns == 1 else (number, rows)
            axes = figure.add_subplot(grid[row, column])
            _draw_curve(axes, key, history)
            if row == len(heights) - 1:
                axes.set_xlabel("batches of training")
            else:
                axes.xaxis.set_major_formatter(NullFormatter())
        _draw_key(figure, top, width, height, side)
        write_figure(figure, out / CHOICE)


def _draw_field(
    axes: Axes, name: str, dims: Sequence[int], heat: np.ndarray, end: int, top: float, last: Sequence[float]
) -> None:
    """A field's candidates from the narrowest up, time to the right; beside it the winner and its probability."""
    count = len(dims)
    axes.imshow(
        heat,
        "Blues",
        aspect="auto",
        origin="lower",
        extent=(0, end, -0.5, count - 0.5),
        interpolation="none",
        vmin=0,
        vmax=top,
    )
    shown = range(0, count, math.ceil(count / LABELLED))
    axes.set_yticks(shown, [str(dims[place]) for place in shown], fontsize=SMALL)
    axes.tick_params(axis="y", length=0, pad=2)
    axes.xaxis.set_major_locator(NullLocator())
    axes.set_ylabel(short(name), rotation=0, ha="right", va="center", fontsize=8, labelpad=8)
    best = int(np.argmax(last))
    axes.text(1.01, 0.5, f"{dims[best]}", transform=axes.transAxes, va="bottom", fontsize=8, weight="bold")
    axes.text(1.01, 0.45, f"{last[best]:.0%}", transform=axes.transAxes, va="top", fontsize=SMALL, color="dimgray")


def _draw_curve(axes: Axes, key: str, history: Sequence[Mapping[str, Any]]) -> None:
    """One number of the whole over the same time."""
    steps, values = zip(*((record["step"], record[key]) for record in history), strict=True)
    axes.plot(steps, values, color="tab:orange", linewidth=1.2)
    axes.set(xlim=(0, steps[-1]), ylim=(0, 1.15 * max(*values, 1e-9)))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    if key == "parameters":
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=SMALL + 1, width=0.5)
    axes.grid(alpha=0.3)
    axes.set_ylabel(CURVES[key], rotation=0, ha="right", va="center", fontsize=8)


def _draw_key(figure: Figure, top: float, width: float, height: float, side: float) -> None:
    """What the colours mean, above the panels."""
    axes = figure.add_axes((side / width, 1 - 0.28 / height, 1.6 / width, 0.1 / height))
    figure.colorbar(ScalarMappable(Normalize(0, top), "Blues"), axes, orientation="horizontal", ticks=[0, top])
    axes.set_xticklabels(["0", f"{top:.0%}"], fontsize=SMALL)
    axes.tick_params(length=0, pad=2)
    figure.text((side + 1.7) / width, 1 - 0.23 / height, "probability of a dim", va="center", fontsize=8)


def draw_dims(
    out: Path,
    fields: Sequence[str],
    cardinalities: Mapping[str, int],
    dims: Mapping[str, int],
    candidates: Mapping[str, Sequence[int]],
) -> None:
    """Draw `dims.svg`: the chosen dim of every field among its candidates, and how many ids the field has.

    Args:
        out: the directory to draw it in.
        fields: in the order in which they are shown.
        cardinalities: how many ids each field has.
        dims: the chosen ones.
        candidates: dims that a field could have had; none where any could.
    """
    places = range(len(fields))
    side = 0.2 + LETTER * max(len(short(name)) for name in fields)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.5 + side, 0.9 + 0.24 * len(fields)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        for place, name in zip(places, fields, strict=True):
            others = candidates.get(name, ())
            left.plot(
                others, [place] * len(others), linestyle="none", marker="|", color="silver", markersize=7, zorder=0
            )
        chosen = [dims[name] for name in fields]
        bars = left.barh(places, chosen, 0.6, color="tab:blue")
        over = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        left.bar_label(bars, padding=3, fontsize=8, weight="bold", bbox=over)
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(xlabel="dimension", xlim=(0, 1.08 * max([*chosen, *(d for c in candidates.values() for d in c)])))
        left.set_yticks(places, [short(name) for name in fields])
        left.set_ylim(len(fields) - 0.4, -0.6)
        counts = [cardinalities[name] for name in fields]
        bars = right.barh(places, counts, 0.6, color="lightsteelblue")
        right.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
        right.set(xlabel="ids", xscale="log", xlim=(0.8, 60 * max(counts)))
        right.xaxis.set_major_formatter(EngFormatter(sep=""))
        right.xaxis.set_minor_locator(NullLocator())
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.spines[["top", "right"]].set_visible(False)
        write_figure(figure, out / DIMS)


def short(name: str) -> str:
    """A feature's name for a label: cut where it is long, its dollars no formula."""
    cut = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return cut.replace("$", r"\$")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG: the same one gives the same bytes."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a feature's name may be in any script
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_atomically(path, drawn.getvalue())
