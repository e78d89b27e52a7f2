"""SVG: a matplotlib figure as a part of a page, in the page's own colours and letters."""

import io
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#5b8def", "#e0812f", "#22a06b", "#b565d8", "#d9534f", "#8a94a0")  # told apart on white and on black
INK = "#010203"  # stands for the page's own text colour
WORDLESS = {"Creator": None, "Date": None, "Format": None, "Type": None}


def inline(
    name: str,
    told: str,
    draw: "Callable[[Figure], None]",
    count: int = 1,
    inches: tuple[float, float] | None = None,
) -> str:
    """What `draw` draws, the same bytes whenever it draws the same; its ids are its own.

    Args:
        name: of the drawing, once in a page.
        told: the drawing in a few words, for who cannot see it.
        draw: puts it on a figure.
        count: of `panels` that it has, which give it its size.
        inches: its size where it has no such panels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    written = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user's would make another page
        for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
            mpl.rcParams[key] = INK
        mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
        mpl.rcParams.update({"font.size": 9, "legend.frameon": False, "legend.fontsize": 8, "legend.title_fontsize": 8})
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False})
        size = inches or (10 if count > 1 else 6.4, 0.4 + 2.9 * -(-count // 3))
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(written, format="svg", transparent=True, metadata=WORDLESS)
    _, opening, body = re.split(r"<svg([^>]*)>", written.getvalue(), maxsplit=1)
    box = re.findall(r'viewBox="[^"]*"', opening)[0]
    body = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", body).replace(INK, "currentColor")
    body = re.sub(r'font: ([^;"]*px) [^;"]*', r"font: \1 system-ui, sans-serif", body)
    narrow = ' class="narrow"' if inches is None and count == 1 else ""
    return f'<svg{narrow} {box} role="img" aria-label="{escape(told)}">{body}'


def panels(figure: "Figure", count: int, sharey: bool = False) -> "Iterator[Axes]":
    """Axes in rows of three; those that are not needed are not seen."""
    columns = min(3, count)
    grid = figure.subplots(-(-count // columns), columns, sharey=sharey, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < count:
            yield axes
        else:
            axes.set_visible(False)
