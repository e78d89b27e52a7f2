"""Metadata: the Open Inference Protocol's questions about a server and its models; functions from bytes to bytes."""

import json

from .. import __version__
from ..protos import open_inference_pb2 as pb
from ..protos.errors import NotFound, WrongType
from .call import Call
from .graph import CTR, LOGIT
from .messages import parse
from .model import Model
from .repository import Repository
from .tensors import DATATYPES

PLATFORM = "onnxruntime_onnx"  # the protocol's name for a model that ONNX Runtime runs
EXTENSIONS = ("model_repository", "model_configuration", "statistics")  # by Triton's names


def server_live(_repository: Repository, request: bytes, _call: Call) -> bytes:
    """Whether the process answers: it does."""
    parse(pb.ServerLiveRequest, "inference.ServerLiveRequest", request)
    return pb.ServerLiveResponse(live=True).SerializeToString()


def server_ready(repository: Repository, request: bytes, _call: Call) -> bytes:
    """Whether calls are welcome: until the server is told to stop."""
    parse(pb.ServerReadyRequest, "inference.ServerReadyRequest", request)
    return pb.ServerReadyResponse(ready=repository.serving).SerializeToString()


def model_ready(repository: Repository, request: bytes, _call: Call) -> bytes:
    """Whether a version can be called; one that is not served is not ready, which is no error."""
    asked = parse(pb.ModelReadyRequest, "inference.ModelReadyRequest", request)
    try:
        repository.model_of_text(asked.name, asked.version)
    except (NotFound, WrongType):
        return pb.ModelReadyResponse(ready=False).SerializeToString()
    return pb.ModelReadyResponse(ready=repository.serving).SerializeToString()


def server_metadata(_repository: Repository, request: bytes, _call: Call) -> bytes:
    """Name and version of the server, and which of the protocol's extensions it has."""
    parse(pb.ServerMetadataRequest, "inference.ServerMetadataRequest", request)
    return pb.ServerMetadataResponse(name="quorem", version=__version__, extensions=EXTENSIONS).SerializeToString()


def model_metadata(repository: Repository, request: bytes, _call: Call) -> bytes:
    """Names, types and shapes of a model's tensors, and in `properties` what its slots mean.

    Raises:
        NotFound, WrongType: not served.
    """
    asked = parse(pb.ModelMetadataRequest, "inference.ModelMetadataRequest", request)
    model = repository.model_of_text(asked.name, asked.version)
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.version.name,
        versions=[str(number) for number in repository.versions(model.version.name)],
        platform=PLATFORM,
        inputs=[
            tensor(name=name, datatype=DATATYPES[str(dtype)], shape=[-1, width])
            for name, (dtype, width) in model.inputs.items()
        ],
        outputs=[tensor(name=name, datatype="FP32", shape=[-1]) for name in (LOGIT, CTR)],
        properties=properties(model),
    ).SerializeToString()


def properties(model: Model) -> dict[str, str]:
    """As in config.pbtxt; `slots` is JSON: {"ids": {feature: [first slot, slots]}, "dense": {feature: column}}."""
    slots = {"ids": model.layout.slots, "dense": model.layout.dense}
    return {"schema_fingerprint": model.fingerprint, "slots": json.dumps(slots)}
