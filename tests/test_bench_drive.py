"""The clients of a bench against a server of known latencies: what they tell is true and whole."""

import time
from itertools import islice
from pathlib import Path
from threading import Event, Thread

import grpc
import numpy as np
import pytest
from driving import KS_1_PERCENT, MS, PATH, RESOLUTION, SHARES, load, percentile, slack, totalled
from fake_server import Fake, faking
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos.errors import Unavailable
from quorem.serve.bench.drive import Closed, Drivers, Poisson, record, shares, window_of
from quorem.serve.bench.loops import NOTES, Job, Log, closed_loop, open_loop, schedule
from quorem.serve.bench.result import LEAST_NS, MOST_NS, histogram
from quorem.serve.channel import Access
from served import eventually


@given(
    st.lists(st.integers(LEAST_NS, MOST_NS) | st.sampled_from([5 * MS, 50 * MS, 1000 * MS]), min_size=1, max_size=300)
)
@settings(max_examples=30)
def test_numbers_folded_into_a_histogram_are_those_recorded_one_by_one(values: list[int]):
    folded, one_by_one = histogram(), histogram()
    record(folded, np.array(values))
    for value in values:
        one_by_one.record_value(value)
    assert folded.get_total_count() == len(values)
    assert list(folded.counts) == list(one_by_one.counts)


def test_percentiles_are_those_of_the_list():
    rng = np.random.default_rng(3)
    constant, slow = np.full(5000, 7 * MS), np.full(500, 70 * MS)
    stalled = np.concatenate([constant, rng.integers(0, 1000 * MS, 100)])
    for values in (constant, np.concatenate([constant, slow]), stalled, rng.lognormal(15, 2, 5000).astype(np.int64)):
        found = histogram()
        record(found, np.clip(values, LEAST_NS, MOST_NS))
        for share in SHARES:
            true = percentile(np.clip(values, LEAST_NS, MOST_NS), share)
            assert abs(found.get_value_at_percentile(share) - true) <= slack(true)


class Witness:
    """A channel that notes when each call was handed to gRPC and when it came back, beside the loop that it serves."""

    def __init__(self, channel: grpc.Channel, enough: int, stop: Event) -> None:
        self.channel, self.enough, self.stop = channel, enough, stop
        self.begun, self.ended = list[int](), list[int]()

    def unary_unary(self, path: str):
        call = self.channel.unary_unary(path)

        def timed(request: bytes, **options: object) -> bytes:
            self.begun.append(time.perf_counter_ns())
            reply = call(request, **options)
            self.ended.append(time.perf_counter_ns())
            if len(self.ended) == self.enough:
                self.stop.set()
            return reply

        return timed


@pytest.mark.parametrize("microseconds", [[3000], [2000] * 9 + [20000]], ids=["constant", "bimodal"])
def test_percentiles_lie_between_what_the_thread_saw_and_what_it_could_have_seen(
    microseconds: list[int], tmp_path: Path
):
    stop, log, sent = Event(), Log(), load(*microseconds)
    with faking(tmp_path / "log") as fake, Access(fake.address).channel() as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        witness = Witness(channel, 150, stop)
        job = Job(Access(fake.address), PATH, sent.requests, 0, Closed(1), 0, 30.0)
        start = time.perf_counter_ns()
        closed_loop(job, witness, 0, log, stop)  # pyright: ignore[reportArgumentType]  # a witness has what the loop uses of a channel
        end = time.perf_counter_ns()
        served = fake.latencies()
    calls = np.frombuffer(log.report().calls, np.int64).reshape(-1, NOTES)
    assert len(calls) == len(served) == 150
    found = histogram()
    record(found, calls[:, 2] - calls[:, 0])
    least = np.array(witness.ended) - witness.begun
    most = np.array([*witness.begun[1:], end]) - [start, *witness.ended[:-1]]
    assert (served >= np.resize(microseconds, 150) * 1000).all()
    assert (served <= least).all()
    for share in SHARES:
        told = found.get_value_at_percentile(share)
        below, above = percentile(least, share), percentile(most, share)
        assert below - slack(below) <= told <= above + slack(above)
        assert told >= percentile(served, share) * (1 - RESOLUTION)


def test_a_bench_tells_what_the_server_did(drivers: Drivers, tmp_path: Path):
    with faking(tmp_path / "log") as fake:
        begin = time.perf_counter()
        found = totalled(drivers, fake, load(*[5000] * 9, 50000), Closed(5), 0.5, 3)
        elapsed_s = time.perf_counter() - begin
        served, peers = fake.latencies(), fake.peers()
    told = found.latencies
    assert (found.answered > 0, found.failures, found.late.get_total_count()) == (True, {}, 0)
    assert told.get_min_value() >= 5 * MS * (1 - RESOLUTION)
    assert told.get_value_at_percentile(95) >= 50 * MS * (1 - RESOLUTION)
    assert served.mean() * 0.8 <= told.get_mean_value() <= 5 * elapsed_s * 1e9 / found.answered
    assert found.answered <= len(served)
    assert found.wall_s == pytest.approx(1.5)
    assert found.answered - 5 <= found.answers <= found.answered
    assert found.rate == found.answers / found.wall_s
    assert 1 <= found.rows / found.answers <= 10
    assert 0 < found.busiest * 1.5 <= found.cpu_s
    assert len(set(peers)) == 5


def test_an_open_loop_shows_the_stall_that_a_closed_one_hides(drivers: Drivers, tmp_path: Path):
    arrivals, windows, window_s = Poisson(100, 7), 5, 0.5
    with faking(tmp_path / "open", "--stall", "0.5") as fake:
        opened = totalled(drivers, fake, load(2000), arrivals, window_s, windows)
    with faking(tmp_path / "closed", "--stall", "0.5") as fake:
        closed = totalled(drivers, fake, load(2000), Closed(1), window_s, windows)
    assert (opened.failures, closed.failures) == ({}, {})
    assert closed.latencies.get_max_value() >= 900 * MS
    assert closed.latencies.get_value_at_percentile(99) < 500 * MS
    assert opened.latencies.get_value_at_percentile(99) >= 900 * MS
    # Of the 250 calls of 2.5 s, those due in the stall's second waited for its end: some 50 of them half a second.
    assert opened.latencies.get_value_at_percentile(90) >= 500 * MS
    due = [
        offset
        for number, share in enumerate(shares(arrivals, 2))
        for offset in islice(schedule(share, number), 1000)
        if offset < windows * window_s * 1e9
    ]
    assert opened.answered == len(due)
    assert opened.late.get_total_count() == len(due)


def test_latency_is_counted_from_when_a_call_was_due_and_late_sends_are_told(plain: Fake):
    log, sent, late_ns = Log(), load(1000), 300 * MS
    with Access(plain.address).channel() as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        job = Job(Access(plain.address), PATH, sent.requests, 0, Poisson(1000, 1), 0, 30.0)
        start = time.perf_counter_ns() - late_ns
        open_loop(job, [channel], iter(range(20)), start, log, Event())
        eventually(log.empty)
    calls = np.frombuffer(log.report().calls, np.int64).reshape(-1, NOTES)
    found = window_of(calls, np.array(sent.counts), start, start + MS, scheduled=True)
    assert found.answered == found.overdue == found.late.get_total_count() == 20
    assert found.answers == 0
    assert found.late.get_min_value() >= late_ns * (1 - RESOLUTION)
    assert found.latencies.get_min_value() >= (late_ns + MS) * (1 - RESOLUTION)


def test_a_call_counts_where_it_was_due_and_its_answer_where_it_came():
    calls = np.array([[5, 5, 9, 0, 0], [8, 9, 14, 1, 0], [9, 9, 12, 0, 14], [11, 11, 19, 1, 0]]) * [MS, MS, MS, 1, 1]
    first, second = (
        window_of(calls, np.array([1, 10]), begin, begin + 10 * MS, scheduled=True) for begin in (0, 10 * MS)
    )
    assert (first.answered, first.answers, first.rows, first.failures) == (2, 1, 1, {"UNAVAILABLE": 1})
    assert (second.answered, second.answers, second.rows, second.failures) == (1, 2, 20, {})
    assert first.latencies.get_max_value() == pytest.approx(6 * MS, rel=RESOLUTION)
    assert first.failed.get_max_value() == pytest.approx(3 * MS, rel=RESOLUTION)
    first.add(second)
    assert (first.answered, first.answers, first.rows, first.failures.total(), first.wall_s) == (3, 3, 21, 1, 0.02)
    assert window_of(calls, np.array([1, 10]), 0, MS, scheduled=True).rate == 0


def test_no_latency_is_dropped_for_being_long_or_short():
    found = histogram()
    record(found, np.array([0, 1, 2 * MOST_NS]))
    assert found.get_total_count() == 3
    assert found.get_max_value() == pytest.approx(MOST_NS, rel=RESOLUTION)


def test_arrivals_are_a_poisson_process_split_or_not():
    offsets = [list(islice(schedule(share, number), 4000)) for number, share in enumerate(shares(Poisson(300, 5), 3))]
    until = min(each[-1] for each in offsets)
    merged = sorted(offset for each in offsets for offset in each if offset <= until)
    for times, rate in [(offsets[0], 100), (offsets[1], 100), (merged, 300)]:
        gaps = np.sort(np.diff([0, *times]))
        steps = np.arange(len(gaps) + 1) / len(gaps)
        expected = 1 - np.exp(-gaps * rate / 1e9)
        statistic = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
        assert statistic * np.sqrt(len(gaps)) < KS_1_PERCENT
        per_second = np.bincount(np.array(times) // 1_000_000_000)[:-1]
        assert per_second.var() == pytest.approx(rate, rel=0.6)  # a Poisson count's variance is its mean
    even = np.diff(np.arange(0, 4000 * 10 * MS, 10 * MS)) * 100 / 1e9
    assert (1 - np.exp(-even)).max() * np.sqrt(len(even)) > KS_1_PERCENT  # what keeps time is none


def test_a_seed_draws_the_same_arrivals_and_no_process_those_of_another():
    one, again, other = (list(islice(schedule(Poisson(50, 1), number), 100)) for number in (0, 0, 1))
    assert one == again != other
    assert one != list(islice(schedule(Poisson(50, 2), 0), 100))


@given(st.integers(1, 40), st.integers(1, 8))
def test_loops_are_dealt_out_and_rates_split(concurrency: int, processes: int):
    dealt = [share.concurrency for share in shares(Closed(concurrency), processes) if isinstance(share, Closed)]
    assert sum(dealt) == concurrency
    assert max(dealt) - min(dealt) <= 1
    assert len(dealt) == min(concurrency, processes)
    rates = [share.rate for share in shares(Poisson(concurrency, 0), processes) if isinstance(share, Poisson)]
    assert len(rates) == processes
    assert sum(rates) == pytest.approx(concurrency)


def test_calls_that_fail_are_counted_beside_those_that_are_answered(drivers: Drivers, tmp_path: Path):
    with faking(tmp_path / "log", "--refuse", "INTERNAL", "--after", "1") as fake:
        found = totalled(drivers, fake, load(0), Poisson(60, 3), 1.0, 1)
    assert (found.answered, found.answers) == (1, 1)
    assert found.failures == {"INTERNAL": found.failed.get_total_count()}
    assert found.failures["INTERNAL"] == found.late.get_total_count() - 1


def test_an_endpoint_that_is_not_there_is_told(drivers: Drivers, tmp_path: Path):
    with faking(tmp_path / "log") as fake:
        pass
    with pytest.raises(Unavailable, match="the server takes connections"):
        next(drivers.windows(Access(fake.address), PATH, load(0), Closed(2), 0.0, 0.1, 0.5))


def test_a_client_process_that_dies_is_told(plain: Fake):
    with Drivers(2) as drivers:
        running = drivers.windows(Access(plain.address), PATH, load(1000), Closed(2), 0.0, 0.2, 30.0)
        assert next(running).answered > 0
        killer = Thread(target=drivers._clients[0].process.kill)
        killer.start()
        with pytest.raises(Unavailable, match="client processes live"):
            list(running)
        killer.join()


def test_a_rate_that_no_client_can_send_ends_in_time(drivers: Drivers, plain: Fake):
    begun = time.monotonic()
    window = totalled(drivers, plain, load(0), Poisson(1e6, 1), 0.2, 1, 0.3)
    assert window.failures["DEADLINE_EXCEEDED"] > 0
    assert window.answered + window.failures.total() == pytest.approx(2e5, rel=0.02)
    assert time.monotonic() - begun < 60
