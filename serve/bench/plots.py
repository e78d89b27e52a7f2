"""Plots: what a bench measured, drawn for its page."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from .notes import rate
from .result import Cell, Result
from .svg import COLOURS, INK, inline, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import LineStyleType

RAMP = ("#2f9fd0", "#6b6ee8", "#c14fae", "#e0812f")  # from light load to heavy
STAGES = {"waiting for its turn": COLOURS[1], "in the model": COLOURS[0], "the rest": COLOURS[5]}
MOST = 8  # curves of a panel

Row = tuple[str, str, Cell]  # of a plot of bars: what it is called, its colour, what it tells


def percentiles(results: Sequence[Result]) -> str:
    """Latency at every percentile, from the histograms: a panel a load; of several results, a panel a cell."""
    shown = dict[str, list[tuple[str, str, Cell]]]()
    for place, result in enumerate(results):
        if len(results) > 1:
            for cell in _counted(result):
                shown.setdefault(cell.title, []).append(("", COLOURS[place % len(COLOURS)], cell))
            continue
        for load, cells in _by_load(_counted(result)).items():
            cells = _some(cells)
            shown[_a_call(load)] = [
                (_level(cell), colour, cell) for cell, colour in zip(cells, _ramp(len(cells)), strict=True)
            ]
    if not shown:
        return ""
    return inline("percentiles", "Latency at each percentile", lambda figure: _curves(figure, shown), len(shown))


def load(results: Sequence[Result]) -> str:
    """p50 and p99 against the rate, with the least and the greatest of the repeats: a panel a load."""
    loads = dict[str, list[tuple[int, list[Cell]]]]()
    for place, result in enumerate(results):
        for name, cells in _by_load([cell for cell in result.cells if cell.latency_us]).items():
            loads.setdefault(name, []).append((place, cells))
    loads = {name: series for name, series in loads.items() if any(len(cells) > 1 for _, cells in series)}
    if not loads:
        return ""
    bound = results[0].slo["bound_ms"] if len(results) == 1 and results[0].slo else None

    def draw(figure: "Figure") -> None:
        for axes, (name, series) in zip(panels(figure, len(loads)), loads.items(), strict=False):
            axes.set_title(_a_call(name))
            for place, cells in series:
                pair = (COLOURS[place % len(COLOURS)],) * 2 if len(results) > 1 else COLOURS[:2]
                _against_load(axes, cells, pair)
            if bound is not None:
                axes.axhline(bound, color=INK, linewidth=1, linestyle=(0, (4, 3)))
                axes.annotate(
                    f"bound {bound:g} ms", (1, bound), (-2, 3), ("axes fraction", "data"), "offset points", ha="right"
                )
            axes.set(xlabel="calls a second", xlim=(0, None))
            _milliseconds(axes)
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.margins(y=0.12)
        _lines(figure, {"p50": "-", "p99": "--"})

    return inline("load", "Latency against load", draw, len(loads))


def stages(results: Sequence[Result]) -> str:
    """Where the time of a mean call goes, in milliseconds and in shares."""
    rows = [row for row in _rows(results) if row[2].server.queue_us is not None or row[2].server.compute_us is not None]
    if not rows:
        return ""
    numbers = [f"  ({place})" if len(results) > 1 else "" for place in range(1, len(results) + 1)]
    noops = [(f"no-op{number}", each.noop) for number, each in zip(numbers, results, strict=True) if each.noop]
    rows = [*((name, INK, cell) for name, cell in noops if cell.latency_us), *rows]

    def draw(figure: "Figure") -> None:
        absolute, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for place, (_, _, cell) in enumerate(rows):
            mean, queue, compute = cell.latency_us["mean"], cell.server.queue_us or 0.0, cell.server.compute_us or 0.0
            left = 0.0
            for width, colour in zip((queue, compute, max(0.0, mean - queue - compute)), STAGES.values(), strict=True):
                absolute.barh(place, width / 1e3, 0.7, left / 1e3, color=colour)
                shares.barh(place, 100 * width / max(mean, queue + compute), 0.7, 100 * left / mean, color=colour)
                left += width
            absolute.annotate(
                f"{_told(left / 1e3)}", (left / 1e3, place), (4, 0), textcoords="offset points", va="center"
            )
        _name_rows((absolute, shares), rows)
        absolute.margins(x=0.12)
        absolute.set(xlabel="milliseconds, mean of a call")
        shares.set(xlabel="% of the call", xlim=(0, 100))
        _dots(figure, STAGES)

    return inline("stages", "Where the time of a call goes", draw, inches=(10, 1.5 + 0.26 * len(rows)))


def resources(results: Sequence[Result]) -> str:
    """What a call costs the server: processor time, and the memory it holds."""
    rows = [row for row in _rows(results) if row[2].server.cpu_us is not None or row[2].server.pss_bytes is not None]
    if not rows:
        return ""

    def draw(figure: "Figure") -> None:
        cpu, memory = figure.subplots(1, 2, sharey=True)
        for place, (_, colour, cell) in enumerate(rows):
            values = (cell.server.cpu_us, 1e3), (cell.server.pss_bytes, 1e6)
            for axes, (value, unit) in zip((cpu, memory), values, strict=True):
                if value is not None:
                    axes.barh(place, value / unit, 0.7, color=colour)
                    axes.annotate(
                        _told(value / unit), (value / unit, place), (4, 0), textcoords="offset points", va="center"
                    )
        _name_rows((cpu, memory), rows)
        cpu.margins(x=0.15)
        memory.margins(x=0.15)
        cpu.set(xlabel="processor milliseconds a call")
        memory.set(xlabel="MB, shared pages counted once")

    return inline("resources", "Processor time and memory of the server", draw, inches=(10, 1.1 + 0.26 * len(rows)))


def spark(cell: Cell) -> str:
    """The rates of a cell's windows, from nought up; the last three, which are the measurement, dotted."""
    top, step = max([*cell.windows, 1e-9]), 7
    dots = [(3 + step * place, round(17 - 14 * value / top, 1)) for place, value in enumerate(cell.windows)]
    line = " ".join(f"{x},{y}" for x, y in dots)
    marks = "".join(f'<circle cx="{x}" cy="{y}" r="2"/>' for x, y in dots[-3:])
    width = 6 + step * max(0, len(dots) - 1)
    told = escape(", ".join(rate(each) for each in cell.windows))
    return (
        f'<svg class="spark" width="{width}" height="20" viewBox="0 0 {width} 20" role="img" '
        f'aria-label="calls a second of each window: {told}"><polyline points="{line}"/>{marks}</svg>'
    )


def _curves(figure: "Figure", shown: dict[str, list[tuple[str, str, Cell]]]) -> None:
    """The abscissa is 1 / (1 - q), logarithmic: as much room from 99 % to 99.9 % as from 90 % to 99 %."""
    counts = [cell.answered for curves in shown.values() for _, _, cell in curves]
    nines = max(2, len(str(max(counts))) - 1)
    for axes, (name, curves) in zip(panels(figure, len(shown), sharey=True), shown.items(), strict=False):
        for label, colour, cell in curves:
            latencies = cell.latencies()
            total = latencies.get_total_count()
            odds = [10 ** (place / 25) for place in range(25 * len(str(total))) if 10 ** (place / 25) <= total]
            shares = [100 * (1 - 1 / each) for each in odds]
            found = latencies.get_percentile_to_value_dict(shares)
            axes.plot(odds, [found[share] / 1e6 for share in shares], color=colour, label=label, linewidth=1.6)
            for odd, values in ((2, [r.p50_us for r in cell.repeats]), (100, [r.p99_us for r in cell.repeats])):
                if len(values) > 1:
                    axes.plot([odd, odd], [min(values) / 1e3, max(values) / 1e3], color=colour, linewidth=4, alpha=0.45)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks([2, *(10**place for place in range(1, nines + 1))], _percents(nines))
        axes.set(xlim=(1, 10 ** (nines + 0.4)), xlabel="% of calls within")
        axes.set_title(name)
        _milliseconds(axes)
        if any(label for label, _, _ in curves):
            unit = "in flight" if curves[0][2].concurrency else "offered a second"
            axes.legend(loc="best", title=unit, ncols=2 if len(curves) > 4 else 1)


def _percents(nines: int) -> list[str]:
    return ["50", "90", "99", *(f"99.{'9' * place}" for place in range(1, nines - 1))]


def _against_load(axes: "Axes", cells: Sequence[Cell], colours: Sequence[str]) -> None:
    for share, colour, style in (("p50", colours[0], "o-"), ("p99", colours[1], "s--")):
        xs = [cell.offered or cell.rate for cell in cells]
        axes.plot(
            xs, [cell.latency_us[share] / 1e3 for cell in cells], style, color=colour, markersize=4, linewidth=1.4
        )
        for x, cell in zip(xs, cells, strict=True):
            values = [(each.p50_us if share == "p50" else each.p99_us) / 1e3 for each in cell.repeats]
            if len(values) > 1:
                axes.plot([x, x], [min(values), max(values)], color=colour, linewidth=4, alpha=0.45)
    for x, cell in zip(xs, cells, strict=True):
        if cell.concurrency:
            place = x, cell.latency_us["p50"] / 1e3
            axes.annotate(_level(cell), place, (0, -6), textcoords="offset points", ha="center", va="top", fontsize=8)


def _lines(figure: "Figure", styles: "dict[str, LineStyleType]") -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=INK, linestyle=each, linewidth=1.2) for each in styles.values()]
    figure.legend(handles, list(styles), loc="outside upper left", ncols=len(styles))


def _dots(figure: "Figure", colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    figure.legend([Patch(color=each) for each in colours.values()], list(colours), loc="outside upper left", ncols=3)


def _milliseconds(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="both", alpha=0.18, linewidth=0.7)
    place = axes.get_subplotspec()
    if place is None or place.is_first_col():
        axes.set_ylabel("milliseconds")


def _name_rows(pair: "Sequence[Axes]", rows: Sequence[Row]) -> None:
    pair[0].set_yticks(range(len(rows)), [name for name, _, _ in rows])
    pair[0].set_ylim(len(rows) - 0.4, -0.6)
    for axes in pair:
        axes.tick_params(axis="y", length=0)


def _rows(results: Sequence[Result]) -> Iterator[Row]:
    """Every cell that was answered; of several results, those of one title together and numbered."""
    drawable = [(place, cell) for place, result in enumerate(results) for cell in result.cells if cell.latency_us]
    titles = list(dict.fromkeys(cell.title for _, cell in drawable))
    for place, cell in sorted(drawable, key=lambda each: titles.index(each[1].title)):
        name = f"{cell.title}  ({place + 1})" if len(results) > 1 else cell.title
        yield name, COLOURS[place % len(COLOURS)], cell


def _by_load(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    found = dict[str, list[Cell]]()
    for cell in cells:
        found.setdefault(cell.load, []).append(cell)
    return found


def _counted(result: Result) -> list[Cell]:
    return [cell for cell in result.cells if cell.answered and cell.histogram]


def _some(cells: list[Cell]) -> list[Cell]:
    """At most MOST of them, the first and the last among them."""
    if len(cells) <= MOST:
        return cells
    return [cells[place * (len(cells) - 1) // (MOST - 1)] for place in range(MOST)]


def _a_call(load: str) -> str:
    return "1 row a call" if load == "1" else f"{load} rows a call"


def _level(cell: Cell) -> str:
    return str(cell.concurrency) if cell.concurrency else rate(cell.offered or 0)


def _told(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _ramp(count: int) -> list[str]:
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    ramp = LinearSegmentedColormap.from_list("load", RAMP)
    return [to_hex(ramp(place / max(1, count - 1))) for place in range(count)]
