"""The first cases of the fuzz of requests: each is answered, or refused as its caller's; what is not would be told."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fuzz_requests as fuzz
import pytest
from served import Rows

CASES, CHANNEL_CASES = 40, 120


@pytest.fixture
def judge(golden: Rows, served_root: Path, tmp_path: Path) -> Iterator[fuzz.Judge]:
    log = tmp_path / "log"
    log.touch()
    judge = fuzz.Judge(golden, served_root / "models", log)
    yield judge
    judge.close()


def test_mutated_requests_are_answered_or_refused(golden: Rows, served_root: Path):
    methods = fuzz.Cases(golden).methods
    raw = fuzz.fuzz_raw(golden, served_root, fuzz.batches(0, methods, 5 * CASES, CASES))
    assert raw.failures == []
    assert raw.ends.total() == 2 * 5 * CASES + (len(methods) - 2) * CASES
    for method in fuzz.HEAVY:
        assert raw.ends[method, "OK"] > CASES / 2, "a request that is odd is not always wrong"
        assert raw.ends[method, "INVALID_ARGUMENT"] > CASES
        assert raw.ends[method, "NOT_FOUND"] > 0
    over = fuzz.fuzz_channel(golden, served_root, iter(range(CHANNEL_CASES)))
    assert over.failures == []
    assert over.ends.total() == CHANNEL_CASES


def test_a_seed_gives_the_same_request_again(golden: Rows):
    first, again = fuzz.Cases(golden), fuzz.Cases(golden)
    for method in first.methods:
        found = [first.make(method, seed) for seed in range(50)]
        assert found == [again.make(method, seed) for seed in range(50)]
        assert len({*map(tuple, found)}) > 3


def test_a_request_that_breaks_is_told(judge: fuzz.Judge):
    judged, _ = judge.judge("Unknown", range(2))
    assert judged.ends == Counter({("Unknown", "FAILED"): 2})
    assert all("KeyError" in failure for failure in judged.failures)


def test_one_that_ends_the_process_is_told_and_the_next_is_judged(judge: fuzz.Judge):
    os.kill(judge._process.pid or 0, signal.SIGKILL)
    judged, _ = judge.judge("Score", range(1))
    assert "ended with -9" in judged.failures[0]
    judged, memory = judge.judge("Score", range(3))
    assert (judged.failures, judged.ends.total()) == ([], 3)
    assert memory > 0


def test_one_that_hangs_is_told(judge: fuzz.Judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzz, "HANG_S", 0.5)
    os.kill(judge._process.pid or 0, signal.SIGSTOP)
    judged, _ = judge.judge("Score", range(1))
    assert "no answer after 0.5 s" in judged.failures[0]
