"""A cell of a bench: windows until they agree, the spread of repeats, and what an early end leaves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import MS, RESOLUTION, load, target
from fake_server import Fake, faking
from quorem.serve.bench.drive import Arrivals, Closed, Drivers, Poisson, Window
from quorem.serve.bench.measure import NoAnswer, Pace, measure
from quorem.serve.bench.result import LEAST_NS


def test_a_cell_is_the_median_repeat_with_the_spread_of_all(drivers: Drivers, plain: Fake):
    pace = Pace(warmup_s=0.1, window_s=0.2, most_windows=4, repeats=3, tolerance=0.0)
    found = measure(drivers, target(plain), load(2000, 3000), Closed(2), pace)
    assert (found.load, found.rows, found.concurrency, found.offered) == ("known", 1.5, 2, None)
    assert (len(found.repeats), len(found.windows), found.partial) == (3, 4, False)
    assert found.rate == sorted(each.rate for each in found.repeats)[1]
    assert found.rate == pytest.approx(sum(found.windows[-3:]) / 3, abs=0.1)
    assert found.seconds == pytest.approx(0.6)
    assert found.latencies().get_total_count() > found.answered > 0
    assert 2000 * (1 - RESOLUTION) <= found.latency_us["p50"] <= found.latency_us["max"]
    assert not found.stable
    loose = Pace(warmup_s=0.0, window_s=0.2, most_windows=9, repeats=1, tolerance=1e9)
    calm = measure(drivers, target(plain), load(2000), Poisson(40, 1), loose)
    assert (calm.stable, len(calm.windows), calm.concurrency, calm.offered) == (True, 3, None, 40)
    assert calm.late <= calm.answered
    assert calm.late_us["p50"] > 0


class Made:
    """Drivers whose windows are given: rate, p50 in milliseconds, what else a window says."""

    def __init__(self, *windows: tuple[int, int, dict]) -> None:
        self.given = windows

    def windows(self, *_: object) -> Iterator[Window]:
        for rate, p50_ms, rest in self.given:
            window = Window(answers=rate, rows=rate, wall_s=1.0, **rest)
            window.latencies.record_value(p50_ms * MS, rate)
            window.late.record_value(LEAST_NS, rate)
            yield window


@pytest.mark.parametrize(
    ("windows", "taken", "stable"),
    [
        ([(100, 5), (100, 5), (109, 5), (500, 5)], 3, True),
        ([(50, 5), (100, 5), (100, 5), (105, 5), (500, 5)], 4, True),  # the first was still warming up
        ([(100, 5), (100, 6), (100, 5), (100, 6), (100, 7)], 5, False),  # the median does not stay
        ([(100, 5), (120, 5)], 2, False),
    ],
)
def test_windows_are_taken_until_three_agree(windows: list[tuple[int, int]], taken: int, stable: bool, plain: Fake):
    made = Made(*((rate, p50, {}) for rate, p50 in windows))
    found = measure(made, target(plain), load(0), Closed(1), Pace(0, 1, 5, 1))  # pyright: ignore[reportArgumentType]  # its windows
    assert found.windows == [rate for rate, _ in windows[:taken]]
    assert found.stable is stable
    last = found.windows[-3:]
    assert found.rate == pytest.approx(sum(last) / len(last), abs=0.1)


@pytest.mark.parametrize(
    ("rest", "limited"), [({}, False), ({"busiest": 0.95}, True), ({"overdue": 1}, False), ({"overdue": 2}, True)]
)
def test_a_client_that_is_the_limit_says_so(rest: dict, limited: bool, plain: Fake):
    made = Made(*[(100, 5, rest)] * 3)
    found = measure(made, target(plain), load(0), Poisson(100, 1), Pace(0, 1, 3, 1))  # pyright: ignore[reportArgumentType]  # its windows
    assert found.client_limited is limited
    assert found.late == 3 * rest.get("overdue", 0)


@pytest.mark.parametrize(
    ("options", "timeout_s", "status"),
    [
        (["--refuse", "RESOURCE_EXHAUSTED"], 30, "RESOURCE_EXHAUSTED"),
        (["--hang"], 0.5, "DEADLINE_EXCEEDED"),
        (["--die"], 30, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("arrivals", [Closed(3), Poisson(60, 1)], ids=["closed", "open"])
def test_a_server_that_does_not_answer_is_told_in_one_line(
    options: list[str], timeout_s: float, status: str, arrivals: Arrivals, drivers: Drivers, tmp_path: Path
):
    pace = Pace(warmup_s=0.0, window_s=0.3, most_windows=60, repeats=1, tolerance=0.0, timeout_s=timeout_s)
    with faking(tmp_path / "log", *options, "--after", "30") as fake, pytest.raises(NoAnswer) as raised:
        measure(drivers, target(fake), load(10000), arrivals, pace)
    told = str(raised.value)
    assert told.startswith(f"{fake.address}: ")
    assert f" x {status}" in told
    assert "no answer in 0.3 s" in told
    assert "\n" not in told
    if raised.value.cell is not None:
        assert raised.value.cell.partial
        assert 0 < raised.value.cell.answered <= 30
        assert raised.value.cell.rate > 0
        assert raised.value.cell.failures[status] > 0  # those of the window that ended it


SCRIPT = """
import json, sys
from dataclasses import asdict
from fake_server import Fake
from driving import *
from quorem.serve.bench.drive import Closed
from quorem.serve.bench.measure import Pace, measure
from quorem.serve.bench.measure import Interrupted
from pathlib import Path

class Told:
    def begin(self):
        print("begun", flush=True)

pace = Pace(0.1, 0.2, 10_000, 1, 0.0)
with Drivers(2) as drivers:
    try:
        print("ready", flush=True)
        measure(drivers, target(Fake(sys.argv[1], Path())), load(2000), Closed(2), pace, Told())
    except KeyboardInterrupt as error:
        found = error.cell if isinstance(error, Interrupted) else None
        print(json.dumps(found and asdict(found)), flush=True)
"""


@pytest.mark.parametrize("at", ["begun", "ready"])
def test_ctrl_c_leaves_what_was_measured(at: str, plain: Fake):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, plain.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        while (line := process.stdout.readline().strip()) != at:
            assert line, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the clients get it too
        told = [line for line in process.stdout.read().splitlines() if line != "begun"]
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0
    cell = json.loads(told[-1])
    if at == "begun":
        assert cell["partial"]
        assert cell["answered"] > 0
        assert cell["latency_us"]["p50"] >= 2000 * (1 - RESOLUTION)
    else:
        assert cell is None or cell["partial"]
