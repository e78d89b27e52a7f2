"""The laws of admission: rows in flight, deadlines, estimates that do not refuse for ever."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from quorem.protos.errors import Gone, Overloaded, TooLate
from quorem.serve.admission import STALE_S, Admission
from quorem.serve.call import Call


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of admission and of calls."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def spend(entry: Admission, clock: Clock, rows: int, cost_s: float, times: int = 1) -> None:
    """Calls of so many rows, one after the other, each of that cost."""
    for _ in range(times):
        with entry.enter(rows, Call(model="ctr")):
            clock.now += cost_s


def within(clock: Clock, seconds: float) -> Call:
    return Call(model="ctr", deadline=clock.now + seconds)


def test_rows_in_flight_are_bounded_and_come_free_again():
    entry = Admission(100)
    with entry.enter(60, Call()), entry.enter(40, Call()):
        with (
            pytest.raises(Overloaded, match=r"at most 100 rows in flight.*Found: 100") as refused,
            entry.enter(1, Call()),
        ):
            pass
        assert refused.value.retry_s > 0
    with entry.enter(100, Call()):
        pass


def test_a_call_of_more_rows_than_all_is_let_in_alone():
    entry = Admission(100)
    with entry.enter(400, Call()), pytest.raises(Overloaded), entry.enter(1, Call()):
        pass
    with entry.enter(1, Call()), pytest.raises(Overloaded), entry.enter(400, Call()):
        pass


def test_a_failed_call_leaves_too_and_teaches_nothing(clock: Clock):
    entry = Admission(100)

    def fail() -> None:
        with entry.enter(100, Call(model="ctr")):
            clock.now += 50
            raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        fail()
    with entry.enter(100, within(clock, 0.001)):
        pass


def test_a_deadline_that_has_passed_and_a_caller_that_has_gone_are_not_computed(clock: Clock):
    entry = Admission(100)
    with pytest.raises(TooLate), entry.enter(1, within(clock, 0)):
        pass
    with pytest.raises(Gone), entry.enter(1, Call(is_wanted=lambda: False)):
        pass


def test_a_call_too_large_for_its_deadline_is_too_late_and_one_behind_others_is_refused(clock: Clock):
    entry = Admission(8192)
    spend(entry, clock, 1000, 0.002, times=5)
    with (
        pytest.raises(TooLate, match=r"1.9 ms left, 2.0 ms of work for 1000 rows"),
        entry.enter(1000, within(clock, 0.0019)),
    ):
        pass
    with entry.enter(1000, Call(model="ctr")), entry.enter(2000, within(clock, 0.0061)):
        with pytest.raises(Overloaded, match="Try again in 6 ms") as refused, entry.enter(500, within(clock, 0.0069)):
            pass
        assert refused.value.retry_s == pytest.approx(0.006)
        with entry.enter(500, within(clock, 0.0071)):
            pass


def test_calls_that_take_turns_cost_their_share_of_the_time(clock: Clock):
    entry = Admission(8192)
    for _ in range(50):
        with ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(entry.enter(1000, Call(model="ctr")))
            clock.now += 0.008  # four at once, 2 ms of work each
    with entry.enter(1000, within(clock, 0.0021)):
        pass
    with pytest.raises(TooLate), entry.enter(1000, within(clock, 0.0019)):
        pass


def test_each_model_has_a_pace_of_its_own(clock: Clock):
    entry = Admission(8192)
    spend(entry, clock, 1000, 0.002)
    with entry.enter(1000, Call(model="slow")):
        clock.now += 0.5
    with entry.enter(1000, within(clock, 0.0021)):
        pass


def test_one_bad_measurement_does_not_refuse_for_ever(clock: Clock):
    entry = Admission(8192)
    spend(entry, clock, 1, 5.0)  # the tables came from disk
    with pytest.raises(TooLate), entry.enter(1, within(clock, 0.1)):
        pass
    clock.now += STALE_S
    with entry.enter(1, within(clock, 0.1)):
        clock.now += 0.0001
    with entry.enter(1, within(clock, 0.1)):
        pass


def test_calls_whose_rows_are_unknown_count_as_average_ones(clock: Clock):
    entry = Admission(8192)
    assert entry.refusal(7) is None  # nothing is known yet
    spend(entry, clock, 1024, 0.002, times=100)
    assert entry.refusal(7) is None
    told = entry.refusal(8)
    assert told is not None
    assert told.retry_s == pytest.approx(0.016)
    with entry.enter(1024, Call()), entry.enter(1024, Call()):  # of which two have entered
        assert entry.refusal(7) is None
        assert entry.refusal(8) is not None
    with entry.enter(4096, Call()), entry.enter(4096, Call()):
        assert entry.refusal(2) is not None


def test_an_idle_worker_refuses_nobody_before_its_rows_are_known(clock: Clock):
    entry = Admission(100)
    spend(entry, clock, 5000, 0.01)
    assert entry.refusal(0) is None
    assert entry.refusal(1) is not None


def test_many_threads_leave_nothing_behind():
    entry = Admission(64)

    def work(number: int) -> str:
        try:
            with entry.enter(1 + number % 32, Call(model="ctr", deadline=time.monotonic() + 5)):
                time.sleep(0.0005)
                return "done"
        except Overloaded:
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(work, range(400))) <= {"done", "refused"}
    with entry.enter(64, Call()):  # all rows have come free
        pass
