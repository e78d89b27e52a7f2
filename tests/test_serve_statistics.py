"""What a worker counts: exact, the same from many threads as from one, and the sum of parts is the count of all."""

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos.encode import Encoded
from quorem.protos.ids import MISSING
from quorem.serve.call import Call
from quorem.serve.columns import encode as column_of
from quorem.serve.model import Model
from quorem.serve.observed import SAMPLE, Scores
from quorem.serve.settings import Version
from quorem.serve.sides import Apart
from quorem.serve.statistics import BOUNDS_NS, Statistics, add
from quorem.serve.statuses import Status
from served import ROWS, Rows, head

CONTEXT = ("user", "age", "price", "rank")  # the schema's own
Record = tuple[str, int, str, Status, int, tuple[int, int, int, int]]


@pytest.fixture(scope="module")
def model(served_root: Path, golden: Rows) -> Model:
    assert len(golden.logits) == ROWS
    return Model(Version("ctr", 1, served_root / "models" / "ctr" / "1"), "cpu")


def count(statistics: Statistics, records: Sequence[Record]) -> dict[str, Any]:
    for name, version, method, status, rows, times in records:
        statistics.record(Call(model=name, version=version, rows=rows), method, status, *times[:3], sum(times))
    return statistics.snapshot()


def timeless(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Without the moments."""
    return {
        key: timeless(value) if isinstance(value, dict) else value
        for key, value in snapshot.items()
        if key != "last_ms"
    }


times = st.integers(0, 10**10)
records = st.lists(
    st.tuples(
        st.sampled_from(["ctr", "cvr", ""]),
        st.integers(1, 3),
        st.sampled_from(["Score", "ModelInfer"]),
        st.sampled_from([Status.OK, Status.NOT_FOUND, Status.RESOURCE_EXHAUSTED]),
        st.integers(0, 5000),
        st.tuples(times, times, times, times),
    ),
    max_size=20,
)


@given(st.lists(records, min_size=1, max_size=4))
def test_the_sum_of_the_workers_counts_is_the_count_of_all_calls(workers: list[list[Record]]):
    parts = [json.loads(json.dumps(count(Statistics(), each))) for each in workers]
    whole = count(Statistics(), [record for each in workers for record in each])
    assert timeless(reduce(add, parts)) == timeless(whole)


def test_a_moment_is_the_last_one_and_a_sum_leaves_its_parts_alone():
    left, right = {"last_ms": 5, "rows": {"a": 1}}, {"last_ms": 3, "rows": {"a": 2, "b": 3}}
    assert add(left, right) == {"last_ms": 5, "rows": {"a": 3, "b": 3}}
    assert (left, right) == ({"last_ms": 5, "rows": {"a": 1}}, {"last_ms": 3, "rows": {"a": 2, "b": 3}})


def test_a_call_is_counted_by_status_and_by_the_bound_that_its_time_is_within():
    statistics = Statistics()
    call = Call(model="ctr", version=3, rows=3)
    for total in (1, BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1] + 1):
        statistics.record(call, "Score", Status.OK, total_ns=total)
    statistics.record(call, "Score", Status.INTERNAL, total_ns=17)
    statistics.record(Call(), "ServerLive", Status.OK, total_ns=1)
    found = statistics.snapshot()["models"]
    assert found["ctr"]["3"]["calls"] == {"Score": {"OK": 4, "INTERNAL": 1}}
    latency = found["ctr"]["3"]["latency"]
    assert {bound: each for bound, each in latency.items() if each} == {"0.0001": 2, "0.0002": 1, "+Inf": 1}
    assert (found["ctr"]["3"]["rows"], found["ctr"]["3"]["failed_ns"]) == (12, 17)
    assert list(found["ctr"]["3"]["batches"]) == ["4"]
    assert found[""]["0"]["calls"] == {"ServerLive": {"OK": 1}}
    assert (found[""]["0"]["rows"], found[""]["0"]["executions"]) == (0, 0)


def test_no_call_is_lost_between_threads():
    statistics, call = Statistics(), Call(model="ctr", version=1, rows=2)

    def work() -> None:
        for _ in range(2000):
            statistics.record(call, "Score", Status.OK, 1, 1, 1, 4)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = statistics.snapshot()["models"]["ctr"]["1"]
    assert (found["executions"], found["rows"], found["total_ns"]) == (8000, 16000, 32000)


def test_versions_that_are_gone_are_forgotten():
    statistics = Statistics()
    for version in (1, 2):
        statistics.record(Call(model="ctr", version=version), "Score", Status.OK)
    statistics.record(Call(), "Score", Status.NOT_FOUND)
    statistics.keep([("ctr", 2)])
    found = statistics.snapshot()["models"]
    assert {name: list(versions) for name, versions in found.items()} == {"ctr": ["2"], "": ["0"]}


@given(st.lists(st.tuples(st.lists(st.floats(-200, 200, width=32), max_size=80), st.booleans()), max_size=8))
def test_scores_are_summed_and_binned(calls: list[tuple[list[float], bool]]):
    scores, expected = Scores(), list[float]()
    for values, logits in calls:
        found = np.array(values, np.float32)
        with np.errstate(over="ignore"):
            probabilities = 1 / (1 + np.exp(-found))
        scores.take(found if logits else probabilities, logits=logits)
        expected += probabilities.astype(np.float64).tolist()
    counted: Any = scores.snapshot()
    assert (counted["count"], counted["invalid"]) == (len(expected), 0)
    assert counted["sum"] == pytest.approx(sum(expected))
    assert counted["squares"] == pytest.approx(sum(each**2 for each in expected))
    bins = {str(number): 0 for number in range(10)}
    for each in expected:
        bins[str(min(int(each * 10), 9))] += 1
    assert counted["bins"] == bins


def test_a_score_that_is_no_number_is_counted_apart():
    scores = Scores()
    scores.take(np.array([0.5, np.nan, np.inf, 1, 0], np.float32), logits=False)
    scores.take(np.array([np.nan, np.inf], np.float32), logits=True)
    counted: Any = scores.snapshot()
    assert (counted["count"], counted["invalid"], counted["sum"]) == (4, 3, 2.5)


def test_missing_and_unseen_values_are_counted_by_feature(model: Model, golden: Rows):
    ids, dense = golden.encoded.ids.copy(), golden.encoded.dense
    starts = {name: start for name, (start, _) in model.layout.slots.items()}
    expected = {name: {"values": ROWS, "missing": int((ids[:, at] == MISSING).sum())} for name, at in starts.items()}
    expected |= {
        name: {"values": ROWS, "missing": int(np.isnan(dense[:, at]).sum())} for name, at in model.layout.dense.items()
    }
    assert 0 < expected["user"]["missing"] < ROWS
    assert 0 < expected["price"]["missing"] < ROWS
    known = [ids[:, starts[name]] for name in ("user", "seen")]
    for name, size, column in (("user", 1000, known[0]), ("seen", 50, known[1])):
        expected[name]["unseen"] = int(((column != MISSING) & ((column < 0) | (column >= size))).sum())
    assert expected["seen"]["unseen"] > 0
    statistics = Statistics()
    for _ in range(SAMPLE + 1):  # the first and the last are the sample
        statistics.observe(model, [lambda: Encoded(ids, dense)], [np.full(ROWS, 0.25, np.float32)], logits=False)
    found = statistics.snapshot()["models"]["ctr"]["1"]
    assert found["fields"] == {name: {key: 2 * value for key, value in each.items()} for name, each in expected.items()}
    assert (found["scores"]["count"], found["scores"]["sum"]) == ((SAMPLE + 1) * ROWS, (SAMPLE + 1) * ROWS / 4)
    json.dumps(found)


@pytest.mark.parametrize("context", [CONTEXT, ("user", "age", "item")], ids=["the schema's", "others"])
def test_a_context_is_counted_once(model: Model, golden: Rows, context: tuple[str, ...]):
    shared = [column_of(name, head(golden.columns[name], 1)) for name in context]
    own = [column_of(name, each) for name, each in golden.columns.items() if name not in context]
    encoded = model.sides.encode(shared, own, ROWS)
    statistics = Statistics()
    statistics.observe(model, [lambda: encoded], [np.zeros(ROWS, np.float32)], logits=True)
    found = statistics.snapshot()["models"]["ctr"]["1"]["fields"]
    apart = isinstance(encoded, Apart)
    assert apart == (context == CONTEXT)
    assert {name: each["values"] for name, each in found.items()} == {
        name: 1 if apart and name in context else ROWS for name in golden.columns
    }
    missing = {name: golden.encoded.ids[:, start] == MISSING for name, (start, _) in model.layout.slots.items()}
    missing |= {name: np.isnan(golden.encoded.dense[:, at]) for name, at in model.layout.dense.items()}
    for name, flags in missing.items():
        expected = int(flags[0]) * found[name]["values"] if name in context else int(flags.sum())
        assert found[name]["missing"] == expected, name
    seen = golden.encoded.ids[:, model.layout.slots["seen"][0]]
    assert found["seen"]["unseen"] == int(((seen != MISSING) & (seen >= 50)).sum())
