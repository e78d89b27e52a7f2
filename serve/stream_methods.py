"""Streams: many requests of a stream, each answered as one call and in their order; bytes to bytes.

`answer` is the method that answers one request, with whatever admits and counts single calls around it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from google.protobuf.message import DecodeError

from ..protos import open_inference_pb2 as pb
from ..protos.errors import Gone, QuoremError, TooLate, Unavailable
from .call import Call
from .statuses import Status, message_of, status_of

FINAL = "triton_final_response"  # Triton's mark on the last reply to a request; here each has one
ENDS = (Gone, TooLate, Unavailable)  # no later request of the stream would fare better


def score_stream(answer: Callable[[bytes, Call], bytes], requests: Iterator[bytes], call: Call) -> Iterator[bytes]:
    """Answer serialized ScoreRequests with serialized ScoreResponses.

    Raises:
        QuoremError: the first request that fails ends the stream, as it would have ended a call of Score.
    """
    for request in requests:
        yield answer(request, _own(call))


def model_stream_infer(
    answer: Callable[[bytes, Call], bytes], requests: Iterator[bytes], call: Call
) -> Iterator[bytes]:
    """Answer serialized ModelInferRequests with serialized ModelStreamInferResponses.

    A request that fails is answered by its id and the error's text, and the stream goes on.

    Raises:
        Gone, TooLate, Unavailable: nobody waits for the stream, or the server takes no more calls.
    """
    for request in requests:
        reply = pb.ModelStreamInferResponse()
        try:
            reply.infer_response.MergeFromString(answer(request, _own(call)))
        except QuoremError as error:
            if isinstance(error, ENDS) or status_of(error) == Status.INTERNAL:
                raise
            reply.error_message = message_of(error)
            reply.infer_response.id = _id(request)
        reply.infer_response.parameters[FINAL].bool_param = True
        yield reply.SerializeToString()


def _own(call: Call) -> Call:
    """A call of its own for one request of a stream, with its caller and deadline."""
    return replace(call, arrived=time.monotonic())


def _id(request: bytes) -> str:
    try:
        return pb.ModelInferRequest.FromString(request).id
    except DecodeError:
        return ""
