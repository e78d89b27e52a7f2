"""The figures of a budget search: what each field has of the bytes; metrics against bytes of budgets; as SVG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from ...protos import budget
from ...protos import manifest_pb2 as pb
from ..search.config import FLOAT
from ..search.figures import LETTER, SMALL, STYLE, short, write_figure

MAP, PARETO = "map.svg", "pareto.svg"
COLOURS = {
    pb.FULL: "tab:blue",
    pb.QUOTIENT_REMAINDER: "tab:orange",
    pb.MIXED_RADIX: "tab:green",
    pb.CHINESE_REMAINDER: "tab:purple",
    pb.SEMANTIC: "tab:brown",
    pb.HASHED: "tab:gray",
}
WORDS = {"auc": "validation AUC", "logloss": "validation logloss"}
TALL = 0.8  # of a row: a vector of the most bits
SHOWN = 4  # tables of a field whose rows are told
ROW, HEAD = 0.26, 1.2  # inches: a field, and all that stands above and below


def draw_map(out: Path, made: pb.Plan, search: pb.Search) -> None:
    """Draw `map.svg`: of each field a vector, as long as its dim and as tall as its bits; its tables; its bytes.

    Args:
        out: the directory to draw it in.
        made: a budget's plan.
        search: what is told of it.
    """
    choices = {choice.feature: choice for choice in search.choices}
    terms = {field.feature: field for field in made.first_order}
    tables = {field.feature: field for field in made.fields}
    fields = [tables[feature.name] for feature in search.schema.features if feature.name in tables]
    places, names = range(len(fields)), [short(field.feature) for field in fields]
    side = 0.2 + LETTER * max(map(len, names))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5 + side, HEAD + ROW * len(fields)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        _draw_vectors(left, fields, [choices[field.feature] for field in fields])
        left.set_yticks(places, names)
        left.set_ylim(len(fields) - 0.4, -0.6)
        held = [budget.field_bytes(field, terms) for field in fields]
        bars = right.barh(places, held, 0.6, color=[COLOURS[field.scheme] for field in fields])
        told = [f"{each:,}  {each / search.budget.taken:.1%}" for each in held]
        right.bar_label(bars, told, padding=3, fontsize=8)
        right.set(xlabel="bytes of its tables", xlim=(0, 1.45 * max(held)))
        right.xaxis.set_major_formatter(EngFormatter(sep=""))
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.spines[["top", "right"]].set_visible(False)
        schemes = [scheme for scheme in COLOURS if any(field.scheme == scheme for field in fields)]
        words = [pb.Scheme.Name(scheme).lower().replace("_", " ") for scheme in schemes]
        keys = [Patch(color=COLOURS[scheme], label=word) for scheme, word in zip(schemes, words, strict=True)]
        figure.legend(handles=keys, loc="outside upper right", ncols=len(keys), frameon=False, fontsize=8)
        asked = f"{search.budget.asked}: {search.budget.taken:,} of {search.budget.bytes:,} bytes"
        figure.suptitle(asked, x=0.01, ha="left", fontsize=10)
        write_figure(figure, out / MAP)


def _draw_vectors(axes: Axes, fields: Sequence[pb.Field], choices: Sequence[pb.Choice]) -> None:
    """A rectangle a field, in a frame of the widest dim and the most bits that were measured; beside it the rows."""
    widths = [max(choice.candidates) for choice in choices]
    deepest = [max(option.bits or FLOAT for option in choice.options) for choice in choices]
    widest, most = max(widths), max(deepest)
    for place, (field, choice, width, depth) in enumerate(zip(fields, choices, widths, deepest, strict=True)):
        bits = field.tables[0].bits or FLOAT
        for dim, tall, style in (
            (width, depth, {"facecolor": "none", "edgecolor": "silver", "linewidth": 0.5}),
            (choice.dim, bits, {"color": COLOURS[field.scheme], "linewidth": 0}),
        ):
            height = TALL * tall / most
            axes.add_patch(Rectangle((0, place + TALL / 2 - height), dim, height, **style))
        rows = "+".join(f"{table.rows:,}" for table in field.tables[:SHOWN])
        more = "+…" if len(field.tables) > SHOWN else ""
        axes.text(1.03 * widest, place, f"{choice.dim} x {bits} bit", va="center", fontsize=8, weight="bold")
        axes.text(1.38 * widest, place, f"{rows}{more} rows", va="center", fontsize=SMALL + 1, color="dimgray")
    axes.set_xticks(sorted({0, *widths, *(choice.dim for choice in choices)}))
    axes.tick_params(axis="x", labelsize=SMALL + 1)
    axes.spines["bottom"].set_bounds(0, widest)
    axes.set_xlabel("dimension, as long; bits, as tall", loc="left")
    axes.set_xlim(0, 2 * widest)


def draw_pareto(out: Path, found: Sequence[pb.Search]) -> None:
    """Draw `pareto.svg`: AUC and logloss of each budget's plan on validation rows, as tried, against its bytes.

    Args:
        out: the directory to draw it in.
        found: what the searches of the budgets tell, by falling budgets.
    """
    taken, asked = [each.budget.taken for each in found], [each.budget.asked for each in found]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for axes, (metric, words) in zip(figure.subplots(1, 2), WORDS.items(), strict=True):
            values = [each.valid_metrics[metric] for each in found]
            axes.plot(taken, values, marker="o", markersize=4, linewidth=1)
            for place, value, text in zip(taken, values, asked, strict=True):
                axes.annotate(text, (place, value), (4, 4), textcoords="offset points", fontsize=8, color="dimgray")
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter("B"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set(xlabel="bytes of tables.bin", ylabel=words)
            axes.margins(x=0.12, y=0.15)
            axes.grid(alpha=0.3)
        write_figure(figure, out / PARETO)
