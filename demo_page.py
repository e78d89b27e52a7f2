"""The page of `quorem demo`: what was found, as one self-contained HTML file, and as a table for the terminal."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Findings = Mapping[str, Any]  # as demo.py gathers them, and demo.json holds them

NAMES = {"full": "full", "hash": "hashed", "qr": "quotient-remainder"}
COLOURS = {"full": "#5b8def", "hash": "#e0812f", "qr": "#22a06b"}  # told apart on white and on black
HEAD = ("tables", "MB", "AUC", "to best", "p50 ms", "p99 ms", "rows/s", "trained")
QUICK = "A quick demo: too few rows to tell the kinds of tables apart."
PERCENTILES = ("p50", "p90", "p99", "p99.9")
INK = "#010203"  # stands for the page's own text colour in a plot
WORDLESS = {"Creator": None, "Date": None, "Format": None, "Type": None}

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --quiet: #59636e; --paper: #fff; --line: #d5dae0; --card: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ec; --quiet: #99a3ae; --paper: #12161b; --line: #333b45; --card: #1a2027 }
}
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.9rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem }
p, li { max-width: 48rem } .quiet, figcaption, caption { color: var(--quiet); font-size: .9rem }
ul { padding-left: 1.2rem } li { margin: .35rem 0 }
figure { margin: 1rem 0; padding: 1rem; background: var(--card); border-radius: .6rem }
figure svg { display: block; width: 100%; height: auto } .narrow svg { max-width: 38rem; margin: auto }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; width: 100% }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 } th { font-weight: 600; color: var(--quiet) }
code { font: .85rem/1.5 ui-monospace, monospace } td code { white-space: pre-wrap; overflow-wrap: anywhere }
.steps td:last-child, .steps th:last-child { text-align: left; white-space: normal }
.note { border-left: 4px solid #e0812f; padding-left: .8rem }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em }
"""

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>quorem demo</title>
<style>$style</style>
</head>
<body>
<h1>quorem demo</h1>
<p class="quiet">One model with three kinds of embedding tables: trained, exported to ONNX, served over gRPC,
scored and measured.</p>
$note
<ul>$headlines</ul>

<h2>Quality against size</h2>
<figure class="narrow">$quality
<figcaption>AUC on test rows that training never saw. The clicks are drawn from a planted model, so the best possible
AUC is known: that of the true probabilities.</figcaption></figure>
<div class="scroll">$compared</div>
<p class="quiet">MB are 10<sup>6</sup> bytes, of float32 tables. A hashed field has as many rows as both tables of a
quotient-remainder field together; small fields stay full in all three. Latencies are those of one row a call, one call
in flight; rows a second those of the heaviest load below. <em>To best</em>: what the AUC lacks of the best
possible.</p>

<h2>Latency</h2>
<figure>$latency
<figcaption>Percentiles of answered calls in a closed loop. The bench and the server share the machine's
cores.</figcaption></figure>
<div class="scroll">$measured</div>

<h2>Memory</h2>
<figure class="narrow">$memory
<figcaption>The file also holds the vocabularies, which no scheme compresses. All workers map it and share its pages,
so that one copy serves them all.</figcaption></figure>

<h2>How this page was made</h2>
<p>$machine</p>
<div class="scroll">$steps</div>
<p class="quiet">Peak memory is that of all processes of the demo together, shared pages counted once, sampled four
times a second. <code>demo.json</code> beside this page holds all numbers, <code>demo.log</code> what every command
said.</p>
</body>
</html>
""")


def render(found: Findings) -> str:
    """The page; plots are inline SVG, and nothing in it is loaded from elsewhere."""
    loads = [
        [_dot(name), *map(str, load), f"{cell['rate']:,.0f}", f"{cell['rows_per_s']:,.0f}"]
        + [f"{cell['latency_us'][share] / 1e3:.2f}" for share in PERCENTILES]
        for load in _loads(found)
        for name, cell in _cells(found, load)
    ]
    load_head = ["tables", "rows a call", "in flight", "calls/s", "rows/s", *(f"{share} ms" for share in PERCENTILES)]
    steps = [
        [escape(step["name"]), f"{step['seconds']:.1f} s", _size(step["peak_bytes"]), _code(step["command"])]
        for step in found["steps"]
    ]
    return PAGE.substitute(
        style=STYLE,
        note=f'<p class="note">{QUICK}</p>' if found["quick"] else "",
        headlines="".join(f"<li>{escape(sentence)}</li>\n" for sentence in _headlines(found)),
        quality=_svg(_draw_quality, found, (6.2, 3.3), "Test AUC against the size of the tables"),
        compared=_table(HEAD, [[_dot(name), *row] for name, row in _rows(found)]),
        latency=_svg(_draw_latency, found, (10, 3), "Latency percentiles of each model at each load"),
        measured=_table(load_head, loads),
        memory=_svg(_draw_memory, found, (6.2, 3), "Tables of each model: trained, on disk, held by the server"),
        machine=escape(_machine(found)),
        steps=_table(["step", "time", "peak memory", "command"], steps, "steps"),
    )


def show(found: Findings, console: Console) -> None:
    """Print the table of the three models, and the headlines."""
    table = Table(title="One model, three kinds of tables", box=SIMPLE_HEAD, collapse_padding=True)
    for position, name in enumerate(HEAD):
        table.add_column(name, justify="right" if position else "left")
    for name, row in _rows(found):
        table.add_row(NAMES[name], *row)
    console.print(table)
    for sentence in [*([QUICK] if found["quick"] else []), *_headlines(found)]:
        console.print(f"- {sentence}", markup=False)


def _rows(found: Findings) -> Iterator[tuple[str, list[str]]]:
    """Each model's name, and its row under HEAD but for the first column."""
    seconds = {step["name"]: step["seconds"] for step in found["steps"]}
    for name, model in found["models"].items():
        light, heavy = model["bench"][0], model["bench"][-1]
        yield (
            name,
            [
                f"{model['table_bytes'] / 1e6:.2f}",
                f"{model['auc']:.4f}",
                f"{model['auc'] - found['optimal_auc']:+.4f}",
                f"{light['latency_us']['p50'] / 1e3:.2f}",
                f"{light['latency_us']['p99'] / 1e3:.2f}",
                f"{heavy['rows_per_s']:,.0f}",
                f"{seconds[f'train {name}']:.0f} s",
            ],
        )


def _headlines(found: Findings) -> Iterator[str]:
    """What was found, in sentences."""
    models, server, cores = found["models"], found["server"], found["machine"]["cores"]
    full, hashed, qr = (models[name] for name in NAMES)
    light, many, heavy = qr["bench"][0], qr["bench"][-2], qr["bench"][-1]
    yield (
        f"Quotient-remainder holds the tables in {_size(qr['table_bytes'])} instead of {_size(full['table_bytes'])}: "
        f"{full['table_bytes'] / qr['table_bytes']:.1f} times smaller."
    )
    yield (
        f"Test AUC is {full['auc']:.4f} with full tables, {qr['auc']:.4f} with quotient-remainder and "
        f"{hashed['auc']:.4f} with hashing into as many bytes; the best possible is {found['optimal_auc']:.4f}."
    )
    if full["auc"] > qr["auc"] > hashed["auc"] and not found["quick"]:
        share = (qr["auc"] - hashed["auc"]) / (full["auc"] - hashed["auc"])
        yield f"Of what hashing loses against full tables, quotient-remainder wins {share:.0%} back, in the same bytes."
    yield (
        f"Served scores are those of training: {qr['rows_compared']:,} held-out rows for each model, relative "
        f"difference of logits at most {max(model['largest_difference'] for model in models.values()):.0e}."
    )
    yield (
        f"Quotient-remainder answers one row in {_ms(light, 'p50')} (p99 {_ms(light, 'p99')}) and {many['rows']} in "
        f"{_ms(many, 'p50')} (p99 {_ms(many, 'p99')}) with {many['concurrency']} call in flight, and scores "
        f"{heavy['rows_per_s']:,.0f} rows a second with {heavy['concurrency']}."
    )
    if server["bytes"]:
        memory = _size(server["bytes"])
        yield f"A supervisor and {server['workers']} workers serve all three models in {memory} of memory."
    minutes, seconds = divmod(round(found["seconds"]), 60)
    memory = f", and at most {found['peak_bytes'] / 1e9:.2f} GB of memory" if found["peak_bytes"] else ""
    yield f"The whole road took {minutes} min {seconds} s on {cores} cores{memory}."


def _machine(found: Findings) -> str:
    machine = found["machine"]
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB of memory" if machine["memory_bytes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores{memory}, {machine['system']}. {versions}."


def _draw_quality(figure: "Figure", found: Findings) -> None:
    axes, models = figure.subplots(), found["models"]
    best, lowest = found["optimal_auc"], min(model["auc"] for model in models.values())
    largest = max(model["table_bytes"] for model in models.values()) / 1e6
    axes.axhline(best, color=INK, linestyle=(0, (4, 3)), linewidth=1)
    axes.annotate(f"best possible {best:.4f}", (0, best), (4, -5), textcoords="offset points", va="top")
    for name, model in models.items():
        place = model["table_bytes"] / 1e6, model["auc"]
        axes.plot(*place, "o", color=COLOURS[name], markersize=10)
        offset, side = ((10, 0), "left") if place[0] < largest * 0.7 else ((-10, 0), "right")
        told = f"{NAMES[name]} {model['auc']:.4f}"
        axes.annotate(told, place, offset, textcoords="offset points", ha=side, va="center")
    margin = max(abs(best - lowest), 1e-3) * 0.12
    axes.set(xlim=(0, largest * 1.08), ylim=(lowest - margin, best + margin))
    axes.set(xlabel="embedding tables, MB", ylabel="test AUC")


def _draw_latency(figure: "Figure", found: Findings) -> None:
    loads = _loads(found)
    panels = figure.subplots(1, len(loads), sharey=True)
    for axes, (rows, calls) in zip(panels, loads, strict=True):
        for name, cell in _cells(found, (rows, calls)):
            values = [cell["latency_us"][share] / 1e3 for share in PERCENTILES]
            axes.plot(PERCENTILES, values, "o-", color=COLOURS[name], markersize=4, label=NAMES[name])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{rows} row{'s' * (rows > 1)} a call, {calls} in flight", fontsize=10)
        axes.tick_params(axis="x", labelsize=9)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(frameon=False, fontsize=9)


def _draw_memory(figure: "Figure", found: Findings) -> None:
    axes, models = figure.subplots(), found["models"]
    bars = {"table_bytes": "trained tables", "file_bytes": "tables.bin on disk"}
    if found["server"]["bytes"]:
        bars["resident_bytes"] = "held by all workers"
    for row, (name, model) in enumerate(models.items()):
        for position, (key, told) in enumerate(bars.items()):
            place, size = row + (position - 1) * 0.27, model[key] / 1e6
            axes.barh(place, size, 0.24, color=COLOURS[name], alpha=1 - 0.3 * position)
            axes.annotate(f"{size:.1f}  {told}", (size, place), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(models)), [NAMES[name] for name in models])
    axes.invert_yaxis()
    axes.set(xlabel="MB", xlim=(0, 1.45 * max(model["file_bytes"] for model in models.values()) / 1e6))


def _svg(draw: "Callable[[Figure, Findings], None]", found: Findings, inches: tuple[float, float], told: str) -> str:
    """What `draw` draws, as inline SVG in the page's own colours and letters; its ids are its own."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn, name = io.StringIO(), draw.__name__.rpartition("_")[2]
    with mpl.rc_context():
        for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
            mpl.rcParams[key] = INK
        mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name})
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure, found)
        figure.savefig(drawn, format="svg", transparent=True, metadata=WORDLESS)
    _, opening, body = re.split(r"<svg([^>]*)>", drawn.getvalue(), maxsplit=1)
    box = re.findall(r'viewBox="[^"]*"', opening)[0]
    body = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", body).replace(INK, "currentColor")
    body = re.sub(r'font: ([^;"]*px) [^;"]*', r"font: \1 system-ui, sans-serif", body)
    return f'<svg {box} role="img" aria-label="{escape(told)}">{body}'


def _loads(found: Findings) -> list[tuple[int, int]]:
    """Rows a call and calls in flight, of every bench."""
    return [(round(cell["rows"]), cell["concurrency"]) for cell in found["models"]["full"]["bench"]]


def _cells(found: Findings, load: tuple[int, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each model's name and its measurement at one load."""
    for name, model in found["models"].items():
        yield name, next(cell for cell in model["bench"] if (cell["rows"], cell["concurrency"]) == load)


def _ms(cell: Mapping[str, Any], share: str) -> str:
    return f"{cell['latency_us'][share] / 1e3:.2f} ms"


def _size(count: int) -> str:
    if not count:
        return "-"
    return f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"


def _dot(name: str) -> str:
    return f'<i style="background:{COLOURS[name]}"></i>{NAMES[name]}'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table of cells that are HTML already."""
    lines = [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    top = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead>\n<tbody>\n' + "\n".join(lines) + "\n</tbody></table>"
