"""Many rows, split into calls: the same scores in the same order, by one version, a few at a time, by both clients."""

import asyncio
import gc
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import served
from quorem.protos.encode import Column
from quorem.protos.errors import InputError, WrongLength, WrongSchema
from quorem.serve.async_client import AsyncClient
from quorem.serve.batches import batches
from quorem.serve.client import Client
from quorem.serve.exchange import Scores
from quorem.serve.rows import Batch
from served import CONTEXT, ROWS, Rows, Served

MOST = 128  # rows that the server of the tests takes in a call
TIMES = 5


def repeated(column: Column) -> Column:
    """The golden rows several times over."""
    cut = {
        name: None if (array := getattr(column, name)) is None else np.tile(array, TIMES)
        for name in ("integers", "floats", "missing", "lengths")
    }
    return replace(column, **cut, strings=None if column.strings is None else list(column.strings) * TIMES)


@pytest.fixture(scope="module")
def many(golden: Rows) -> dict[str, Column]:
    return {name: repeated(column) for name, column in golden.columns.items()}


ScoreRows = Callable[..., Scores]


def sync_rows(address: str, *arguments: object, connections: int = 1, **options: object) -> Scores:
    with Client(address, connections=connections) as client:
        return client.score_rows("ctr", *arguments, **options)


def async_rows(address: str, *arguments: object, connections: int = 1, **options: object) -> Scores:
    async def call() -> Scores:
        async with AsyncClient(address, connections=connections) as client:
            return await client.score_rows("ctr", *arguments, **options)

    return asyncio.run(call())


@pytest.fixture(params=[sync_rows, async_rows], ids=["sync", "async"])
def score_rows(request: pytest.FixtureRequest) -> ScoreRows:
    return request.param


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_rows": 7, "in_flight": 5},
        {"batch_rows": 1 << 20, "in_flight": 1},
        {"batch_rows": 9, "connections": 3},
    ],
    ids=str,
)
def test_many_rows_have_the_golden_scores_in_order(
    score_rows: ScoreRows, server: Served, golden: Rows, many: dict[str, Column], options: dict[str, int]
):
    reply = score_rows(server.address, many, ROWS * TIMES, **options)
    assert reply.scores.dtype == np.float32
    np.testing.assert_allclose(reply.scores, np.tile(golden.scores, TIMES), rtol=1e-5)
    np.testing.assert_array_equal(reply.indices, np.arange(ROWS * TIMES))
    assert (reply.model, reply.version, reply.candidate_ids) == ("ctr", 1, None)
    assert 0 < reply.timings.compute_ns < reply.timings.total_ns


def test_logits_and_no_rows_at_all(score_rows: ScoreRows, server: Served, golden: Rows):
    logits = score_rows(server.address, golden.columns, ROWS, logit=True, batch_rows=10).scores
    np.testing.assert_allclose(logits, golden.logits, rtol=1e-4, atol=1e-5)
    assert score_rows(server.address, golden.take(0), 0).scores.shape == (0,)


def test_one_context_goes_with_every_call(score_rows: ScoreRows, server: Served, golden: Rows):
    context = {name: served.head(golden.columns[name], 1) for name in CONTEXT}
    candidates = {name: column for name, column in golden.columns.items() if name not in CONTEXT}
    with Client(server.address) as client:
        expected = client.score("ctr", candidates, ROWS, context=context).scores
    found = score_rows(server.address, candidates, ROWS, context=context, batch_rows=30).scores
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def with_a_wrong_id(many: dict[str, Column]) -> dict[str, Column]:
    """Those rows, of which the second call of 128 fails."""
    users = many["user"]
    assert users.integers is not None
    integers = users.integers.copy()
    integers[200] = 1000
    return many | {"user": replace(users, integers=integers, missing=None)}


def test_an_error_names_the_rows_of_its_call(score_rows: ScoreRows, server: Served, many: dict[str, Column]):
    with pytest.raises(InputError, match=rf"{server.address}, rows 128 to 255 \(from 0\): .*\[0, 1000\)"):
        score_rows(server.address, with_a_wrong_id(many), ROWS * TIMES)


@pytest.mark.parametrize("change", ["short", "lengths", "sum", "negative", "batch"])
def test_columns_of_another_length_are_refused(
    score_rows: ScoreRows, server: Served, many: dict[str, Column], change: str
):
    tags, rows, batch_rows = many["tags"], ROWS * TIMES, 10
    assert tags.lengths is not None
    lengths = tags.lengths.copy()
    lengths[:2] = lengths[:2].sum() + 1, -1
    wrong = {
        "short": {"price": served.head(many["price"], rows - 1)},
        "lengths": {"tags": replace(tags, lengths=tags.lengths[:-1])},
        "sum": {"tags": replace(tags, lengths=tags.lengths + 1)},
        "negative": {"tags": replace(tags, lengths=lengths)},
        "batch": {},
    }[change]
    batch_rows = 0 if change == "batch" else batch_rows
    with pytest.raises(InputError if change == "batch" else WrongLength, match=r"price|tags|batch_rows"):
        score_rows(server.address, many | wrong, rows, batch_rows=batch_rows)


def test_a_batch_is_views_and_strings_that_codes_point_at_stay_whole():
    names = Column(strings=[b"a", b"b"], codes=np.array([0, 1, 1, 0, 1]), lengths=np.array([2, 0, 3]))
    numbers = Column(floats=np.arange(3, dtype=np.float32), missing=np.array([True, False, False]))
    first, second = batches({"names": names, "numbers": numbers}, 3, 2)
    assert (first.first, first.rows, second.first, second.rows) == (0, 2, 2, 1)
    assert first.columns["names"].strings == second.columns["names"].strings == [b"a", b"b"]
    assert first.columns["names"].codes is not None
    assert second.columns["names"].codes is not None
    assert first.columns["names"].codes.tolist() == [0, 1]
    assert second.columns["names"].codes.tolist() == [1, 0, 1]
    assert second.columns["numbers"].floats is not None
    assert np.shares_memory(second.columns["numbers"].floats, numbers.floats)
    assert first.columns["numbers"].missing is not None
    assert first.columns["numbers"].missing.tolist() == [True, False]


def endless(golden: Rows, taken: list[int]) -> Iterator[Batch]:
    for number in itertools.count():
        taken.append(number)
        yield Batch(number * ROWS, ROWS, golden.columns)


def test_batches_are_taken_as_calls_are_begun(server: Served, golden: Rows):
    taken = list[int]()
    with Client(server.address) as client:
        replies = client.score_batches(client.describe(), endless(golden, taken), in_flight=3)
        for reply in itertools.islice(replies, 4):
            np.testing.assert_allclose(reply.scores, golden.scores, rtol=1e-5)
        replies.close()
    assert 4 <= len(taken) <= 4 + 3


def test_so_does_the_async_client_and_leaves_no_task_behind(server: Served, golden: Rows):
    taken = list[int]()

    async def call() -> None:
        async with AsyncClient(server.address) as client:
            replies = client.score_batches(await client.describe(), endless(golden, taken), in_flight=3)
            for _ in range(4):
                np.testing.assert_allclose((await anext(replies)).scores, golden.scores, rtol=1e-5)
            await replies.aclose()
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(call())
    assert 4 <= len(taken) <= 4 + 3


def test_a_cancelled_task_cancels_its_calls(server: Served, many: dict[str, Column]):
    async def call() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.score_rows("ctr", many, ROWS * TIMES, batch_rows=1, in_flight=4))
            await asyncio.sleep(0.05)
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(asyncio.all_tasks()) == 1
            assert (await client.describe()).model == "ctr"

    asyncio.run(call())


@pytest.fixture
def connections(server: Served) -> Callable[[], int]:
    """How many connections the server has; none in the beginning."""

    def count() -> int:
        return sum(served.connections(pid, server.address) for pid in server.workers())

    gc.collect()
    served.eventually(lambda: count() == 0)
    return count


def test_a_call_that_fails_leaves_no_connection_for_the_collector(
    score_rows: ScoreRows, server: Served, many: dict[str, Column], connections: Callable[[], int]
):
    gc.disable()
    try:
        with pytest.raises(InputError):  # from the second call; the third is cancelled
            score_rows(server.address, with_a_wrong_id(many), ROWS * TIMES)
        served.eventually(lambda: connections() == 0)
    finally:
        gc.enable()


def test_every_connection_is_one(server: Served, golden: Rows, connections: Callable[[], int]):
    with Client(server.address, connections=3) as client, Client(server.address) as other:
        for _ in range(6):
            client.score("ctr", golden.columns, ROWS)
        other.describe()
        assert connections() == 4
    served.eventually(lambda: connections() == 0)


def test_another_schema_is_told_not_scored(server: Served, golden: Rows):
    with Client(server.address) as client:
        other = replace(client.describe(), fingerprint="0" * 64)
        with pytest.raises(WrongSchema, match="rows 0 to 63"):
            list(client.score_batches(other, [Batch(0, ROWS, golden.columns)]))


def test_a_client_needs_only_the_base():
    heavy = ("pandas", "pyarrow", "polars", "torch", "onnx", "onnxruntime", "hdrh", "rich", "pydantic", "tritonclient")
    code = f"import sys, quorem.serve.async_client, quorem.serve.client; print(set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
