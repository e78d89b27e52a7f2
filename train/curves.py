"""The curves of several runs: loss, training AUC and validation AUC, against steps and seconds, in one picture."""

import argparse
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..protos.errors import QuoremError
from ..protos.manifest import write_atomically
from .record import Line, read_record, steps, validations

COLOURS = ("#5b8def", "#e0812f", "#22a06b", "#b565d8", "#d9534f", "#8a94a0")  # told apart on white and on black
STYLES = ("-", "--", ":", "-.")  # of the seventh run on, the next one
INK, PAPER = {False: "#1f2328", True: "#e6e9ee"}, {False: "#ffffff", True: "#14171c"}  # by whether it is dark
STAND_IN = "#010203"  # for the reader's own colour of text
SUFFIXES = (".svg", ".png", ".html")
AGAINST = {"step": "steps", "seconds": "seconds"}
PANELS = ("loss", "training AUC", "validation AUC")


@dataclass(frozen=True)
class Run:
    """One run's record, under the shortest name that tells it from the others."""

    name: str
    path: Path
    lines: Sequence[Line]

    def facts(self) -> dict[str, Any]:
        """How far it has come, and its best epoch; None before the first validation."""
        last, best = self.lines[-1], max(validations(self.lines), key=lambda line: line["auc"], default=None)
        facts: dict[str, Any] = {
            "run": str(self.path),
            **{key: last[key] for key in ("step", "epoch", "rows", "seconds")},
        }
        return facts | {"best_auc": best and best["auc"], "best_epoch": best and best["epoch"]}


def main(args: argparse.Namespace) -> int:
    """Run `quorem plot`; returns the exit code.

    Raises:
        QuoremError: a file of another kind; a run without metrics.
    """
    out: Path = args.out
    if out.suffix not in SUFFIXES:
        raise QuoremError(
            f"a plot is a file of kind {', '.join(SUFFIXES)}", found=f"{out.name!r}", where="--out", remedy="Rename it"
        )
    runs = [Run(name, path, read_record(path)) for name, path in zip(names_of(args.runs), args.runs, strict=True)]
    if out.suffix == ".png":
        drawn = _saved(runs, "png", INK[args.dark], PAPER[args.dark])
    elif out.suffix == ".svg":
        drawn = _themed(runs)
    else:
        drawn = _page(runs)
    write_atomically(out, drawn)
    if args.json:
        print(json.dumps({"out": str(out), "runs": [run.facts() for run in runs]}))
    return 0


def names_of(paths: Sequence[Path]) -> list[str]:
    """For each path the fewest of its last parts that no other path ends in."""
    parts = [path.absolute().parts for path in paths]
    names = list[str]()
    for own in parts:
        others = [other for other in parts if other != own]
        few = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names.append("/".join(own[-few:]))
    return names


def draw(figure: Figure, runs: Sequence[Run]) -> None:
    """Draw two rows of three panels, one row against steps and one against seconds."""
    grid = figure.subplots(len(AGAINST), len(PANELS), sharex="row", sharey="col")
    for row, (key, words) in zip(grid, AGAINST.items(), strict=True):
        for number, run in enumerate(runs):
            style: dict[str, Any] = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
            }
            _draw_training(row[0], run, key, "loss", style)
            _draw_training(row[1], run, key, "auc", style)
            valid = validations(run.lines)
            places = [line[key] for line in valid]
            row[0].plot(
                places, [_number(line["logloss"]) for line in valid], marker="o", markersize=3.5, **style, alpha=0.55
            )
            row[2].plot(
                places, [_number(line["auc"]) for line in valid], marker="o", markersize=3.5, linewidth=1.4, **style
            )
        for axes, name in zip(row, PANELS, strict=True):
            axes.set(xlabel=words, ylabel=name)
            if key == "step":
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.grid(alpha=0.18, linewidth=0.7)
            axes.margins(x=0.03)
            axes.set_xlim(left=0)
    grid[0][0].set_title("line: training, dots: validation", fontsize=8, loc="left")
    handles = [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], linestyle=STYLES[n // len(COLOURS) % len(STYLES)], linewidth=2)
        for n in range(len(runs))
    ]
    figure.legend(handles, [run.name for run in runs], loc="outside upper left", ncols=min(4, len(runs)))


def _draw_training(axes: Axes, run: Run, key: str, name: str, style: Mapping[str, Any]) -> None:
    """A number of the epoch so far: the line breaks where an epoch begins."""
    xs, ys, epoch = list[float](), list[float](), 0
    for line in steps(run.lines):
        if line["epoch"] != epoch:
            xs, ys, epoch = [*xs, math.nan], [*ys, math.nan], line["epoch"]
        xs.append(line[key])
        ys.append(_number(line[name]))
    axes.plot(xs, ys, linewidth=1.4, **style)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _saved(runs: Sequence[Run], kind: str, ink: str, paper: str | None) -> bytes:
    """The picture; without paper it is transparent. The same records give the same bytes."""
    written = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user's would make another picture
        for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"):
            mpl.rcParams[key] = ink
        mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none"})
        mpl.rcParams.update({"font.size": 9, "legend.frameon": False, "svg.hashsalt": "quorem", "svg.fonttype": "none"})
        mpl.rcParams["text.parse_math"] = False  # a run's name may hold dollars
        figure = Figure(figsize=(11, 6.2 + 0.22 * ((len(runs) - 1) // 4)), layout="constrained")
        draw(figure, runs)
        told = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(written, format=kind, dpi=150, metadata=told, facecolor=paper or "none")
    return written.getvalue()


def _svg(runs: Sequence[Run]) -> str:
    """The element `svg` alone, its text and axes in the reader's colour."""
    text = _saved(runs, "svg", STAND_IN, None).decode()
    text = text[text.index("<svg") :].replace(STAND_IN, "currentColor")
    return re.sub(r'font: ([^;"]*px) [^;"]*', r"font: \1 system-ui, sans-serif", text)


def _themed(runs: Sequence[Run]) -> bytes:
    light, dark = (f"svg{{color:{INK[each]};background:{PAPER[each]}}}" for each in (False, True))
    style = f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>"
    whole = re.sub(r"(<svg[^>]*>)", lambda found: found[1] + style, _svg(runs), count=1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{whole}'.encode()


def _page(runs: Sequence[Run]) -> bytes:
    """One file: the picture, and a table of the runs."""
    light, dark = (f"body{{color:{INK[each]};background:{PAPER[each]}}}" for each in (False, True))
    heads = ("run", "epochs", "steps", "rows", "seconds", "best validation AUC", "in epoch")
    rows = list[str]()
    for number, run in enumerate(runs):
        facts = run.facts()
        auc = "" if facts["best_auc"] is None else f"{facts['best_auc']:.5f}"
        cells = [f"{facts[key]:,}" for key in ("epoch", "step", "rows")] + [f"{facts['seconds']:,.1f}", auc]
        cells.append(str(facts["best_epoch"] or ""))
        dot = f'<b style="color:{COLOURS[number % len(COLOURS)]}">&#9679;</b> {escape(run.name)}'
        rows.append(f"<tr><th>{dot}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Learning curves</title><style>'
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
        "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}"
        "svg{width:100%;height:auto}table{border-collapse:collapse}"
        "th,td{padding:.25rem .8rem;text-align:right}th:first-child{text-align:left}"
        "</style></head><body><h1>Learning curves</h1>"
        f"{_svg(runs)}<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></body></html>\n"
    ).encode()
