"""Forms: a request that looks like an earlier one is read as if it were the first, and answered by the same bytes."""

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mutate import mutate
from quorem.protos import open_inference_pb2 as oip
from quorem.serve import form
from quorem.serve.model import Model
from quorem.serve.repository import Repository
from quorem.serve.settings import Limits, Version
from served import ROWS, Rows
from turns import alone, infer, swapped, typed

MAX_ROWS = 128


@pytest.fixture(scope="module")
def model(served_root: Path, golden: Rows) -> Model:
    assert len(golden.logits) == ROWS
    return Model(Version("ctr", 1, served_root / "models" / "ctr" / "1"), "cpu")


@pytest.fixture
def repository(model: Model) -> Repository:
    return Repository([model], Limits(max_rows=MAX_ROWS))


def rows_of(golden: Rows, start: int, count: int, **said: object) -> oip.ModelInferRequest:
    part = slice(start, start + count)
    return infer(golden.encoded.ids[part], golden.encoded.dense[part], **said)


@pytest.mark.parametrize("outputs", [(), ("ctr",), ("ctr", "logit")])
@pytest.mark.parametrize("request_id", ["", "a", "caf\u00e9 " * 40])
@pytest.mark.parametrize("count", [1, 40])
def test_a_reply_is_what_protobuf_writes(
    repository: Repository, golden: Rows, count: int, request_id: str, outputs: tuple[str, ...]
):
    for start in range(3):
        reply = alone(repository, rows_of(golden, start, count, outputs=outputs, id=request_id))
        assert isinstance(reply, bytes)
        found = oip.ModelInferResponse.FromString(reply)
        wanted = outputs or ("logit", "ctr")
        logits = golden.logits[start : start + count]
        expected = {"logit": logits, "ctr": 1 / (1 + np.exp(-logits.astype(np.float64)))}
        built = oip.ModelInferResponse(
            model_name="ctr",
            model_version="1",
            id=request_id,
            outputs=[
                oip.ModelInferResponse.InferOutputTensor(name=name, datatype="FP32", shape=[count]) for name in wanted
            ],
            raw_output_contents=found.raw_output_contents,
        )
        assert built.SerializeToString() == reply
        for name, raw in zip(wanted, found.raw_output_contents, strict=True):
            np.testing.assert_allclose(np.frombuffer(raw, "<f4"), expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [lambda each: each, swapped, typed], ids=["raw", "swapped", "typed"])
@pytest.mark.parametrize("request_id", ["", "x"])
def test_rows_are_told_apart_in_requests_of_one_form(
    repository: Repository,
    golden: Rows,
    change: Callable[[oip.ModelInferRequest], oip.ModelInferRequest],
    request_id: str,
):
    replies = [alone(repository, change(rows_of(golden, start, 2, id=request_id))) for start in range(10)]
    fresh = [
        alone(Repository(repository.models, Limits()), rows_of(golden, start, 2, id=request_id)) for start in range(10)
    ]
    assert replies == fresh
    assert len(set(replies)) == 10


def test_other_bytes_come_to_the_same_with_forms_as_without(model: Model, golden: Rows):
    known = Repository([model], Limits(max_rows=MAX_ROWS))
    first = rows_of(golden, 0, 1)
    for each in (first, swapped(first), rows_of(golden, 0, 2, outputs=["ctr"]), rows_of(golden, 0, 3, id="i")):
        alone(known, each)
    assert known.forms.cut(first.SerializeToString())
    answered = 0
    for seed in range(300):
        dice = random.Random(seed)
        request = rows_of(golden, dice.randrange(20), dice.choice([1, 2, 3]), outputs=dice.choice([(), ("ctr",)]))
        data = request.SerializeToString()
        for other in (data, *mutations(request, dice), data + data, data[:-1], data + b"\x3a\x00"):
            fresh = Repository([model], Limits(max_rows=MAX_ROWS))
            found = alone(known, first, other)
            assert found == alone(fresh, first, other)
            answered += isinstance(found, bytes)
    assert answered > 300


def mutations(request: oip.ModelInferRequest, dice: random.Random) -> list[bytes]:
    """The message made odd, and the bytes with one bit flipped of those before the numbers."""
    data = request.SerializeToString()
    flipped = bytearray(data)
    flipped[dice.randrange(90)] ^= 1 << dice.randrange(8)
    return [mutate(dice, request, [data]), bytes(flipped)]


def test_requests_of_equal_length_are_told_apart(served_root: Path, golden: Rows):
    models = [Model(Version(name, 1, served_root / "models" / "ctr" / "1"), "cpu") for name in ("one", "two")]
    repository = Repository(models, Limits())
    for _ in range(2):
        for name in ("one", "two"):
            reply = alone(repository, rows_of(golden, 0, 1, model_name=name))
            assert isinstance(reply, bytes)
            assert oip.ModelInferResponse.FromString(reply).model_name == name


def test_forms_are_few_and_no_request_is_kept_whole(
    repository: Repository, golden: Rows, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(form, "MOST", 4)
    requests = [rows_of(golden, 0, count) for count in range(1, 11)]
    for request in requests:
        alone(repository, request)
    kept = [request for request in requests if repository.forms.cut(request.SerializeToString())]
    assert kept == requests[8:]
    long = rows_of(golden, 0, 1)
    long.parameters["note"].string_param = "x" * form.LONGEST
    expected = alone(repository, requests[0])
    assert [alone(repository, long) for _ in range(2)] == [expected] * 2
    assert repository.forms.cut(long.SerializeToString()) is None


def test_a_form_goes_with_its_model(served_root: Path, golden: Rows):
    old, new = (Model(Version("ctr", number, served_root / "models" / "ctr" / "1"), "cpu") for number in (1, 2))
    repository, request = Repository([old], Limits()), rows_of(golden, 0, 1)
    alone(repository, request)
    held = weakref.ref(old)
    repository.replace([new], {})
    del old
    gc.collect()
    assert held() is None
    reply = alone(repository, request)
    assert isinstance(reply, bytes)
    assert oip.ModelInferResponse.FromString(reply).model_version == "2"
