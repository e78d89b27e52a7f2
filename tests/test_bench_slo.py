"""The searches of a bench: the greatest rate under a bound, and the greatest rate of rows, on curves that are known."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, log, log2, nextafter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from quorem.serve.bench import offline, slo
from quorem.serve.bench.result import Cell

CELL = Cell(
    load="1",
    rows=1,
    concurrency=None,
    offered=None,
    seconds=1.0,
    answered=1000,
    rate=0.0,
    rows_per_s=0.0,
    latency_us={"p50": 1.0, "p99": 1.0},
    failures={},
    failed_us={},
    late_us={},
    late=0,
    client_cores=0.1,
    client_limited=False,
    windows=[],
    stable=True,
    repeats=[],
)
BOUND_US = 60_000.0


def single_server(service_rate: float) -> Callable[[float], Cell]:
    """M/M/1: the time in the system is exponential of rate `service_rate` - `rate`; none is finite at full load."""

    def measured(rate: float) -> Cell:
        p99_us = log(100) / (service_rate - rate) * 1e6 if rate < service_rate else inf
        return replace(CELL, offered=rate, rate=min(rate, service_rate), latency_us={"p99": p99_us})

    return measured


@given(
    service_rate=st.floats(1, 1e6),
    bound_us=st.floats(1e3, 1e6),
    start=st.floats(0.01, 1e6),
    precision=st.sampled_from([0.01, 0.05, 0.3]),
)
def test_the_search_finds_the_rate_of_a_single_server(
    service_rate: float, bound_us: float, start: float, precision: float
):
    truth = service_rate - log(100) / (bound_us / 1e6)
    assume(abs(truth / slo.LEAST_RATE - 1) > 1e-6)
    found, cells = slo.search(single_server(service_rate), start, bound_us, precision)
    if truth < slo.LEAST_RATE:
        assert found == 0
        assert cells[-1].offered == slo.LEAST_RATE
        return
    assert found <= truth * (1 + 1e-9)
    assert found * (1 + precision) >= truth * (1 - 1e-9)
    assert found in [each.offered for each in cells]
    way = abs(log2(truth / max(start, slo.LEAST_RATE))) + 2
    assert len(cells) <= way + log2(log(2) / log(1 + precision)) + 2


@given(st.data(), st.floats(1, 1e4))
def test_a_noisy_server_ends_the_search_too_and_gets_no_rate_that_failed(data: st.DataObject, start: float):
    told = list[tuple[float, bool]]()

    def measured(rate: float) -> Cell:
        held = rate < 1e5 and data.draw(st.booleans())
        told.append((rate, held))
        return replace(CELL, offered=rate, latency_us={"p99": BOUND_US if held else nextafter(BOUND_US, inf)})

    found, cells = slo.search(measured, start, BOUND_US)
    assert [each.offered for each in cells] == [rate for rate, _ in told]
    assert (found, True) in told or found == 0
    failed = [rate for rate, held in told if not held]
    assert failed.count(failed[-1]) >= 2
    assert found < failed[-1] <= max(found * 1.05, slo.LEAST_RATE)


@pytest.mark.parametrize("start", [10.0, 700.0, 5000.0])
def test_measurements_that_fail_for_a_while_do_not_lower_the_answer(start: float):
    server, truth = single_server(1000), 1000 - log(100) / (BOUND_US / 1e6)
    clean = len(slo.search(server, start, BOUND_US)[1])
    for length in (1, 3):
        for first in range(clean - 1):
            asked = list[float]()

            def measured(rate: float, first: int = first, last: int = first + length, asked: list[float] = asked):
                asked.append(rate)
                found = server(rate)
                return replace(found, failures={"UNAVAILABLE": 1}) if first <= len(asked) - 1 < last else found

            found, cells = slo.search(measured, start, BOUND_US)
            if first + length < clean:  # else it lasts until the rate is measured again
                assert truth / 1.05 <= found <= truth
                told = slo.told(cells, BOUND_US / 1000)
                assert (told["rate"], told["disproved"] <= length) == (found, True)


@pytest.mark.parametrize(
    "broken",
    [
        replace(CELL, failures={"RESOURCE_EXHAUSTED": 1}),
        replace(CELL, latency_us={"p99": BOUND_US + 1}),
        replace(CELL, answered=0, latency_us={}),
    ],
    ids=["failed", "slow", "silent"],
)
def test_a_rate_holds_only_if_all_calls_were_answered_in_time(broken: Cell):
    late = replace(CELL, late=1000, client_limited=True)  # which is in the latencies
    assert slo.holds(replace(late, latency_us={"p99": BOUND_US}), BOUND_US)
    assert not slo.holds(broken, BOUND_US)
    found, cells = slo.search(lambda rate: broken if rate > 100 else CELL, 32.0, BOUND_US)
    assert 100 / 1.05 <= found <= 100
    assert broken in cells


def test_what_ends_a_measurement_ends_the_search():
    def measured(rate: float) -> Cell:
        if rate > 4:
            raise KeyboardInterrupt
        return CELL

    with pytest.raises(KeyboardInterrupt):
        slo.search(measured, 1.0, BOUND_US)


@given(capacity=st.floats(1, 1e6), latency_s=st.floats(1e-5, 10))
def test_offline_finds_the_capacity_of_a_server(capacity: float, latency_s: float):
    """A closed loop against parallel servers: n / latency, until they are all busy."""
    assume(capacity * latency_s <= offline.MOST_IN_FLIGHT)
    asked = list[int]()

    def measured(in_flight: int) -> Cell:
        asked.append(in_flight)
        return replace(CELL, concurrency=in_flight, rows_per_s=min(in_flight / latency_s, capacity))

    best, cells = offline.search(measured)
    assert best
    assert best.rows_per_s == pytest.approx(capacity)
    assert asked == [2**power for power in range(len(cells))]
    assert asked[-1] <= max(4, 8 * capacity * latency_s)


def test_one_fruitless_doubling_does_not_end_it():
    rows_per_s = {1: 100.0, 2: 100.0, 4: 200.0, 8: 201.0, 16: 202.0}
    best, cells = offline.search(lambda in_flight: replace(CELL, rows_per_s=rows_per_s[in_flight]))
    assert best
    assert [each.rows_per_s for each in cells] == list(rows_per_s.values())
    assert best.rows_per_s == 202


def test_offline_stops_where_calls_fail():
    def measured(in_flight: int) -> Cell:
        failures = {"RESOURCE_EXHAUSTED": 3} if in_flight > 4 else {}
        return replace(CELL, concurrency=in_flight, rows_per_s=float(in_flight), failures=failures)

    best, cells = offline.search(measured)
    assert best
    assert (best.concurrency, [each.concurrency for each in cells]) == (4, [1, 2, 4, 8])
    best, cells = offline.search(measured, start=8)
    assert (best, len(cells)) == (None, 1)
