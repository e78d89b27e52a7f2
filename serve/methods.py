"""Methods: every call of the server by its path, as functions from bytes to bytes that know no transport."""

from collections.abc import Callable
from functools import partial

from . import metadata_methods as metadata
from .describe_method import describe
from .infer_method import model_infer
from .repository import Repository
from .score_method import score, unimplemented_stream
from .services import INFERENCE, SCORER

Method = Callable[[bytes], bytes]


def unary(repository: Repository) -> dict[str, dict[str, Method]]:
    """Service -> method -> function; each may raise a QuoremError."""
    return {
        SCORER: {"Score": partial(score, repository), "Describe": partial(describe, repository)},
        INFERENCE: {
            "ServerLive": partial(metadata.server_live, repository),
            "ServerReady": partial(metadata.server_ready, repository),
            "ModelReady": partial(metadata.model_ready, repository),
            "ServerMetadata": partial(metadata.server_metadata, repository),
            "ModelMetadata": partial(metadata.model_metadata, repository),
            "ModelInfer": partial(model_infer, repository),
        },
    }


def refused_streams() -> dict[str, dict[str, Callable[[], None]]]:
    """Service -> streaming method -> a function that raises why there is none."""
    return {SCORER: {"ScoreStream": unimplemented_stream}}
