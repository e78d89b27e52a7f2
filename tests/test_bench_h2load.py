"""The program h2load as a bench's client: its log is read right, and replies without scores are no answers."""

import shutil
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from fake_server import faking
from quorem.protos.errors import DataError, NotFound, Unavailable
from quorem.serve.bench.drive import Arrivals, Window
from quorem.serve.bench.h2load import DROPPED, H2load, _split, _window
from quorem.serve.bench.load import Drawn, Load, build
from quorem.serve.bench.loops import Closed, Poisson
from quorem.serve.bench.measure import Pace, measure
from quorem.serve.bench.sizes import Fixed
from quorem.serve.bench.target import find
from quorem.serve.bench.watch import Watch
from quorem.serve.channel import Access, Tls
from served import Served

PATH = "/fake.Service/Method"
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="no h2load on PATH (Debian: nghttp2-client)")


def load(microseconds: int, rows: int = 3) -> Load:
    """One request that the fake server takes so long for."""
    return Load(str(rows), (f"{microseconds:020}".encode(),), (rows,), (None,))


def windows(
    access: Access, sent: Load, arrivals: Arrivals, count: int, window_s: float = 0.2, timeout_s: float = 5.0
) -> list[Window]:
    running = H2load().windows(access, PATH, sent, arrivals, 0.1, window_s, timeout_s)
    try:
        return list(islice(running, count))
    finally:
        running.close()


@needs_h2load
def test_windows_hold_what_the_server_answered_in_them(tmp_path: Path):
    with faking(tmp_path / "log") as server:
        begin = time.perf_counter()
        found = windows(Access(server.address), load(20_000), Closed(2), 4)  # the fourth is of a second run
        took_s = time.perf_counter() - begin
        answered = sum(each.answered for each in found)
        assert 0 < answered < len(server.peers())  # the warm-ups are not in it
        assert len(set(server.peers())) == 1 + 2 * 2  # the proof's connection, and those of two runs
    assert sum(each.wall_s for each in found) < took_s
    total = Window()
    for each in found:
        total.add(each)
        assert each.wall_s > 0
        assert each.answers == each.answered
        assert each.rows == 3 * each.answers
        assert each.busiest == pytest.approx(each.cpu_s / each.wall_s)
        assert not each.failures
    assert total.latencies.get_min_value() >= 20_000_000 * (1 - 1 / 1024)
    in_flight = total.latencies.get_mean_value() / 1e9 * answered / total.wall_s
    assert in_flight == pytest.approx(2, rel=0.25)  # Little's law


@needs_h2load
def test_a_real_server_is_measured_as_by_our_own_clients(server: Served):
    target = find(Access(server.address), "", "auto", None)
    built = build(target, Drawn(), Fixed(16), 1)
    cell = measure(H2load(), target, built, Closed(4), Pace(0.1, 0.2, 6, 1), Watch(target, None, None))
    assert (cell.load, cell.rows, cell.concurrency, cell.offered, cell.failures) == ("16", 16.0, 4, None, {})
    assert 0 < cell.latency_us["p50"] <= cell.latency_us["p99"] <= cell.latency_us["max"]
    assert cell.rows_per_s == pytest.approx(16 * cell.rate, rel=0.01)
    assert cell.server.compute_us
    assert 3 <= len(cell.windows) <= 6


@needs_h2load
@pytest.mark.parametrize("status", ["RESOURCE_EXHAUSTED", "INTERNAL"])
def test_calls_that_are_refused_are_not_taken_for_answers(tmp_path: Path, status: str):
    with (
        faking(tmp_path / "log", "--refuse", status, "--after", "10") as server,
        pytest.raises(Unavailable, match=r"% of \d+ replies are missing or without scores. Use --driver quorem"),
    ):
        windows(Access(server.address), load(1000), Closed(2), 3)


@needs_h2load
def test_a_server_that_dies_is_told(tmp_path: Path):
    with (
        faking(tmp_path / "log", "--die", "--after", "20") as server,
        pytest.raises(Unavailable, match=f"{server.address}: the server answers. Found: UNAVAILABLE"),
    ):
        windows(Access(server.address), load(1000), Closed(2), 4)


@needs_h2load
def test_a_server_that_refuses_from_the_first_call_is_told_with_its_status(tmp_path: Path):
    with faking(tmp_path / "log", "--refuse", "UNAVAILABLE") as server, pytest.raises(Unavailable, match="UNAVAILABLE"):
        windows(Access(server.address), load(1000), Closed(2), 1)


@needs_h2load
def test_the_program_ends_with_the_windows(tmp_path: Path):
    with faking(tmp_path / "log") as server:
        assert len(windows(Access(server.address), load(1000), Closed(1), 1)) == 1
        time.sleep(0.2)  # for what was in flight
        calls = len(server.peers())
        time.sleep(0.3)
        assert len(server.peers()) == calls


@pytest.mark.parametrize(
    ("access", "sent", "arrivals", "found"),
    [
        (Access("localhost:1", Tls()), load(1), Closed(1), "TLS or a token"),
        (Access("localhost:1", token_file=Path("token")), load(1), Closed(1), "TLS or a token"),
        (Access("localhost:1"), load(1), Poisson(5.0, 1), "arrivals at a rate"),
        (Access("localhost:1"), replace(load(1), name="1-2", counts=(1, 2)), Closed(1), "requests of 1-2 rows"),
    ],
    ids=["TLS", "token", "Poisson", "several sizes"],
)
def test_what_it_cannot_do_is_refused(access: Access, sent: Load, arrivals: Arrivals, found: str):
    with pytest.raises(DataError, match=found):
        windows(access, sent, arrivals, 1)


def test_without_the_program_its_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotFound, match="Install nghttp2-client"):
        windows(Access("localhost:1"), load(1), Closed(1), 1)


def test_the_log_is_read_line_by_line_wherever_it_is_cut():
    calls = ((200, 1500), (-1, 0), (503, 70), (200, 2500))
    lines = b"".join(b"17000000000%05d\t%d\t%d\n" % (number, *call) for number, call in enumerate(calls))
    for cut in range(len(lines) + 1):
        first, rest = _split(lines[:cut])
        second, left = _split(rest + lines[cut:])
        assert (first + second, left) == (lines, b"")
        total = Window()
        for each in (first, second):
            total.add(_window(each, 5, 1.0, 0.25))
        assert (total.answered, total.answers, total.rows) == (2, 2, 10)
        assert dict(total.failures) == {"UNAVAILABLE": 1, "HTTP 503": 1}
        assert total.failed.get_total_count() == 2
        found = [total.latencies.get_value_at_percentile(share) for share in (50, 100)]
        np.testing.assert_allclose(found, [1_500_000, 2_500_000], rtol=1e-3)
        assert (total.wall_s, total.cpu_s, total.busiest) == (2.0, 0.5, 0.25)
    assert DROPPED == -1
