"""The laws of the batcher: own rows, bounded size, bounded wait, errors for all of a batch, nothing for nobody."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos.errors import Gone, TooLate
from quorem.serve.batches import parts
from quorem.serve.batching import Arrays, Batcher
from quorem.serve.call import Call
from quorem.serve.client import Client
from served import ROWS, Rows, serving

LONG_S = 20.0


def arrays(first: int, rows: int) -> dict[str, np.ndarray]:
    """Rows that are told apart: the ids first, first + 1, …"""
    ids = np.arange(first, first + rows, dtype=np.int64)[:, None]
    return {"ids": ids, "dense": ids.astype(np.float32)}


def double(key: Any, given: Arrays) -> list[np.ndarray]:
    """Two results, each of a row for each row."""
    ids = given["ids"][:, 0]
    assert (given["dense"][:, 0] == ids).all()
    return [ids * 2 + key, -ids]


@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 6), st.sampled_from([0, 0.0005, 0.003])), min_size=1, max_size=24
    ),
    max_rows=st.integers(1, 12),
    delay=st.sampled_from([0.0, 0.001, 0.004]),
)
def test_every_caller_gets_its_own_rows_and_no_batch_is_too_large(
    calls: list[tuple[int, int, float]], max_rows: int, delay: float
):
    sizes = list[int]()

    def run(key: Any, given: Arrays) -> list[np.ndarray]:
        sizes.append(len(given["ids"]))
        return double(key, given)

    batcher = Batcher(run, max_rows, delay, lambda: len(calls))

    def call(number: int) -> None:
        key, rows, pause = calls[number]
        time.sleep(pause)
        first, second = batcher.run(key, arrays(100 * number, rows), rows, Call())
        ids = np.arange(100 * number, 100 * number + rows)
        assert (first == ids * 2 + key).all()
        assert (second == -ids).all()

    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(call, range(len(calls))))
    assert sum(sizes) == sum(rows for _, rows, _ in calls)
    assert all(size <= max_rows or size in {rows for _, rows, _ in calls} for size in sizes)


def together(batcher: Batcher, calls: list[Call], rows: int = 1) -> list[object]:
    """What each of these callers, who come at about the same time, is given or told."""

    def one(number: int) -> object:
        try:
            return batcher.run("key", arrays(number, rows), rows, calls[number])
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, range(len(calls))))


def test_a_full_batch_is_computed_at_once():
    begun = time.monotonic()
    found = together(Batcher(lambda _, given: double(0, given), 4, LONG_S, lambda: 8), [Call() for _ in range(8)])
    assert time.monotonic() - begun < LONG_S / 2
    assert [np.asarray(each).ravel().tolist() for each in found] == [[2 * n, -n] for n in range(8)]


def test_a_caller_that_no_other_follows_is_computed_at_once():
    begun = time.monotonic()
    Batcher(lambda _, given: double(0, given), 100, LONG_S, lambda: 1).run("key", arrays(1, 1), 1, Call())
    assert time.monotonic() - begun < LONG_S / 2


def test_one_that_never_comes_is_waited_for_no_longer_than_the_delay():
    batcher, begun = Batcher(lambda _, given: double(0, given), 100, 0.05, lambda: 2), time.monotonic()
    batcher.run("key", arrays(1, 1), 1, Call())
    assert 0.04 < time.monotonic() - begun < LONG_S / 2


def test_what_comes_while_another_is_computed_is_computed_together():
    sizes, begun, go = list[int](), threading.Event(), threading.Event()

    def run(_: Any, given: Arrays) -> list[np.ndarray]:
        sizes.append(len(given["ids"]))
        begun.set()
        assert go.wait(LONG_S)
        return double(0, given)

    batcher = Batcher(run, 100, 0.0, lambda: 0)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.run, "key", arrays(0, 1), 1, Call())
        assert begun.wait(LONG_S)
        others = [pool.submit(batcher.run, "key", arrays(number, 1), 1, Call()) for number in (1, 2, 3)]
        while batcher._here < 4:
            time.sleep(0.001)
        time.sleep(0.05)  # the last of them is here, and joins
        go.set()
        assert [each.result()[0].tolist() for each in (first, *others)] == [[0], [2], [4], [6]]
    assert sizes == [1, 3]


def test_a_caller_of_more_rows_than_a_batch_is_computed_alone():
    (ids, _) = Batcher(lambda _, given: double(0, given), 4, LONG_S, lambda: 1).run("key", arrays(0, 9), 9, Call())
    assert ids.tolist() == list(range(0, 18, 2))


def test_an_error_reaches_all_of_its_batch_and_nobody_else():
    def run(_: Any, given: Arrays) -> list[np.ndarray]:
        if (given["ids"] == 1).any():
            raise ValueError("one of them")
        return double(0, given)

    batcher = Batcher(run, 3, LONG_S, lambda: 3)
    assert [str(each) for each in together(batcher, [Call() for _ in range(3)])] == ["one of them"] * 3
    assert [len(part) for part in batcher.run("key", arrays(5, 3), 3, Call())] == [3, 3]


@pytest.mark.parametrize(
    ("unwanted", "error"),
    [
        (lambda: Call(deadline=time.monotonic() - 1), TooLate),
        (lambda: Call(deadline=time.monotonic() + 0.01), TooLate),  # passes while the batch gathers
        (lambda: Call(is_wanted=lambda: False), Gone),
    ],
)
def test_what_nobody_waits_for_is_not_computed_and_harms_nobody(unwanted: Callable[[], Call], error: type[Exception]):
    seen = list[int]()

    def run(_: Any, given: Arrays) -> list[np.ndarray]:
        seen.extend(given["ids"][:, 0].tolist())
        return double(0, given)

    found = together(Batcher(run, 100, 0.1, lambda: 4), [Call(), unwanted(), Call()])
    assert isinstance(found[1], error)
    assert sorted(seen) == [0, 2]
    assert [np.asarray(found[each]).ravel().tolist() for each in (0, 2)] == [[0, 0], [4, -2]]
    seen.clear()
    (alone,) = together(Batcher(run, 100, 0.1, lambda: 3), [unwanted()])
    assert isinstance(alone, error)
    assert seen == []


def test_keys_are_computed_apart():
    seen, gate = list[int](), threading.Barrier(4)

    def run(key: Any, given: Arrays) -> list[np.ndarray]:
        seen.append(key)
        return double(key, given)

    batcher = Batcher(run, 2, LONG_S, lambda: 4)

    def one(number: int) -> list[int]:
        gate.wait()
        return batcher.run(number % 2, arrays(number, 1), 1, Call())[0].tolist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [[0], [3], [4], [7]]
    assert sorted(seen) == [0, 1]


def test_callers_of_a_server_that_batches_get_their_own_scores(served_root: Path, golden: Rows, tmp_path: Path):
    bounds = [0, 1, 3, 4, 9, 11, 12, 15, ROWS]
    asked = list(parts(golden.columns, ROWS, bounds))
    with serving(served_root / "models", tmp_path / "log", "--workers", "1", "--batch-rows", "16") as server:

        def ask(number: int) -> None:
            batch = asked[number % len(asked)]
            expected = golden.logits[batch.first : batch.first + batch.rows]
            with Client(server.address) as client:
                for _ in range(10):
                    found = client.score("ctr", batch.columns, batch.rows, logit=True).scores
                    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(ask, range(24)))
