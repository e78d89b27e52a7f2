"""Results side by side: ratios are those of their numbers, within a round where they took turns."""

import base64
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos.errors import DataError
from quorem.serve.bench.compare import comparisons, merged
from quorem.serve.bench.drive import record
from quorem.serve.bench.result import Cell, Repeat, Result, histogram, percentiles
from served import Served, command, quorem

BRIEF = ("--rows", "1", "--concurrency", "2", "--warmup", "0.05", "--window", "0.05", "--windows", "3")


def cell(rates: Sequence[float], load: str = "1", failures: dict[str, int] | None = None) -> Cell:
    """Of as many repeats; p50 is a second a rate, in microseconds, p99 twice as long."""
    latencies = histogram()
    record(latencies, np.array([int(1e9 / rate) for rate in rates]))
    middle = sorted(rates)[(len(rates) - 1) // 2]
    return Cell(
        load=load,
        rows=1.0,
        concurrency=2,
        offered=None,
        seconds=3.0,
        answered=int(3 * middle),
        rate=middle,
        rows_per_s=middle,
        latency_us=percentiles(latencies),
        failures=failures or {},
        failed_us={},
        late_us={},
        late=0,
        client_cores=0.5,
        client_limited=False,
        windows=[middle] * 3,
        stable=True,
        repeats=[Repeat(rate, 1e6 / rate, 2e6 / rate) for rate in rates],
        histogram=base64.b64encode(latencies.encode()).decode(),
    )


def result(endpoint: str, *cells: Cell, partial: bool = False) -> Result:
    facts = {"endpoint": endpoint, "model": "ctr", "version": "1", "scenario": "closed", "protocol": "score"}
    return Result(facts, {}, list(cells), partial=partial)


rounds = st.lists(st.tuples(st.floats(10, 1e4), st.floats(10, 1e4)), min_size=1, max_size=7)


@settings(max_examples=20)
@given(rounds)
def test_of_those_that_took_turns_the_ratio_is_that_of_each_round(pairs: list[tuple[float, float]]):
    mine, theirs = (cell(rates) for rates in zip(*pairs, strict=True))
    (found,) = comparisons([result("a", mine), result("b", theirs)], paired={0, 1})
    ratios = [other / first for first, other in pairs]
    assert (found.first, found.other, found.paired) == ("a", "b", True)
    rate, p50 = found.ratios["rate"], found.ratios["p50"]
    assert (rate.median, rate.least, rate.greatest) == pytest.approx((np.median(ratios), min(ratios), max(ratios)))
    inverse = [1 / each for each in ratios]
    assert (p50.median, p50.least, p50.greatest) == pytest.approx((np.median(inverse), min(inverse), max(inverse)))
    assert found.ratios["p99"] == found.ratios["p50"]


@settings(max_examples=20)
@given(st.lists(st.floats(10, 1e4), min_size=1, max_size=5), st.lists(st.floats(10, 1e4), min_size=1, max_size=5))
def test_of_files_the_spread_holds_every_pair_of_repeats(first: list[float], other: list[float]):
    (found,) = comparisons([result("a", cell(first)), result("b", cell(other))], paired=set())
    rate, pairs = found.ratios["rate"], [theirs / mine for theirs in other for mine in first]
    assert not found.paired
    assert (rate.least, rate.greatest) == pytest.approx((min(pairs), max(pairs)))
    assert rate.median == pytest.approx(np.median(other) / np.median(first))


@settings(max_examples=20)
@given(st.lists(st.floats(10, 1e4), min_size=1, max_size=7))
def test_rounds_are_joined_with_nothing_hidden(rates: list[float]):
    found = merged([cell([rate], failures={"UNAVAILABLE": 1, f"STATUS {rate}": 2}) for rate in rates])
    assert found.rate == sorted(rates)[(len(rates) - 1) // 2]
    assert [each.rate for each in found.repeats] == rates
    assert found.failures["UNAVAILABLE"] == len(rates)
    assert sum(found.failures.values()) == 3 * len(rates)
    assert found.latencies().get_total_count() == len(rates)


def test_cells_are_held_against_those_of_the_same_load():
    small, large = cell([100.0]), cell([50.0], load="128")
    first, other = result("a", small, large), result("b", cell([25.0], load="128"), cell([9.0], load="7"))
    (found,) = comparisons([first, other, result("b", partial=True)], paired=set())
    assert (found.title, found.ratios["rate"].median) == ("128 rows, 2 in flight", 0.5)
    with pytest.raises(DataError, match=r"b: results are compared by cells .* Found: \['7 rows, 2 in flight'\]"):
        comparisons([first, result("b", cell([9.0], load="7"))], paired=set())


def told(*arguments: str | Path, status: int = 0) -> dict:
    return json.loads(quorem("bench", "compare", *arguments, "--json", status=status).stdout)


def test_live_endpoints_take_turns_in_an_order_that_rotates(server: Served, tmp_path: Path):
    out, page = tmp_path / "compare.json", tmp_path / "compare.html"
    sides = (server.address, server.address.replace("127.0.0.1", "localhost"))
    done = quorem("bench", "compare", *sides, *BRIEF, "--rounds", "2", "--out", out, "--page", page)
    turns = [line.split(": ")[1].split(",")[0] for line in done.stderr.splitlines() if line.startswith("round")]
    assert turns == [*sides, *reversed(sides)]
    found = json.loads(out.read_text())
    assert found["format"] == "quorem.bench.compare/1"
    assert [each["facts"]["endpoint"] for each in found["results"]] == list(sides)
    (ratio,) = found["ratios"]
    assert ratio["paired"]
    repeats = [each["cells"][0]["repeats"] for each in found["results"]]
    rates = [theirs["rate"] / mine["rate"] for mine, theirs in zip(*repeats, strict=True)]
    assert (len(rates), ratio["ratios"]["rate"]["least"]) == (2, pytest.approx(min(rates)))
    assert all(side in done.stdout for side in sides)
    assert all(side in page.read_text() for side in sides)


def test_files_are_compared_and_a_live_one_with_a_file(server: Served, tmp_path: Path):
    result("before", cell([100.0, 110.0])).write(tmp_path / "before.json")
    result("after", cell([200.0, 231.0])).write(tmp_path / "after.json")
    (found,) = told(tmp_path / "before.json", tmp_path / "after.json")["ratios"]
    rate = found["ratios"]["rate"]
    assert (found["first"], found["other"], found["paired"]) == ("before", "after", False)
    assert (rate["least"], rate["greatest"]) == pytest.approx((200 / 110, 2.31))
    mixed = told(tmp_path / "before.json", server.address, *BRIEF, "--rounds", "1")
    assert mixed["ratios"][0]["other"] == server.address
    assert not mixed["ratios"][0]["paired"]


def test_an_interrupted_one_tells_its_whole_rounds(server: Served):
    asked = command("bench", "compare", server.address, server.address, *BRIEF, "--rounds", "1000", "--json")
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("round 3 "):
                break
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    found = json.loads(out)
    counts = [len(each["cells"][0]["repeats"]) for each in found["results"]]
    assert counts[0] == counts[1] >= 2
    assert all(each["partial"] for each in found["results"])
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("localhost:1",), "compare takes two or more"),
        (("localhost:1", "missing.json"), "missing.json"),
        (("localhost:1", "localhost:2", "--scenario", "slo"), "compared in closed or open loops"),
        (("localhost:1", "localhost:2", "--scenario", "open"), "arrivals have a rate"),
        (("localhost:1", "localhost:2", "--out", "nowhere/out.json"), "nowhere"),
        (("localhost:1", "localhost:2", "--repeats", "3"), "are its rounds"),
        (("localhost:1", "localhost:2", "--pid", "1"), "of one server"),
        (("localhost:1", "localhost:2"), "UNAVAILABLE"),
    ],
    ids=["one side", "no file", "scenario", "rate", "directory", "repeats", "one server", "nobody there"],
)
def test_what_cannot_be_compared_is_told_in_one_line(arguments: tuple[str, ...], said: str):
    done = quorem("bench", "compare", *arguments, status=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
