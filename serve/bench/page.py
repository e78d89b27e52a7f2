"""The page of a bench: one self-contained HTML file of one result, or of several side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from string import Template
from typing import TYPE_CHECKING, Any

from . import plots
from .notes import headlines, late_share, ms, names, rate, spread, title, warnings
from .result import PERCENTILES, Cell, Result
from .svg import COLOURS

if TYPE_CHECKING:
    from .compare import Comparison, Ratio

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --quiet: #59636e; --paper: #fff; --line: #d5dae0; --card: #f5f7f9;
  --warn: #fff4e5; --bad: #c0392b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ec; --quiet: #99a3ae; --paper: #12161b; --line: #333b45; --card: #1a2027;
    --warn: #2b2216; --bad: #ff8a7a }
}
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }
h1 { font-size: 1.9rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem } h3 + ul { margin: 0 }
h1, h3, p, li, dd { overflow-wrap: anywhere } p, li, figcaption { max-width: 50rem }
.quiet, figcaption { color: var(--quiet); font-size: .9rem }
ul { padding-left: 1.2rem } li { margin: .35rem 0 }
.warn { background: var(--warn); border-left: 4px solid #e0812f; padding: .4rem .9rem; border-radius: 0 .4rem .4rem 0 }
.warn ul { margin: .2rem 0 } .bad { color: var(--bad) }
.wrap { display: inline-block; max-width: 15rem; white-space: normal }
figure { margin: 1rem 0; padding: 1rem; background: var(--card); border-radius: .6rem; overflow-x: auto }
figure svg { display: block; width: 100%; min-width: 44rem; height: auto }
figure svg.narrow { min-width: 0; max-width: 40rem; margin: auto }
figcaption { margin-top: .6rem }
.scroll { overflow-x: auto } pre { overflow-x: auto; padding: 1rem; background: var(--card); border-radius: .6rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; width: 100%; margin: .6rem 0 }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
th { font-weight: 600; color: var(--quiet); vertical-align: bottom }
code, pre { font: .85rem/1.5 ui-monospace, monospace } code { white-space: pre-wrap; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .6rem 0 } dd { margin: 0 }
dt { color: var(--quiet) }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em }
.spark { vertical-align: middle } .spark polyline { fill: none; stroke: var(--quiet) } .spark circle { fill: #5b8def }
"""

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>quorem bench</h1>
$body
</body>
</html>
""")

CURVES = """Every call that was answered, all repeats together, from an HDR histogram of three digits. Each step to the
right is ten times rarer; a curve ends at its rarest call, and its last stretch rests on few of them. Thick strokes at
50 and 99% span the repeats."""
CLOSED = """Callers of a closed loop wait for an answer before they ask again, so that a stall holds back the very calls
that would have met it: its percentiles are those of this many patient callers, not of traffic that arrives by itself
(<code>--scenario open</code>)."""
OPEN = """Calls arrive at random (Poisson) whether or not others were answered, and latency counts from the moment a
call was due, so that a stall is felt by every call that fell into it."""
STAGES = """Means of answered calls. Waiting and the model are the server's own count; the rest is what remains of the
client's: gRPC on both sides, the network, encoding and decoding, and waiting where the server does not look."""
CELLS = """Spread: greatest less least rate of the repeats, as a share of the rate shown, which is of the median one.
Windows: calls a second of each, from nought up; the dotted ones are measured, those before only warm up."""

SPREAD = """A rate above 1 is faster, a latency below 1 is shorter. In brackets the least and the greatest: of the
rounds where both were measured in turns, else what the repeats of both allow."""
RATIOS = ("rate", "p50", "p99")


def render(results: Sequence[Result], compared: Sequence["Comparison"] = ()) -> str:
    """The page; plots are inline SVG, nothing is loaded from elsewhere, and the same results make the same bytes.

    Args:
        results: at least one; the first of several is what the others are held against.
        compared: of several, as `compare.comparisons` makes them.
    """
    results = [replace(each, cells=_from_light_to_heavy(each.cells)) for each in results]
    body = "\n".join(_sections(results, compared))
    return PAGE.substitute(title=escape(f"quorem bench: {'; '.join(map(title, results))}"), style=STYLE, body=body)


def _sections(results: Sequence[Result], compared: Sequence["Comparison"]) -> Iterator[str]:
    called = names(results)
    for place, result in enumerate(results):
        yield f'<p class="quiet">{_dot(place, results)}{escape(title(result))}</p>'
    told = [(place, sentence) for place, result in enumerate(results) for sentence in warnings(result)]
    if told:
        items = "\n".join(f"<li>{_dot(place, results)}{escape(sentence)}</li>" for place, sentence in told)
        yield f'<div class="warn" role="note"><strong>Before you believe this</strong><ul>{items}</ul></div>'
    if compared:
        yield from _ratios(compared, called, results)
    for place, (name, result) in enumerate(zip(called, results, strict=True)):
        head = f"<h3>{_dot(place, results)}{escape(name)}</h3>" if len(results) > 1 else ""
        yield f"{head}<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in headlines(result))}</ul>"
    yield from _figure("Latency at each percentile", plots.percentiles(results), CURVES)
    arrivals = OPEN if any(cell.offered for result in results for cell in result.cells) else CLOSED
    numbers = "" if arrivals is OPEN else " Small numbers are calls in flight."
    spans = f"Thick strokes span the repeats.{numbers}"
    yield from _figure("Latency against load", plots.load(results), f"{spans} {arrivals}")
    yield from _figure("Where the time goes", plots.stages(results), STAGES)
    yield from _figure(
        "What it costs the server",
        plots.resources(results),
        "All processes of the server, over the calls that it answered; memory at the end of each cell.",
    )
    yield from _cells(results)
    for result in results:
        if result.mlperf is not None:
            yield f"<h2>What LoadGen says</h2>\n<pre>{escape(str(result.mlperf.get('summary', '')).strip())}</pre>"
    yield "<h2>How this was measured</h2>"
    for place, (name, result) in enumerate(zip(called, results, strict=True)):
        if len(results) > 1:
            yield f"<h3>{_dot(place, results)}{escape(name)}</h3>"
        yield _facts(result)


def _figure(head: str, drawn: str, told: str) -> Iterator[str]:
    if drawn:
        yield f"<h2>{head}</h2>\n<figure>{drawn}<figcaption>{told}</figcaption></figure>"


def _cells(results: Sequence[Result]) -> Iterator[str]:
    """Two tables: what was measured, and how far it can be trusted."""
    cells = [(place, cell) for place, result in enumerate(results) for cell in _with_noop(result)]
    if not cells:
        return
    shares = [*(f"p{share:g}" for share in PERCENTILES), "max"]
    open_loop = any(cell.offered for _, cell in cells)
    measured, trusted = list[list[str]](), list[list[str]]()
    for place, cell in cells:
        noop = cell is results[place].noop
        named = _dot(place, results) + escape(f"no-op, {cell.concurrency or ''} in flight" if noop else cell.title)
        named += "<br>(cut short)" if cell.partial else ""
        server, latency = cell.server, cell.latency_us
        measured.append(
            [
                named,
                rate(cell.rate),
                f"{spread(cell):.0%}" if len(cell.repeats) > 1 else "",
                "" if noop else f"{cell.rows_per_s:,.0f}",
            ]
            + [_number(latency.get(share), 1e3) for share in shares]
            + [_number(each, 1e3) for each in (server.queue_us, server.compute_us, server.cpu_us)]
            + [_number(server.pss_bytes, 1e6)]
        )
        failures = ", ".join(f"{count:,} {escape(status)}" for status, count in cell.failures.items())
        failed = f'<span class="bad wrap">{failures}</span>' if failures else "none"
        failed += f"<br>half within {ms(cell.failed_us['p50'])}" if cell.failed_us else ""
        late = f"{late_share(cell):.2%}, p99 {ms(cell.late_us['p99'])}" if cell.late_us else ""
        client = f"{cell.client_cores:.2f}" + (' <span class="bad">the limit</span>' if cell.client_limited else "")
        windows = plots.spark(cell) + ("" if cell.stable else ' <span class="bad">unstable</span>')
        repeats = ", ".join(rate(each.rate) for each in cell.repeats)
        late = [late] if open_loop else []
        trusted.append([named, f"{cell.answered:,}", f"{cell.seconds:.3g} s", failed, *late, client, windows, repeats])
    head = ["cell", "calls/s", "spread", "rows/s", *(f"{share}<br>ms" for share in shares)]
    head += ["queue<br>ms", "compute<br>ms", "CPU<br>ms", "MB"]
    yield f'<h2>All cells</h2>\n<div class="scroll">{_table(head, measured)}</div>'
    head = ["cell", "answered", "measured", "failed", *(["sent late"] if open_loop else [])]
    head += ["client<br>cores", "windows", "repeats, calls/s"]
    yield f'<div class="scroll">{_table(head, trusted)}</div>\n<p class="quiet">{CELLS}</p>'


def _ratios(compared: Sequence["Comparison"], called: Sequence[str], results: Sequence[Result]) -> Iterator[str]:
    """What the other results are times the first, by cell; in a sentence, over all cells."""
    items, rows = list[str](), list[list[str]]()
    for place, name in enumerate(called):
        mine = [each for each in compared if each.other == name]
        told = [
            f"{_span([each.ratios[number].median for each in mine if number in each.ratios])} times the {number}"
            for number in ("rate", "p50")
            if any(number in each.ratios for each in mine)
        ]
        if told:
            items.append(f"<li>{_dot(place, results)}{escape(name)}: {' and '.join(told)}.</li>")
    titles = list(dict.fromkeys(each.title for each in compared))
    for each in sorted(compared, key=lambda each: titles.index(each.title)):
        ratios = [_ratio(each.ratios.get(number)) for number in RATIOS]
        turns = "in turns" if each.paired else "apart"
        rows.append([_dot(called.index(each.other), results) + escape(each.title), *ratios, turns])
    head = ["cell", *RATIOS, "measured"]
    yield f"<h2>Against {escape(called[0])}</h2>\n<ul>{''.join(items)}</ul>"
    yield f'<div class="scroll">{_table(head, rows)}</div>\n<p class="quiet">{SPREAD}</p>'


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _ratio(found: "Ratio | None") -> str:
    return f"<strong>{found.median:.2f}</strong> [{found.least:.2f}, {found.greatest:.2f}]" if found else ""


def _facts(result: Result) -> str:
    facts = {key: value for key, value in result.facts.items() if key != "command"}
    command = result.facts.get("command", "")
    command = " ".join(map(str, command)) if isinstance(command, Sequence) and not isinstance(command, str) else command
    items = [(key, escape(_text(value))) for key, value in (facts | dict(result.machine)).items()]
    items += [("command", f"<code>{escape(str(command))}</code>")] if command else []
    told = "\n".join(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{value}</dd>" for key, value in items if value)
    return f"<dl>{told}</dl>"


def _text(value: Any) -> str:
    """A fact for a reader; what holds several is told in a row."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value)


def _from_light_to_heavy(cells: Sequence[Cell]) -> list[Cell]:
    """By request, as first met, and by load: a search goes to and fro."""
    loads = list(dict.fromkeys(cell.load for cell in cells))
    return sorted(cells, key=lambda cell: (loads.index(cell.load), cell.offered or cell.concurrency or 0))


def _with_noop(result: Result) -> list[Cell]:
    return [*([result.noop] if result.noop else []), *result.cells]


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:,.{2 if value < 1e2 * unit else 0}f}"


def _dot(place: int, results: Sequence[Result]) -> str:
    """The colour and number of a result among several."""
    if len(results) == 1:
        return ""
    return f'<i style="background:{COLOURS[place % len(COLOURS)]}"></i>{place + 1}&ensp;'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; columns without any content are left out."""
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = [f"<tr>{''.join(f'<td>{row[place]}</td>' for place in kept)}</tr>" for row in rows]
    top = "".join(f"<th>{head[place]}</th>" for place in kept)
    return f"<table><thead><tr>{top}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table>"
