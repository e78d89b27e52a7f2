"""Turns: calls computed together get the replies of calls computed alone, whatever is wrong with their neighbours."""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from quorem.export.bundle import publish
from quorem.export.precision import parse
from quorem.protos import manifest_pb2
from quorem.protos import scoring_pb2 as pb
from quorem.protos.errors import Gone, Overloaded, QuoremError, TooLate
from quorem.serve import golden as goldens
from quorem.serve.call import Call
from quorem.serve.graph import Graph
from quorem.serve.model import Model
from quorem.serve.repository import Repository
from quorem.serve.settings import Limits, Version
from quorem.serve.statuses import Status
from quorem.serve.turn import Turn
from quorem.serve.work import answer
from served import ROWS, Rows
from turns import alone, infer, prepare, same, score, scores, swapped, together, typed

RANKED = ("user", "age", "price", "rank")  # the context of the schema
LAST_BITS = 1e-6  # of a logit, of itself above 1: what ONNX Runtime's float32 products differ by between batch sizes


@pytest.fixture(scope="module")
def model(served_root: Path, golden: Rows) -> Model:
    assert len(golden.logits) == ROWS
    return Model(Version("ctr", 1, served_root / "models" / "ctr" / "1"), "cpu")


@pytest.fixture
def repository(model: Model) -> Repository:
    return Repository([model], Limits(max_rows=200))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every run of a graph from now on."""
    rows, run = list[int](), Graph.run

    def counted(graph: Graph, arrays: Any, outputs: Any) -> Any:
        rows.append(max(len(each) for each in arrays.values()))
        return run(graph, arrays, outputs)

    monkeypatch.setattr(Graph, "run", counted)
    return rows


def rows_of(golden: Rows, start: int, count: int, **said: Any) -> Any:
    part = slice(start, start + count)
    return infer(golden.encoded.ids[part], golden.encoded.dense[part], **said)


def with_id(golden: Rows, value: int) -> Any:
    ids = golden.encoded.ids[:2].copy()
    ids[1, 0] = value
    return infer(ids, golden.encoded.dense[:2])


def with_number(golden: Rows, value: float) -> Any:
    dense = golden.encoded.dense[:2].copy()
    dense[1, 2] = value
    return infer(golden.encoded.ids[:2], dense)


BAD: dict[str, Callable[[Rows], Any]] = {
    "an id out of range": lambda golden: with_id(golden, 1000),
    "infinity": lambda golden: with_number(golden, -np.inf),
    "another model": lambda golden: rows_of(golden, 0, 1, model_name="other"),
    "too many rows": lambda golden: infer(np.zeros((201, 10), np.int64), np.zeros((201, 3), np.float32)),
    "no columns": lambda golden: pb.ScoreRequest(model="ctr", rows=2),
    "a context of two rows": lambda golden: two_contexts(golden),
    "another schema": lambda golden: score(golden.columns, 2, schema_fingerprint="fedcba9876543210"),
}


def two_contexts(golden: Rows) -> pb.ScoreRequest:
    request = score(golden.columns, 5)
    for column in request.context:
        if column.name == "age":
            column.float32s *= 2
    return request


def drawn(golden: Rows, dice: random.Random) -> Any:
    """A request of either protocol, good or bad."""
    kind, start, count = dice.randrange(10), dice.randrange(20), dice.choice([1, 1, 1, 2, 7, 40])
    outputs = dice.choice([(), (), ("ctr",), ("ctr", "logit")])
    if kind < 5:
        return rows_of(golden, start, count, outputs=outputs, id=dice.choice(["", "", "i-7"]))
    if kind < 6:
        return dice.choice([swapped, typed])(rows_of(golden, start, count, outputs=outputs))
    if kind < 8:
        context = dice.choice([RANKED, RANKED, (), ("user",)])
        return score(golden.columns, count, context, output=dice.randrange(2), top_k=dice.choice([0, 0, 3]))
    return BAD[dice.choice(list(BAD))](golden)


@pytest.mark.parametrize("seed", range(12))
def test_together_they_get_what_each_gets_alone(repository: Repository, golden: Rows, seed: int):
    dice = random.Random(seed)
    requests = [drawn(golden, dice) for _ in range(dice.choice([1, 8, 60]))]
    found = together(repository, requests)
    for request, each in zip(requests, found, strict=True):
        expected = alone(Repository(repository.models, repository.limits), request)
        assert same(request, each, expected, LAST_BITS), request


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_fails_alone(repository: Repository, golden: Rows, case: str, place: int, ran: list[int]):
    requests = [rows_of(golden, start, 1) for start in range(6)]
    expected, bad = together(repository, requests), BAD[case](golden)
    requests.insert(place, bad)
    ran.clear()
    found = together(repository, requests)
    assert ran == [6], "the others are still computed together, and the bad one is not"
    assert found.pop(place) == alone(repository, bad)
    assert found == expected


def test_several_bad_requests_are_each_told_their_own_fault(repository: Repository, golden: Rows):
    requests = [rows_of(golden, 0, 3), with_id(golden, 1000), with_number(golden, np.inf), with_id(golden, 2**40)]
    found = together(repository, requests)
    assert found == [alone(repository, each) for each in requests]
    assert [str(each[1]) for each in found[1:] if isinstance(each, tuple)][2].count(str(2**40)) == 1


def test_requests_that_differ_in_rows_and_order_are_computed_in_one_run(
    repository: Repository, golden: Rows, ran: list[int]
):
    requests = [
        rows_of(golden, 0, 1),
        rows_of(golden, 1, 5),
        swapped(rows_of(golden, 2, 2)),
        typed(rows_of(golden, 3, 1)),
    ]
    together(repository, requests)
    assert ran == [9]


def test_scores_by_rows_are_joined_and_ranked_ones_are_not(repository: Repository, golden: Rows, ran: list[int]):
    together(repository, [score(golden.columns, 3, context) for context in ((), RANKED, ("item",), ())])
    assert ran == [12]
    ran.clear()
    ranked, flat = score(golden.columns, 40, RANKED), score(golden.columns, 2, RANKED)
    requests = [flat, ranked, flat, ranked]
    found = together(repository, requests)
    assert ran == [4, 40, 40]
    assert all(same(each, one, alone(repository, each), LAST_BITS) for each, one in zip(requests, found, strict=True))


def test_a_step_has_so_many_rows_and_calls_keep_their_order(repository: Repository, golden: Rows, ran: list[int]):
    counts, told = [50, 50, 50, 1, 1, 200, 1, 128, 3, 200, 200, 100, 40, 2, 200, 100, 60, 60, 60, 60], list[int]()
    turn = Turn(repository)
    for place, count in enumerate(counts):
        ids, dense = (np.resize(each, (count, each.shape[1])) for each in (golden.encoded.ids, golden.encoded.dense))
        request = infer(ids, dense)
        turn.put(prepare(repository, request), request.SerializeToString(), Call(), lambda _, at=place: told.append(at))
    steps = list[list[int]]()
    waiting = True
    while waiting:
        before = len(told)
        waiting = turn.step()
        steps.append(told[before:])
        assert turn.waiting == len(counts) - len(told)
    assert steps == [[*range(15)], [15, 16], [17, 18], [19]], "ten full runs' rows; of few, all but those of one run"
    assert ran == [100, 52, 200, 1, 128, 3, 200, 200, 100, 42, 200, 100, 60, 120, 60], "a run has 128 rows, or one call"
    assert not turn.step()


def test_two_models_take_their_turns_in_one_step(served_root: Path, golden: Rows, ran: list[int]):
    models = [Model(Version(name, 1, served_root / "models" / "ctr" / "1"), "cpu") for name in ("one", "two")]
    repository = Repository(models, Limits())
    requests = [rows_of(golden, place, 1, model_name=("one", "two")[place % 2]) for place in range(10)]
    found = together(repository, requests)
    assert ran == [5, 5]
    assert all(
        same(request, each, alone(repository, request), LAST_BITS)
        for each, request in zip(found, requests, strict=True)
    )


def test_who_came_too_late_or_has_gone_is_not_computed(repository: Repository, golden: Rows, ran: list[int]):
    requests = [rows_of(golden, start, 1) for start in range(4)]
    calls = [Call(), Call(deadline=time.monotonic() - 1), Call(is_wanted=lambda: False), Call()]
    found = together(repository, requests, calls)
    assert [each[0] if isinstance(each, tuple) else None for each in found] == [None, TooLate, Gone, None]
    assert ran == [2]


def test_who_goes_while_he_waits_for_a_later_step_is_not_computed(repository: Repository, golden: Rows, ran: list[int]):
    gone, told, turn = [False], list[Any](), Turn(repository, 4)
    for call in (Call(), Call(is_wanted=lambda: not gone[0]), Call(deadline=time.monotonic() + 0.2)):
        request = rows_of(golden, 0, 3)
        turn.put(prepare(repository, request), request.SerializeToString(), call, told.append)
    assert turn.step()
    gone[0] = True
    time.sleep(0.25)
    while turn.step():
        pass
    assert ran == [3]
    assert {type(each) for each in told} == {bytes, Gone, TooLate}


def test_what_its_deadline_leaves_no_time_for_is_not_begun(repository: Repository, golden: Rows, ran: list[int]):
    with repository.admission.enter(100, Call(model="ctr")):
        time.sleep(1)  # ten milliseconds a row
    requests = [rows_of(golden, 0, 40), rows_of(golden, 0, 1), rows_of(golden, 0, 1), rows_of(golden, 0, 40)]
    calls = [Call(), Call(deadline=time.monotonic() + 0.2), Call(), Call(deadline=time.monotonic() + 0.3)]
    found = together(repository, requests, calls)
    assert [each[0] if isinstance(each, tuple) else None for each in found] == [None, Overloaded, None, TooLate]
    assert ran == [41]


def test_admission_is_left_as_it_was_found(model: Model, golden: Rows):
    repository = Repository([model], Limits(max_rows=128, max_rows_in_flight=8))
    found = together(repository, [rows_of(golden, 0, 3) for _ in range(9)] + [rows_of(golden, 0, 20)])
    assert all(isinstance(each, bytes) for each in found), "a step has no more rows than may be in flight"
    admission = repository.admission
    assert (admission._rows, admission._calls, admission._ahead_s) == (0, 0, 0.0)
    assert admission.refusal(0) is None
    assert isinstance(admission.refusal(9), Overloaded)


def test_calls_that_fail_teach_nothing_of_what_calls_cost(model: Model, golden: Rows, ran: list[int]):
    repository, bad = Repository([model], Limits(max_rows=200)), with_id(golden, 1000)
    together(repository, [bad] * 5)
    assert (ran, repository.admission._overall.rows) == ([], 0.0)
    together(repository, [rows_of(golden, 0, 4), bad, score(golden.columns, 4), two_contexts(golden), bad])
    admission = repository.admission
    assert admission._overall.rows == 4
    assert (admission._rows, admission._calls, admission._ahead_s) == (0, 0, 0.0)


def test_a_run_that_fails_fails_those_alone_that_fail_alone(
    repository: Repository, golden: Rows, monkeypatch: pytest.MonkeyPatch
):
    requests = [rows_of(golden, start, 1) for start in range(5)]
    expected, run = [alone(repository, each) for each in requests], Graph.run

    def fragile(graph: Graph, arrays: Any, outputs: Any) -> Any:
        if (arrays["ids"] == golden.encoded.ids[3]).all(axis=1).any():
            raise RuntimeError("out of memory")
        return run(graph, arrays, outputs)

    monkeypatch.setattr(Graph, "run", fragile)
    found = together(repository, requests)
    assert found[3] == (RuntimeError, "out of memory")
    assert [*found[:3], found[4]] == [*expected[:3], expected[4]]


def test_turns_count_what_calls_alone_count(model: Model, golden: Rows):
    dice = random.Random(5)
    requests = [
        dice.choice(list(BAD.values()))(golden) if place % 5 == 3 else rows_of(golden, dice.randrange(20), 7)
        for place in range(150)
    ]
    counted = list[Any]()
    for answered in (together, one_by_one):
        repository, calls = Repository([model], Limits(max_rows=200)), [Call() for _ in requests]
        for call, outcome in zip(calls, answered(repository, requests, calls), strict=True):
            worked = isinstance(outcome, bytes)
            assert call.queue_ns > 0
            assert (call.encode_ns > 0, call.compute_ns > 0) == (worked, worked)
            repository.statistics.record(call, "ModelInfer", Status.OK if worked else Status.INVALID_ARGUMENT)
        counted.append(repository.statistics.snapshot()["models"])
        del counted[-1]["ctr"]["1"]["last_ms"]
    ours, theirs = (each["ctr"]["1"]["scores"] for each in counted)
    for key in ("sum", "squares"):
        assert ours.pop(key) == pytest.approx(theirs.pop(key), rel=1e-6)
    assert ours["count"] == 7 * 120
    assert counted[0]["ctr"]["1"]["fields"]["user"]["values"] == 7 * 4, "one call in 32"
    assert counted[0] == counted[1]


def one_by_one(repository: Repository, requests: Sequence[Any], calls: Sequence[Call]) -> list[object]:
    """What becomes of calls by themselves."""

    def one(request: Any, call: Call) -> object:
        try:
            return answer(repository, prepare(repository, request), request.SerializeToString(), call)
        except QuoremError as error:
            return error

    return [one(*each) for each in zip(requests, calls, strict=True)]


@pytest.fixture(scope="module", params=["fp32", "fp32+int8"])
def calibrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose first layer is wide enough for int8, in both precisions."""
    features = [runs.categorical("user", "hash", 900), runs.categorical("item", "hash", 700), runs.number("price")]
    features[0].side = manifest_pb2.CONTEXT
    fields = [runs.field(each, "qr", manifest_pb2.MULT, 32) for each in features[:2]]
    manifest = runs.model(features, fields, "deepfm", mlp=[64, 16])
    root = tmp_path_factory.mktemp("turns")
    runs.make_run(root / "run", manifest, np.random.default_rng(0), 64)
    bundle, _ = publish(root / "run", root / "models" / "ctr", precision=parse(request.param))
    model = Model(Version("ctr", 1, bundle), "cpu")
    assert bool(model.manifest.export.int8_layers) == (request.param != "fp32")
    return model


def test_a_score_does_not_depend_on_its_batch_mates(calibrated: Model):
    repository, rng = Repository([calibrated], Limits()), np.random.default_rng(1)
    rows = goldens.read(calibrated.version.directory, calibrated.layout).take(slice(0, 64))
    requests = [infer(rows.ids[place : place + 1], rows.dense[place : place + 1]) for place in range(64)]
    for count in (2, 8, 32, 64):
        expected = together(repository, requests[:count])
        for place in (0, count - 1):
            mates = [
                infer(
                    rng.integers(-(2**63), 2**63 - 1, (1, 2)), rng.choice(np.float32([-3e38, 0, 1e9, np.nan]), (1, 1))
                )
                for _ in range(count)
            ]
            mates[place] = requests[place]
            assert together(repository, mates)[place] == expected[place], "not by a bit, whatever the others are"
    alone_ = np.stack([scores(each, alone(repository, each)) for each in requests])
    for count in (2, 3, 5, 8, 33, 64):
        found = np.stack(
            [scores(*each) for each in zip(requests, together(repository, requests[:count]), strict=False)]
        )
        assert np.all(np.abs(found - alone_[:count]) <= bound_of(calibrated) * np.maximum(1, np.abs(alone_[:count])))


def bound_of(model: Model) -> float:
    """How far a logit may move with the number of rows: in float32 the last bits; of these int8 may make a step."""
    return model.manifest.export.parity_bound if model.manifest.export.int8_layers else LAST_BITS


def test_put_and_step_may_be_mixed(repository: Repository, golden: Rows):
    turn, told = Turn(repository), list[Any]()
    request = rows_of(golden, 0, 1)
    put = partial(turn.put, prepare(repository, request), request.SerializeToString())

    def again(reply: Any) -> None:
        told.append(reply)
        if len(told) < 5:
            put(Call(), again)

    put(Call(), again)
    steps = 0
    while turn.step():
        steps += 1
    assert (len(told), steps) == (5, 4)
    assert len(set(told)) == 1
