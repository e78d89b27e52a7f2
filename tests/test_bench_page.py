"""A bench's page and table: what they say is what the result holds, nothing of it is markup, and doubt comes first."""

import base64
import random
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from quorem.serve.bench import notes, plots
from quorem.serve.bench.compare import comparisons
from quorem.serve.bench.page import render
from quorem.serve.bench.result import Cell, Repeat, Result, Server, histogram, percentiles
from quorem.serve.bench.table import show
from rich.console import Console

HOSTILE = """--><script>alert("1")</script>&amp;'$x^2$[bold]</title>"""
SERVER = Server(queue_us=40.0, compute_us=100.0, cpu_us=250.0, pss_bytes=310_000_000)


def cell(load: str = "128", concurrency: int | None = 8, offered: float | None = None, **changed: Any) -> Cell:
    """A cell of 1000 calls that took half a millisecond and more, in an exponential tail."""
    drawn, latencies = random.Random(f"{load} {concurrency} {offered}"), histogram()
    for _ in range(1000):
        latencies.record_value(int(5e5 + drawn.expovariate(1 / 2e5)))
    found = percentiles(latencies)
    made = Cell(
        load=load,
        rows=128.0,
        concurrency=concurrency,
        offered=offered,
        seconds=3.0,
        answered=1000,
        rate=1000 / 3,
        rows_per_s=128_000 / 3,
        latency_us=found,
        failures={},
        failed_us={},
        late_us={"p50": 30.0, "p99": 90.0} if offered else {},
        late=0,
        client_cores=0.4,
        client_limited=False,
        windows=[300.0, 330.0, 335.0, 335.0],
        stable=True,
        repeats=[Repeat(1000 / 3 * each, found["p50"] / each, found["p99"] / each) for each in (0.98, 1.0, 1.02)],
        server=SERVER,
        histogram=base64.b64encode(latencies.encode()).decode(),
    )
    return replace(made, **changed)


def result(cells: list[Cell] | None = None, **changed: Any) -> Result:
    facts = {"endpoint": "host:8500", "model": "ctr", "version": "3", "scenario": "closed", "protocol": "score"}
    machine = {"processor": "a processor", "cores": 2, "pinning": [0, 1], "versions": {"grpcio": "1.76.0"}}
    cells = [cell(load, calls) for load in ("1", "128") for calls in (1, 8)] if cells is None else cells
    made = Result(facts | {"command": "quorem bench host:8500"}, machine, cells, noop=cell("0", 1, rows_per_s=0.0))
    return replace(made, **changed)


class Reader(HTMLParser):
    """Reads a page: its words, its elements, their ids, and what it would load from elsewhere."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids = list[str](), Counter[str](), Counter[str]()
        self.loaded, self.said = list[str](), list[str]()
        self.feed(page)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.said))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said.append(data)

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            elif name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.loaded.append(value or "")


def printed(found: Result, width: int = 120) -> str:
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as captured:
        show(found, console)
    return captured.get()


HEADS = ("Latency at each percentile", "Latency against load", "Where the time goes", "What it costs the server")


def test_a_page_is_whole_and_loads_nothing():
    read = Reader(page := render([result()]))
    assert read.open == []
    assert read.loaded == []
    assert set(read.ids.values()) == {1}
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= read.ids.keys()
    assert "@import" not in page
    assert read.tags["figure"] == 4
    assert all(head in read.text for head in (*HEADS, "All cells", "How this was measured"))
    assert all(word in read.text for word in ("a processor", "grpcio 1.76.0", "0, 1", "quorem bench host:8500"))
    assert "Before you believe this" not in read.text


def test_the_same_result_makes_the_same_bytes(tmp_path: Path):
    result().write(tmp_path / "bench.json")
    page = render([result()])
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert render([Result.read(tmp_path / "bench.json")]) == page


def test_nothing_of_a_result_is_markup():
    facts = dict.fromkeys(("endpoint", "model", "version", "scenario", "protocol", "command", "date", HOSTILE), HOSTILE)
    bad = cell(HOSTILE, failures={HOSTILE: 3}, failed_us={"p50": 10.0})
    found = result(
        [bad, replace(bad, concurrency=16)],
        facts=facts,
        machine={"processor": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        mlperf={"scenario": HOSTILE, "valid": False, "reasons": [HOSTILE], "summary": HOSTILE},
    )
    other = replace(found, facts=facts | {"endpoint": "other"})
    for page in (render([found]), render([found, other], comparisons([found, other], {0, 1}))):
        read = Reader(page)
        assert read.open == []
        assert read.tags["script"] == 0
        assert read.tags["title"] == 1
        assert HOSTILE in "".join(read.said)
    assert HOSTILE in "".join(line.strip() for line in printed(found, 2000).splitlines()[:1])


DOUBTS = {
    "was interrupted": {"partial": True},
    "Calls failed, and are no part of the latencies: 7 UNAVAILABLE": {"failures": {"UNAVAILABLE": 7}},
    "Nothing was answered": {"answered": 0, "rate": 0.0, "latency_us": {}, "histogram": "", "repeats": []},
    "The client was the bottleneck": {"client_limited": True},
    "Calls were sent late: of 1 row, 500/s offered, 5.0%": {
        "offered": 500.0,
        "concurrency": None,
        "late": 50,
        "client_limited": True,
    },
    "The last windows still differed": {"stable": False},
    "Repeats disagree": {"repeats": [Repeat(rate, 600.0, 900.0) for rate in (250.0, 333.0, 350.0)]},
}


def doubtful(told: str) -> Cell:
    return cell(**{"load": "1", "late_us": {"p50": 1.0, "p99": 5e3}, **DOUBTS[told]})


@pytest.mark.parametrize("told", DOUBTS)
def test_doubt_is_told_in_words_and_names_the_cell(told: str):
    found = result([cell("128", 1), doubtful(told), cell("128", 8)])
    said = list(notes.warnings(found))
    assert len(said) == 1
    assert told in said[0]
    assert doubtful(told).title in said[0] or "interrupted" in told
    assert f"! {said[0]}" in re.sub(r" *\n", " ", printed(found))


def test_doubt_comes_first_on_the_page():
    found = result([doubtful(each) for each in DOUBTS])
    text, said = Reader(render([found])).text, list(notes.warnings(found))
    assert len(said) == len(DOUBTS)
    places = [text.index(word) for word in ("Before you believe this", *said, "A call that computes nothing", *HEADS)]
    assert places == sorted(places)


def test_an_mlperf_run_is_told_with_its_verdict():
    run = {"scenario": "Server", "valid": True, "scheduled_per_s": 900.0, "latency_ms": {"p99": 41.2}, "bound_ms": 60.0}
    run |= {"summary": "Result is : VALID", "lowered": {"seconds": {"mlperf": 600, "used": 10}}, "client_limited": True}
    found = result([], noop=None, mlperf=run)
    text = Reader(render([found])).text
    assert "VALID, 900 queries a second as scheduled, p99 41.2 ms of 60 allowed." in text
    assert "Result is : VALID" in text
    assert "less than MLPerf's rules ask for: seconds 10 for 600" in text
    assert "LoadGen was the bottleneck" in text
    stopped = replace(found, mlperf={"scenario": "Offline", "valid": False, "reasons": ["it was interrupted"]})
    assert "does not count: it was interrupted" in printed(stopped)


def test_a_search_tells_the_rate_that_holds_the_bound():
    cells = [cell("mlperf", None, rate) for rate in (100.0, 400.0, 200.0)]
    found = result(cells, slo={"bound_ms": 60.0, "rate": 200.0, "p99_ms": 51.5})
    page = render([found])
    text = Reader(page).text
    assert (
        "200 calls a second, arriving at random, keep p99 under 60 ms, without a failed call (p99 was 51.5 ms)." in text
    )
    assert "bound 60 ms" in text
    restless = replace(found, slo={**(found.slo or {}), "disproved": 2}, cells=[replace(cells[1], client_limited=True)])
    assert "At the least rate that failed, mlperf rows, 400/s offered, the client was at its limit too" in printed(
        restless
    )
    assert "Of the rates that failed, 2 held when measured again" in printed(restless)
    assert text.index("mlperf rows, 200/s offered") < text.index("mlperf rows, 400/s offered")
    none = replace(found, slo={"bound_ms": 60.0, "rate": 0, "p99_ms": 0.0})
    assert "Not even the least rate tried keeps p99 under 60 ms" in printed(none)


def test_what_is_not_known_is_not_drawn():
    blind = [cell(concurrency=calls, server=Server(), histogram="") for calls in (1, 8)]
    text = Reader(render([result(blind, noop=None)])).text
    assert [head for head in HEADS if head in text] == ["Latency against load"]
    empty = Reader(render([result([], noop=None, partial=True)]))
    assert empty.tags["figure"] == empty.tags["table"] == 0
    assert "was interrupted" in empty.text
    assert "was interrupted" in printed(result([], noop=None, partial=True))


def test_a_curve_is_the_histograms():
    figure, drawn = Figure(), cell()
    plots._curves(figure, {"a panel": [("8", "#000000", drawn)]})
    line = figure.axes[0].get_lines()[0]
    odds, values = line.get_xdata(), line.get_ydata()
    latencies = drawn.latencies()
    assert max(odds) <= latencies.get_total_count()
    for odd, value in zip(odds, values, strict=True):
        assert value == pytest.approx(latencies.get_value_at_percentile(100 * (1 - 1 / odd)) / 1e6, rel=2e-3)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["50", "90", "99", "99.9"]
    assert figure.axes[0].get_xticks().tolist() == [2, 10, 100, 1000]


def test_results_side_by_side_are_held_against_the_first():
    first = result()
    doubled = [
        replace(each, repeats=[Repeat(2 * r.rate, r.p50_us / 2, r.p99_us) for r in each.repeats])
        for each in first.cells
    ]
    other = replace(first, facts=first.facts | {"endpoint": "host:9000"}, cells=doubled)
    read = Reader(render([first, other], comparisons([first, other], {0, 1})))
    assert "Against host:8500" in read.text
    assert "host:9000: 2.00 times the rate and 0.50 times the p50." in read.text
    assert read.text.count("2.00 [2.00, 2.00] 0.50 [0.50, 0.50] 1.00 [1.00, 1.00] in turns") == len(doubled)
    assert set(read.ids.values()) == {1}


def test_results_of_one_endpoint_are_told_apart():
    first, newer = result(), result(facts=result().facts | {"version": "4"})
    assert notes.names([first, result(facts={"endpoint": "b"})]) == ["host:8500", "b"]
    assert len(set(notes.names([first, newer]))) == 2
    assert len(set(notes.names([first, first, newer]))) == 3


def test_a_terminal_gets_a_line_a_cell():
    lines = printed(result()).splitlines()
    assert lines[0].strip() == "ctr/3 on host:8500, closed loop, score"
    rows = [line.split() for line in lines if re.match(r" *(no-op|1|128) +\d", line)]
    assert [row[:2] for row in rows] == [["no-op", "1"], ["1", "1"], ["1", "8"], ["128", "1"], ["128", "8"]]
    p50 = cell("128", 8).latency_us["p50"] / 1e3
    assert f"{p50:.2f}" in rows[-1]
    assert {"0.04", "0.10", "0.25", "310", "0.40"} <= set(rows[-1])  # the server's, and the client's cores
    assert all(len(line) <= 120 for line in lines)
    assert "queue" not in printed(result([cell(server=Server())], noop=None))
    assert "A call that computes nothing takes" in printed(result())
