"""ModelConfig: a served version as Triton's configuration of it; a function from bytes to bytes."""

from ..protos import open_inference_pb2 as pb
from .call import Call
from .graph import CTR, LOGIT
from .messages import parse
from .metadata_methods import PLATFORM, properties
from .repository import Repository
from .survey import GRAPH

BACKEND = "onnxruntime"
TYPES = {"int64": pb.TYPE_INT64, "float32": pb.TYPE_FP32}


def model_config(repository: Repository, request: bytes, _call: Call) -> bytes:
    """Answer a serialized ModelConfigRequest; shapes leave out the rows, of which a request has `max_batch_size`.

    Raises:
        InputError: a request that is none.
        NotFound, WrongType: not served.
    """
    asked = parse(pb.ModelConfigRequest, "inference.ModelConfigRequest", request)
    model = repository.model_of_text(asked.name, asked.version)
    name = model.version.name
    served = pb.ModelVersionPolicy.Specific(versions=repository.versions(name))
    config = pb.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=pb.ModelVersionPolicy(specific=served),
        max_batch_size=model.most_rows(repository.limits),
        input=[
            pb.ModelInput(name=name, data_type=TYPES[str(dtype)], dims=[width])
            for name, (dtype, width) in model.inputs.items()
        ],
        output=[
            pb.ModelOutput(name=name, data_type=pb.TYPE_FP32, dims=[1], reshape=pb.ModelTensorReshape())
            for name in (LOGIT, CTR)
        ],
        default_model_filename=GRAPH,
        parameters={key: pb.ModelParameter(string_value=value) for key, value in properties(model).items()},
    )
    return pb.ModelConfigResponse(config=config).SerializeToString()
