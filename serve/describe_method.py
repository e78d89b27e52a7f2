"""Describe: what a model takes and what one request may ask for; a function from bytes to bytes."""

from google.protobuf import json_format

from ..protos import scoring_pb2 as pb
from .call import Call
from .messages import parse
from .repository import Repository


def describe(repository: Repository, request: bytes, _call: Call) -> bytes:
    """Answer a serialized DescribeRequest with a serialized DescribeResponse.

    Raises:
        InputError: a request that is none.
        NotFound: not served.
    """
    model = repository.selected(parse(pb.DescribeRequest, "quorem.v1.DescribeRequest", request))
    limits = repository.limits
    return pb.DescribeResponse(
        model=model.version.name,
        version=model.version.number,
        schema_fingerprint=model.fingerprint,
        schema_json=json_format.MessageToJson(
            model.schema, preserving_proto_field_name=True, sort_keys=True, indent=None
        ),
        limits=pb.Limits(max_rows=model.most_rows(limits), max_request_bytes=limits.max_request_bytes),
    ).SerializeToString()
