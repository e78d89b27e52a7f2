"""ScoreForms: a request laid out like an earlier one gets the reply, or the error, that it would get as the first."""

import gc
import random
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from mutate import mutate
from quorem.export.bundle import publish
from quorem.protos import manifest_pb2
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column
from quorem.serve import score_form
from quorem.serve.call import Call
from quorem.serve.columns import encode
from quorem.serve.exchange import request_of
from quorem.serve.model import Model
from quorem.serve.repository import Repository
from quorem.serve.settings import Limits, Version
from turns import Outcome, alone, prepare, same, together

CONTEXT = ("user", "age", "group")
SIZES = {"group": 9, "kind": 7}  # of the features whose ids are refused out of range
FIRST = {"group": 0, "kind": -3}
FLAWS = {
    "out of range": {"int64s": np.array([1 << 40]).tobytes()},
    "infinite": {"float32s": np.array([-np.inf], "<f4").tobytes()},
    "all missing": {"float32s": np.array([np.nan], "<f4").tobytes()},
    "of the other type": {"float32s": bytes(8), "int64s": bytes(4)},
    "empty": {"int64s": b"", "float32s": b""},
    "flagged": {"missing": b"\1"},
    "a bag": {"lengths": np.array([1], "<u4").tobytes()},
    "of another name": {"name": "item "},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = [runs.categorical(name, "hash", 300) for name in ("item", "user", "shop")]
    strict = [runs.categorical(name, "id", size, first=FIRST[name]) for name, size in SIZES.items()]
    for feature in strict:
        feature.id.out_of_range = manifest_pb2.ERROR
    described = [ids[0], strict[0], runs.number("price"), ids[1], runs.number("age"), strict[1], ids[2]]
    for feature in described:
        feature.side = manifest_pb2.CONTEXT if feature.name in CONTEXT else manifest_pb2.CANDIDATE
    fields = [runs.field(each, "qr", manifest_pb2.MULT, 8) for each in [*ids, *strict]]
    root = tmp_path_factory.mktemp("forms")
    runs.make_run(root / "run", runs.model(described, fields, "deepfm", mlp=[16]), np.random.default_rng(0), 32)
    bundle, _ = publish(root / "run", root / "models" / "ctr")
    return bundle


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model(Version("ctr", 1, bundle), "cpu")


def fresh(model: Model) -> Repository:
    return Repository([model], Limits(max_rows=64))


def columns(seed: int, rows: int) -> dict[str, Column]:
    rng = np.random.default_rng(seed)
    found = {name: Column(integers=rng.integers(-9, 2**40, rows)) for name in ("item", "user", "shop")}
    found |= {name: Column(integers=rng.integers(0, size, rows) + FIRST[name]) for name, size in SIZES.items()}
    floats = rng.normal(size=(2, rows)).astype("<f4")
    floats[rng.random((2, rows)) < 0.2] = np.nan
    return found | {name: Column(floats=each) for name, each in zip(("price", "age"), floats, strict=True)}


def request(seed: int, rows: int, context: Sequence[str] = CONTEXT, **said: Any) -> pb.ScoreRequest:
    own, shared = columns(seed, rows), columns(seed, 1)
    found = request_of({name: own[name] for name in own if name not in context}, rows)
    found.context.extend(encode(name, shared[name]) for name in context)
    found.MergeFrom(pb.ScoreRequest(**said))
    return found


def knowing(model: Model, *requests: pb.ScoreRequest) -> Repository:
    """A repository that has seen requests twice."""
    found = fresh(model)
    for each in (*requests, *requests):
        assert isinstance(alone(found, each), bytes)
    return found


def has_form(repository: Repository, asked: pb.ScoreRequest) -> bool:
    return repository.score_forms.cut(asked.SerializeToString()) is not None


def spoil(asked: pb.ScoreRequest, name: str, flaw: str) -> None:
    """Repeat a flawed value over a column; a flaw of the other type's values is none of this column's."""
    column = next(each for each in (*asked.context, *asked.candidates) if each.name == name)
    rows = 1 if column in list(asked.context) else asked.rows
    kind = column.WhichOneof("values")
    for field, value in FLAWS[flaw].items():
        if field == "name":
            column.name = value
        elif field in ("missing", "lengths") or (field == kind) != (flaw == "of the other type"):
            setattr(column, field, value * rows)


LAYOUT = st.tuples(
    st.sampled_from([1, 2, 5, 24, 30]),
    st.one_of(st.just(frozenset(CONTEXT)), st.frozensets(st.sampled_from(sorted(columns(0, 1))))),
    st.permutations(range(7)),
    st.sampled_from(["", "a", "caf\u00e9"]),
    st.sampled_from(["", "int64s", "strings"]),
    st.sampled_from([0, 0, 3]),
    st.sampled_from([pb.PROBABILITY, pb.LOGIT]),
)


@settings(max_examples=150, deadline=None)
@given(LAYOUT, st.sampled_from(["", "", *FLAWS]), st.sampled_from(sorted(columns(0, 1))), st.integers(0, 2**32))
def test_a_request_with_a_form_comes_to_what_it_does_without(
    model: Model, layout: Any, flaw: str, name: str, seed: int
):
    rows, context, order, request_id, kind, top_k, output = layout
    ids = np.random.default_rng(seed).integers(0, 2**60, rows)
    asked = [
        request(each, rows, sorted(context), request_id=request_id, top_k=top_k, output=output) for each in (1, seed)
    ]
    for each in asked:
        for side in (each.context, each.candidates):
            ordered = [list(side)[place] for place in order if place < len(side)]
            del side[:]
            side.extend(ordered)
        if kind == "int64s":
            each.candidate_ids.int64s = ids.tobytes()
        elif kind:
            each.candidate_ids.strings.CopyFrom(pb.Strings(data=bytes(rows), lengths=np.ones(rows, "<u4").tobytes()))
    known = knowing(model, asked[0])
    assert has_form(known, asked[1]) == (not top_k and kind != "strings" and request_id.isascii())
    if flaw:
        spoil(asked[1], name, flaw)
    assert alone(known, asked[1]) == alone(fresh(model), asked[1])


def test_a_reply_is_what_protobuf_writes(model: Model):
    first = request(0, 30, request_id="r-1", candidate_ids=pb.CandidateIds(int64s=np.arange(30).tobytes()))
    known, other = knowing(model, first), request(1, 30, request_id="r-2", candidate_ids=first.candidate_ids)
    assert has_form(known, other)
    reply = prepare(known, other)(other.SerializeToString(), call := Call())
    call.queue_ns, call.encode_ns, call.compute_ns = 0, 300, 1 << 40
    written = reply.finish([np.linspace(0, 1, 30, dtype=np.float32)])
    found = pb.ScoreResponse.FromString(written)
    assert found.SerializeToString() == written
    assert (found.model, found.version, found.request_id) == ("ctr", 1, "r-2")
    assert found.candidate_ids == first.candidate_ids
    assert (found.timings.encode_ns, found.timings.compute_ns) == (300, 1 << 40)
    assert found.timings.total_ns > 0


def test_other_bytes_come_to_the_same_with_forms_as_without(model: Model):
    shapes = [(3, CONTEXT), (30, CONTEXT), (3, ()), (5, ("user",))]
    known = knowing(model, *(request(0, rows, context) for rows, context in shapes))
    outcomes = list[Outcome]()
    for seed in range(300):
        dice = random.Random(seed)
        asked = request(seed, *dice.choice(shapes))
        data = asked.SerializeToString()
        flipped = bytearray(data)
        flipped[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        for other in (data, bytes(flipped), mutate(dice, asked, [data]), data[:-1], data + data, data + b"\x50\x00"):
            outcomes.append(alone(known, asked, other))
            assert outcomes[-1] == alone(fresh(model), asked, other)
    assert sum(isinstance(each, bytes) for each in outcomes) > 300
    assert sum(not isinstance(each, bytes) for each in outcomes) > 300


@pytest.mark.parametrize("context", [CONTEXT, ("user",), ()])
def test_what_was_scored_is_counted_as_without_forms(model: Model, context: Sequence[str]):
    counted = list[dict[str, Any]]()
    for repository in (knowing(model, request(0, 30, context)), fresh(model)):
        repository.statistics.keep([])
        for seed in range(65):
            alone(repository, request(seed, 30, context))
        (counts,) = repository.statistics.snapshot()["models"].values()
        counted.append(counts["1"])
    assert counted[0]["fields"]["user"]["values"] == 3 * (1 if context == CONTEXT else 30), "one call in 32"
    assert counted[0] == counted[1]


def test_requests_with_forms_are_computed_together(model: Model):
    requests = [
        request(seed, rows, context) for seed in range(3) for rows, context in ((5, ()), (30, CONTEXT), (4, ()))
    ]
    known = knowing(model, *requests)
    assert all(has_form(known, each) for each in requests)
    spoil(requests[6], "kind", "out of range")
    expected = [alone(fresh(model), each) for each in requests]
    assert isinstance(expected[6], tuple)
    for asked, found, wanted in zip(requests, together(known, requests), expected, strict=True):
        assert same(asked, found, wanted, 1e-6)


def test_forms_are_few_and_made_for_what_comes_again(model: Model, monkeypatch: pytest.MonkeyPatch):
    repository, asked = fresh(model), request(0, 3)
    for expected in (False, False, True):
        assert has_form(repository, asked) == expected
        alone(repository, asked)
    monkeypatch.setattr(score_form, "MOST", 4)
    requests = [request(0, rows) for rows in range(4, 10)]
    for each in requests * 3:
        alone(repository, each)
    assert 1 <= sum(has_form(repository, each) for each in requests) <= 4
    monkeypatch.setattr(score_form, "LONGEST", 8)
    assert not has_form(knowing(model, asked), asked)


def test_a_form_goes_with_its_model(bundle: Path):
    old, new = (Model(Version("ctr", number, bundle), "cpu") for number in (1, 2))
    asked = request(0, 3)
    repository, held = knowing(old, asked), weakref.ref(old)
    assert has_form(repository, asked)
    repository.replace([new], {})
    del old
    gc.collect()
    assert held() is None
    reply = alone(repository, asked)
    assert isinstance(reply, bytes)
    assert pb.ScoreResponse.FromString(reply).version == 2
