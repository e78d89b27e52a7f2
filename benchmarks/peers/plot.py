"""The plot: rates and p99 of all servers, a panel for each number of rows, as one SVG."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#ef4444", "#6b7280", "#14b8a6")
MEASURES = {"rate": ("requests a second", 1.0), "p99_us": ("p99, ms", 1e3)}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Two rows of panels a mode; the same bytes for the same report."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    sizes = list(dict.fromkeys(cell["rows"] for mode in report["modes"] for cell in mode["cells"]))
    names = list(dict.fromkeys(cell["server"] for mode in report["modes"] for cell in mode["cells"]))
    lines = [(mode, measure) for mode in report["modes"] for measure in MEASURES]
    with mpl.rc_context({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(2.6 * len(sizes) + 0.6, 2.0 * len(lines) + 0.6), layout="constrained")
        grid = figure.subplots(len(lines), len(sizes), squeeze=False)
        for panels, (mode, measure) in zip(grid, lines, strict=True):
            for axes, rows in zip(panels, sizes, strict=True):
                _panel(axes, [cell for cell in mode["cells"] if cell["rows"] == rows], names, measure)
                axes.set_title(f"{rows} row{'s' * (rows > 1)}, {mode['name']}")
            panels[0].set_ylabel(MEASURES[measure][0])
        for axes in grid[-1]:
            axes.set_xlabel("calls in flight")
        known = [Patch(color=colour, label=name) for name, colour in zip(names, COLOURS, strict=False)]
        figure.legend(handles=known, loc="outside upper center", ncols=len(names), frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axes: "Axes", cells: list[dict[str, Any]], names: list[str], measure: str) -> None:
    """Rates as bars, latencies as points on a logarithmic axis; a whisker from the least to the greatest round."""
    flights = sorted({cell["in_flight"] for cell in cells})
    width, unit = 0.8 / len(names), MEASURES[measure][1]
    for place, name in enumerate(names):
        own = {cell["in_flight"]: cell for cell in cells if cell["server"] == name}
        at = [number + (place - (len(names) - 1) / 2) * width for number, each in enumerate(flights) if each in own]
        found = [[each[measure] / unit for each in own[flight]["rounds"]] for flight in flights if flight in own]
        heights = [own[flight][measure] / unit for flight in flights if flight in own]
        spans = [
            [max(0.0, height - min(each)) for height, each in zip(heights, found, strict=True)],
            [max(0.0, max(each) - height) for height, each in zip(heights, found, strict=True)],
        ]
        colour = COLOURS[place % len(COLOURS)]
        if measure == "rate":
            axes.bar(at, heights, width, color=colour, yerr=spans, error_kw={"lw": 0.7, "ecolor": "#111827"})
        else:
            axes.errorbar(at, heights, spans, color=colour, fmt="o", ms=4, lw=0.7)
    axes.set_xticks(range(len(flights)), [str(each) for each in flights])
    if measure != "rate":
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
