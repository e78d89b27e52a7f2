"""Score over a real channel: the golden scores, and a named refusal for every way in which a request can be wrong."""

import struct
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column
from quorem.protos.errors import NotFound, WrongSchema
from quorem.protos.schema import fingerprint
from quorem.serve.client import Client, request_of
from served import CONTEXT, ROWS, Rows, Served, alive, head

OVER = ("nghttp2", "grpcio")
MAX_ROWS = 128


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def channel(server: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def call(channel: grpc.Channel, request: bytes, method: str = "Score") -> bytes:
    return channel.unary_unary(f"/quorem.v1.Scorer/{method}")(request, timeout=20)


def split(golden: Rows, rows: int) -> tuple[dict[str, Column], dict[str, Column]]:
    """One context, the first row's, and the candidates of the first rows."""
    columns = golden.take(rows)
    context = {name: head(columns.pop(name), 1) for name in CONTEXT}
    return context, columns


def test_scores_are_the_golden_ones(client: Client, golden: Rows):
    found = client.score("ctr", golden.columns, ROWS)
    np.testing.assert_allclose(found.scores, golden.scores, rtol=1e-5)
    assert (found.model, found.version) == ("ctr", 1)
    logits = client.score("ctr", golden.columns, ROWS, logit=True)
    assert np.all(np.abs(logits.scores - golden.logits) <= 1e-5 * np.maximum(1, np.abs(golden.logits)))


def test_one_row_scores_as_it_does_among_others(client: Client, golden: Rows):
    found = client.score("ctr", golden.take(1), 1)
    np.testing.assert_allclose(found.scores, golden.scores[:1], rtol=1e-5)


def test_a_context_counts_for_every_candidate(client: Client, golden: Rows):
    context, candidates = split(golden, 20)
    found = client.score("ctr", candidates, 20, context=context)
    repeated = {
        "user": Column(
            integers=np.repeat(context["user"].integers, 20), missing=np.repeat(context["user"].missing, 20)
        ),
        "age": Column(floats=np.repeat(context["age"].floats, 20)),
    }
    plain = client.score("ctr", candidates | repeated, 20)
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_every_feature_may_be_context(client: Client, golden: Rows):
    found = client.score("ctr", {}, 7, context=golden.take(1))
    np.testing.assert_allclose(found.scores, np.repeat(golden.scores[0], 7), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 5, ROWS, 1000])
def test_the_best_come_first_and_ties_in_request_order(client: Client, golden: Rows, k: int):
    whole = client.score("ctr", golden.columns, ROWS, logit=True).scores
    order = np.argsort(-whole, kind="stable")[:k]
    ids = np.arange(ROWS) * 2**55 - 3
    found = client.score("ctr", golden.columns, ROWS, top_k=k, logit=True, candidate_ids=ids)
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_array_equal(found.scores, whole[order])
    np.testing.assert_array_equal(found.candidate_ids, ids[order])
    context = golden.take(1)
    assert client.score("ctr", {}, 9, context=context, top_k=4).indices.tolist() == [0, 1, 2, 3]


def test_candidate_ids_are_echoed(client: Client, golden: Rows):
    names = [b"", b"b" * 500, "\u00fc".encode(), b"d", b"e"]
    columns = golden.take(5)
    assert client.score("ctr", columns, 5, candidate_ids=names).candidate_ids == names
    best = client.score("ctr", columns, 5, candidate_ids=names, top_k=3)
    assert best.candidate_ids == [names[index] for index in best.indices]
    assert client.score("ctr", columns, 5).candidate_ids is None


def test_the_reply_names_its_request_and_where_the_time_went(channel: grpc.Channel, golden: Rows):
    request = request_of(golden.take(3), 3)
    request.request_id = "r-17"  # no model named: the only one
    reply = pb.ScoreResponse.FromString(call(channel, request.SerializeToString()))
    assert (reply.model, reply.version, reply.request_id) == ("ctr", 1, "r-17")
    assert reply.timings.encode_ns > 0
    assert reply.timings.compute_ns > 0
    assert reply.timings.encode_ns + reply.timings.compute_ns <= reply.timings.total_ns < 10**10


def test_a_description_says_what_to_send(client: Client, golden: Rows):
    found = client.describe()
    assert found.schema == golden.schema
    assert found.fingerprint == fingerprint(golden.schema)
    assert (found.model, found.version, found.limits.max_rows, found.limits.max_request_bytes) == (
        "ctr",
        1,
        128,
        1 << 24,
    )
    assert client.score("ctr", golden.take(1), 1, schema_fingerprint=found.fingerprint, version=1).version == 1


def test_what_is_not_served_is_not_found(client: Client, golden: Rows):
    columns = golden.take(1)
    with pytest.raises(NotFound, match=r"'other'.*\['ctr'\]"):
        client.score("other", columns, 1)
    with pytest.raises(NotFound, match=r"version 2.*\[1\]"):
        client.score("ctr", columns, 1, version=2)
    with pytest.raises(NotFound, match="'stable'"):
        client.score("ctr", columns, 1, label="stable")
    with pytest.raises(NotFound, match="version 9"):
        client.describe("ctr", version=9)


def test_a_caller_of_another_schema_is_refused(client: Client, golden: Rows):
    with pytest.raises(WrongSchema, match="fingerprint 'fedcba9876543210'"):
        client.score("ctr", golden.take(1), 1, schema_fingerprint="fedcba9876543210")


def column(request: pb.ScoreRequest, name: str) -> pb.Column:
    return next(each for each in request.candidates if each.name == name)


def packed(*values: int, code: str = "q") -> bytes:
    return struct.pack(f"<{len(values)}{code}", *values)


def drop(name: str) -> Callable[[pb.ScoreRequest], object]:
    return lambda request: request.candidates.remove(column(request, name))


def put(name: str, **values: object) -> Callable[[pb.ScoreRequest], object]:
    """Set fields of a column, strings as (data, lengths)."""

    def change(request: pb.ScoreRequest) -> None:
        target = column(request, name)
        for field, value in values.items():
            if isinstance(value, tuple):
                target.strings.CopyFrom(pb.Strings(data=value[0], lengths=value[1]))
            else:
                setattr(target, field, value)

    return change


def add(side: str, name: str, **values: bytes) -> Callable[[pb.ScoreRequest], object]:
    return lambda request: getattr(request, side).append(pb.Column(name=name, **values))


def clear(name: str) -> Callable[[pb.ScoreRequest], object]:
    return lambda request: column(request, name).CopyFrom(pb.Column(name=name))


def both(*changes: Callable[[pb.ScoreRequest], object]) -> Callable[[pb.ScoreRequest], object]:
    return lambda request: [change(request) for change in changes]


def whole(**values: object) -> Callable[[pb.ScoreRequest], object]:
    return lambda request: request.MergeFrom(pb.ScoreRequest(**values))


def rows(count: int) -> Callable[[pb.ScoreRequest], object]:
    return lambda request: setattr(request, "rows", count)


BAD = {
    "no rows": (rows(0), "at least one row"),
    "too many rows": (rows(MAX_ROWS + 1), f"at most {MAX_ROWS} rows"),
    "more rows than values": (rows(3), "2 values for 3 rows"),
    "an output that there is not": (whole(output=7), "PROBABILITY or LOGIT"),
    "an unknown column": (add("candidates", "colour", int64s=packed(1, 2)), "column 'colour'"),
    "an unknown context column": (add("context", "colour", int64s=packed(1)), "context: .*column 'colour'"),
    "a feature twice": (add("candidates", "rank", float32s=b"\0" * 8), "'rank' twice"),
    "a feature on both sides": (add("context", "rank", float32s=b"\0" * 4), "'rank' twice"),
    "a feature left out": (drop("city"), r"no column \['city'\]"),
    "a context of two values": (both(drop("user"), add("context", "user", int64s=packed(1, 2))), "found: 2 values"),
    "an empty context": (both(drop("user"), add("context", "user", int64s=b"")), "found: 0 values"),
    "no values": (clear("user"), "int64s, float32s or strings"),
    "half an integer": (put("user", int64s=b"\0" * 15), "int64 values have 8 bytes"),
    "half a float": (put("rank", float32s=b"\0" * 7), "float32 values have 4 bytes"),
    "half a length": (put("tags", lengths=b"\0" * 7), "uint32 values have 4 bytes"),
    "half a string length": (put("item", strings=(b"ab", b"\1\0\0")), "uint32 values have 4 bytes"),
    "strings longer than their bytes": (put("item", strings=(b"ab", packed(1, 2, code="I"))), "sum 3 over 2 bytes"),
    "strings of four gigabytes": (put("item", strings=(b"ab", packed(2**32 - 1, 2**32 - 1, code="I"))), "over 2 bytes"),
    "too few values": (put("user", int64s=packed(1), missing=b""), "1 values for 2 rows"),
    "too many strings": (put("item", strings=(b"abc", packed(1, 1, 1, code="I"))), "3 values for 2 rows"),
    "strings for integers": (put("user", strings=(b"ab", packed(1, 1, code="I")), missing=b""), "takes integers"),
    "integers for strings": (put("item", int64s=packed(1, 2)), "takes strings"),
    "strings for numbers": (put("price", strings=(b"ab", packed(1, 1, code="I"))), "takes numbers"),
    "floats for integers": (put("city", float32s=b"\0" * 8), "takes integers"),
    "flags for other values": (put("user", missing=b"\1"), "1 flags for 2 values"),
    "flags of numbers for other values": (put("price", missing=b"\0" * 3), "3 flags for 2 values"),
    "a flag that is none": (put("user", missing=b"\2\0"), "0 or 1"),
    "lengths of no bag": (put("user", lengths=packed(1, 1, code="I")), "only a bag has lengths"),
    "a bag without lengths": (put("seen", lengths=b""), "a bag has lengths"),
    "lengths that miss values": (put("seen", int64s=packed(1, 2), lengths=packed(0, 1, code="I")), "add up"),
    "a length of four gigabytes": (put("seen", lengths=packed(2**32 - 1, 2**32 - 1, code="I")), "add up"),
    "too few lengths": (put("seen", int64s=packed(1), lengths=packed(1, code="I")), "1 values for 2 rows"),
    "a bag too long": (
        put("seen", int64s=packed(1, 2, 3, 4), lengths=packed(0, 4, code="I")),
        "row 1: .*at most 3 items",
    ),
    "an id out of range": (put("user", int64s=packed(1, 1000), missing=b""), r"\[0, 1000\).*Found: 1000"),
    "a negative id": (put("user", int64s=packed(1, -1), missing=b""), r"\[0, 1000\).*Found: -1"),
    "infinity": (put("rank", float32s=struct.pack("<2f", 1, float("inf"))), "finite"),
    "ids of other candidates": (whole(candidate_ids=pb.CandidateIds(int64s=packed(1))), "1 ids for 2 rows"),
    "half an id": (whole(candidate_ids=pb.CandidateIds(int64s=b"\0" * 9)), "8 bytes"),
    "string ids that do not add up": (
        whole(candidate_ids=pb.CandidateIds(strings=pb.Strings(data=b"ab", lengths=packed(1, 2, code="I")))),
        "add up",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_and_says_why(channel: grpc.Channel, server: Served, golden: Rows, case: str):
    change, reason = BAD[case]
    request = request_of(golden.take(2), 2)
    request.model = "ctr"
    call(channel, request.SerializeToString())
    change(request)
    with pytest.raises(grpc.RpcError, match=f"(?i){reason}") as refused:
        call(channel, request.SerializeToString())
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert alive(server.worker_pids)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7fctr", b"\x0a\x80"])
@pytest.mark.parametrize("method", ["Score", "Describe"])
def test_bytes_that_are_no_request_are_refused(channel: grpc.Channel, data: bytes, method: str):
    with pytest.raises(grpc.RpcError, match="a request is a serialized quorem") as refused:
        call(channel, data, method)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_every_truncation_is_refused_or_answered(channel: grpc.Channel, server: Served, golden: Rows):
    data = request_of(golden.take(1), 1).SerializeToString()
    for end in range(0, len(data), 7):
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, data[:end])
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, end
    assert alive(server.worker_pids)


def test_a_message_above_the_limit_is_refused(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, b"\0" * (1 << 24) + b"\0")
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_error_fits_into_a_header(channel: grpc.Channel, golden: Rows):
    request = request_of(golden.take(1), 1)
    request.candidates[0].name = "\u732b" * 100_000
    with pytest.raises(grpc.RpcError, match="every column is a feature") as refused:
        call(channel, request.SerializeToString())
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_not_built_is_unimplemented(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as unknown:
        call(channel, b"", "Explain")
    assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED
