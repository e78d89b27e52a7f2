"""gRPC's wire, by frames of our own: lengths, encodings, timeouts, headers; what is wrong is refused, and only that."""

import gzip
import struct
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from frames import HEALTH, PATIENCE_S, Connection, Flag, Kind, Reply, asking, block, frame, framed
from grpc_health.v1 import health_pb2
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import scoring_pb2 as pb
from quorem.protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from quorem.serve.exchange import request_of
from quorem.serve.statuses import Status
from served import Rows, Served, eventually

OVER = ("nghttp2", "grpcio")
SCORE, DESCRIBE = "/quorem.v1.Scorer/Score", "/quorem.v1.Scorer/Describe"
SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
CTR = health_pb2.HealthCheckRequest(service="ctr").SerializeToString()
LIMIT = 16 << 20  # bytes of a message, by default
GZIP = ("grpc-encoding", "gzip")
OK, INTERNAL, UNIMPLEMENTED, EXHAUSTED = Status.OK, Status.INTERNAL, Status.UNIMPLEMENTED, Status.RESOURCE_EXHAUSTED


@pytest.fixture
def raw(server: Served) -> Iterator[Connection]:
    """A connection that must still answer when a test is over."""
    with Connection(server.address) as connection:
        yield connection
        assert connection.call(framed(CTR)).message == SERVING


@pytest.fixture
def score(golden: Rows) -> bytes:
    return request_of(golden.take(3), 3).SerializeToString()


def test_a_reply_is_headers_a_message_and_trailers(raw: Connection):
    reply = raw.call(framed(CTR))
    assert (reply.http, reply.status, reply.message) == ("200", OK, SERVING)
    assert reply.blocks[0]["content-type"].startswith("application/grpc")
    assert len(reply.blocks) == 2


def test_what_fails_is_trailers_only_and_its_message_is_percent_encoded(raw: Connection):
    asked = pb.DescribeRequest(model="caf\u00e9\n100%")
    reply = raw.call(framed(asked.SerializeToString()), asking(DESCRIBE))
    assert (reply.http, reply.status, reply.data) == ("200", Status.NOT_FOUND, b"")
    assert len(reply.blocks) == 1
    told = reply.blocks[0]["grpc-message"]
    assert "caf%C3%A9" in told
    assert "100%25" in told
    assert told.isprintable()
    assert "'caf\u00e9\\n100%'" in reply.told


@pytest.mark.parametrize("size", [1, 7, 16384])
def test_a_message_may_come_in_frames_of_any_size(raw: Connection, score: bytes, golden: Rows, size: int):
    stream = raw.begin(asking(SCORE))
    raw.data(stream, framed(score), size=size)
    scores = pb.ScoreResponse.FromString(raw.reply(stream).message).scores
    np.testing.assert_allclose(np.frombuffer(scores, "<f4"), golden.scores[:3], rtol=1e-5)


def test_padding_and_empty_frames_are_no_part_of_a_message(raw: Connection, transport: str):
    stream, message, padded = raw.begin(), framed(CTR), 8
    raw.send(frame(Kind.DATA, 0, stream))
    if transport == "grpcio":  # which knows no padding
        raw.data(stream, message[:6], end=False)
    else:
        raw.send(frame(Kind.DATA, padded, stream, bytes([5]) + message[:6] + bytes(5)))
    raw.data(stream, message[6:], end=False)
    raw.send(frame(Kind.DATA, Flag.END_STREAM, stream))
    assert raw.reply(stream).message == SERVING


def test_headers_may_come_in_several_frames(raw: Connection):
    stream, headers = raw.stream(), block(asking())
    raw.send(frame(Kind.HEADERS, 0, stream, headers[:10]))
    raw.send(frame(Kind.CONTINUATION, 0, stream, headers[10:11]))
    raw.send(frame(Kind.CONTINUATION, Flag.END_HEADERS, stream, headers[11:]))
    raw.data(stream, framed(CTR))
    assert raw.reply(stream).message == SERVING


def test_calls_of_one_connection_end_in_any_order(raw: Connection, score: bytes):
    """One that has begun and sends no more holds none of the others up."""
    held = raw.begin()
    raw.data(held, framed(CTR)[:3], end=False)
    streams = [raw.begin(asking(SCORE)) for _ in range(20)]
    for each in streams:
        raw.data(each, framed(score))
    assert [raw.reply(each).status for each in streams] == [OK] * 20
    raw.data(held, framed(CTR)[3:])
    assert raw.reply(held).message == SERVING


@pytest.mark.parametrize("unit", ["8H", "9M", "9S", "99999999m", "99999999u", "99999999n"])
def test_a_timeout_has_any_unit(raw: Connection, unit: str):
    """All of them are a tenth of a second or more, for what is sent at once."""
    stream, head = raw.stream(), block(asking(HEALTH, ("grpc-timeout", unit)))
    data = frame(Kind.DATA, Flag.END_STREAM, stream, framed(CTR))
    raw.send(frame(Kind.HEADERS, Flag.END_HEADERS, stream, head) + data)
    assert raw.reply(stream).message == SERVING


@pytest.mark.parametrize("timeout", ["1n", "1u", "0S"])
def test_a_call_that_comes_too_late_is_not_computed(raw: Connection, score: bytes, timeout: str, transport: str):
    reply = raw.call(framed(score), asking(SCORE, ("grpc-timeout", timeout)))
    if transport == "grpcio" and timeout != "0S" and reply.status == OK:
        return  # it takes what is less for a millisecond, within which a call may be answered
    assert reply.status == Status.DEADLINE_EXCEEDED
    assert reply.data == b""


@pytest.mark.parametrize("timeout", ["5", "S", "-1S", "5x", "1.5S", "5s", "\u0663S", "0x5S"])
def test_a_timeout_that_is_none_is_refused(raw: Connection, timeout: str):
    refused = raw.call(framed(CTR), asking(HEALTH, ("grpc-timeout", timeout)))
    assert refused.data == b""
    assert refused.status in (INTERNAL, Status.INVALID_ARGUMENT) or refused.reset is not None


WRONG_BODIES = {
    "nothing": (b"", {UNIMPLEMENTED, INTERNAL}),
    "half a prefix": (b"\0\0", {UNIMPLEMENTED, INTERNAL}),
    "an early end": (framed(CTR, length=9), {UNIMPLEMENTED, INTERNAL}),
    "a length below the message's": (framed(CTR, length=2), {UNIMPLEMENTED, INTERNAL}),
    "a length beyond the limit": (framed(CTR, length=LIMIT + 1), {EXHAUSTED}),
    "the greatest length": (framed(CTR, length=2**32 - 1), {EXHAUSTED}),
    "a compressed one of no encoding": (framed(gzip.compress(CTR), compressed=1), {INTERNAL, UNIMPLEMENTED}),
}


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_a_body_that_is_not_one_message_is_refused(raw: Connection, name: str):
    body, statuses = WRONG_BODIES[name]
    reply = raw.call(body)
    assert reply.status in statuses
    assert reply.data == b""


def test_half_a_prefix_is_not_read_on_into_what_else_came(raw: Connection):
    reply = raw.call(b"\0", asking(HEALTH, ("grpc-timeout", "99999999S")))
    assert reply.status in {UNIMPLEMENTED, INTERNAL}


def test_a_message_of_the_limit_is_taken_and_none_beyond(raw: Connection):
    """Zeroes are no message of ours, which only who has read them knows."""
    for size, status in ((LIMIT, Status.INVALID_ARGUMENT), (LIMIT + 1, EXHAUSTED)):
        assert raw.call(framed(bytes(size)), asking(DESCRIBE)).status == status


def test_compressed_messages_are_taken(raw: Connection, score: bytes, golden: Rows):
    reply = raw.call(framed(gzip.compress(score), compressed=1), asking(SCORE, GZIP, ("grpc-accept-encoding", "gzip")))
    assert reply.status == OK
    scores = pb.ScoreResponse.FromString(reply.message).scores
    np.testing.assert_allclose(np.frombuffer(scores, "<f4"), golden.scores[:3], rtol=1e-5)
    assert raw.call(framed(CTR), asking(HEALTH, GZIP)).message == SERVING, "one that is not compressed, too"


def bomb() -> bytes:
    """Four times as many zeroes as a message may have bytes."""
    return gzip.compress(bytes(4 * LIMIT), 1)


WRONG_ENCODINGS: dict[str, tuple[str, Callable[[], bytes], set[Status]]] = {
    "a bomb": ("gzip", bomb, {EXHAUSTED}),
    "no gzip at all": ("gzip", lambda: CTR, {INTERNAL, Status.INVALID_ARGUMENT}),
    "gzip cut short": ("gzip", lambda: gzip.compress(CTR)[:-6], {INTERNAL, Status.INVALID_ARGUMENT}),
    "an encoding that nobody knows": ("br", lambda: CTR, {UNIMPLEMENTED, INTERNAL}),  # the former, says the protocol
}


@pytest.mark.parametrize("name", WRONG_ENCODINGS)
def test_what_cannot_be_decompressed_is_refused(raw: Connection, name: str):
    encoding, message, statuses = WRONG_ENCODINGS[name]
    reply = raw.call(framed(message(), compressed=1), asking(HEALTH, ("grpc-encoding", encoding)))
    assert reply.status in statuses


@pytest.mark.parametrize("path", ["/quorem.v1.Scorer/Other", "/other.Service/Score", "/", "*", "/" + "p" * 5000])
def test_an_unknown_method_is_unimplemented(raw: Connection, path: str):
    reply = raw.call(framed(b"x"), asking(path))
    assert reply.status == UNIMPLEMENTED or reply.reset is not None


@pytest.mark.parametrize("method", ["GET", "PUT", "CONNECT", "post"])
def test_only_post_is_answered(raw: Connection, method: str):
    refused = raw.call(framed(CTR), asking(method=method))
    assert refused.data == b""
    assert refused.status != OK


def test_another_content_type_is_no_grpc(raw: Connection, transport: str):
    reply = raw.call(framed(CTR), asking(content_type="application/json"))
    if transport == "grpcio":
        assert reply.status == OK, "it does not look"
    else:
        assert (reply.http, reply.data) == ("415", b"")


def test_headers_that_nobody_knows_change_nothing(raw: Connection, score: bytes):
    more = [("x-request-id", "1"), ("x-bin", "AAEC"), ("user-agent", "test/1.0"), ("x-empty", ""), ("x", "v" * 3000)]
    for name, value in more:
        headers = [*asking(SCORE), (name, value)]
        assert raw.call(framed(score), headers).status == OK, name


def test_calls_that_are_reset_are_dropped(raw: Connection, score: bytes, server: Served, transport: str):
    """What is reset before it is begun is not computed; whatever was begun ends, and the connection lives."""
    channel = grpc.insecure_channel(server.address)
    asked = oip.ModelStatisticsRequest(name="ctr", version="1")

    def computed() -> int:
        reply = GRPCInferenceServiceStub(channel).ModelStatistics(asked, timeout=PATIENCE_S)
        return reply.model_stats[0].inference_stats.success.count

    before, sent, count = computed(), bytearray(), 60
    cancel = struct.pack(">I", 8)
    for _ in range(count):
        stream = raw.stream()
        sent += frame(Kind.HEADERS, Flag.END_HEADERS, stream, block(asking(SCORE)))
        sent += frame(Kind.DATA, Flag.END_STREAM, stream, framed(score))
        sent += frame(Kind.RST_STREAM, 0, stream, cancel)
    raw.send(bytes(sent))
    assert raw.call(framed(score), asking(SCORE)).status == OK
    eventually(lambda: computed() > before)
    if transport == "nghttp2":
        assert computed() - before < count / 2, "they came and were reset at one time"
    channel.close()


def test_pings_are_answered(raw: Connection):
    pings = [b"%08d" % number for number in range(3)]
    for each in pings:
        raw.send(frame(Kind.PING, 0, 0, each))
    raw.hear(lambda: sum(each.kind == Kind.PING for each in raw.frames) == 3)
    assert [each.payload for each in raw.frames if each.kind == Kind.PING and each.flags == 1] == pings


def test_a_reader_that_opens_no_window_gets_what_fits_and_the_rest_later(server: Served):
    describe = pb.DescribeRequest(model="ctr").SerializeToString()
    with Connection(server.address, settings={4: 100}) as slow:  # bytes of a stream's first window
        slow.hear(lambda: any(each.kind == Kind.SETTINGS and each.flags for each in slow.frames))
        slow._polite = False
        stream = slow.begin(asking(DESCRIBE))
        slow.data(stream, framed(describe))
        slow.hear(lambda: len(slow.replies.get(stream, Reply()).data) >= 100)
        assert len(slow.replies[stream].data) == 100
        assert not slow.replies[stream].ended
        slow.send(frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", 60000)))
        assert pb.DescribeResponse.FromString(slow.reply(stream).message).version == 1
