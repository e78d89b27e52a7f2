"""Methods: every call of the server by its path, as functions from bytes to bytes that know no transport."""

import time
from functools import partial

from ..protos.errors import QuoremError
from . import metadata_methods as metadata
from . import repository_methods as models
from .call import Call, Method, Stream
from .config_method import model_config
from .control import Control
from .describe_method import describe
from .infer_method import prepare_infer
from .repository import Repository
from .score_method import prepare_score
from .services import INFERENCE, SCORER
from .statistics_method import model_statistics
from .statuses import Status, status_of
from .stream_methods import model_stream_infer, score_stream
from .work import Prepare, answer

STREAMS = ("ScoreStream", "ModelStreamInfer")


def prepared(repository: Repository) -> dict[str, dict[str, Prepare]]:
    """Service -> method -> what reads a request for scores, for a transport that computes several together."""
    return {
        SCORER: {"Score": partial(prepare_score, repository)},
        INFERENCE: {"ModelInfer": partial(prepare_infer, repository)},
    }


def unary(repository: Repository, control: Control, *, allow_control: bool) -> dict[str, dict[str, Method]]:
    """Service -> method -> function; each may raise a QuoremError."""
    reading = prepared(repository)
    return {
        SCORER: {
            "Score": partial(answer, repository, reading[SCORER]["Score"]),
            "Describe": partial(describe, repository),
        },
        INFERENCE: {
            "ServerLive": partial(metadata.server_live, repository),
            "ServerReady": partial(metadata.server_ready, repository),
            "ModelReady": partial(metadata.model_ready, repository),
            "ServerMetadata": partial(metadata.server_metadata, repository),
            "ModelMetadata": partial(metadata.model_metadata, repository),
            "ModelInfer": partial(answer, repository, reading[INFERENCE]["ModelInfer"]),
            "ModelConfig": partial(model_config, repository),
            "ModelStatistics": partial(model_statistics, repository, control),
            "RepositoryIndex": partial(models.repository_index, control, allow_control),
            "RepositoryModelLoad": partial(models.repository_load, control, allow_control),
            "RepositoryModelUnload": partial(models.repository_unload, control, allow_control),
        },
    }


def streams(repository: Repository) -> dict[str, dict[str, Stream]]:
    """Service -> streaming method -> function; each request of a stream is admitted and counted as a call."""

    def counted(name: str, method: Method) -> Method:
        def answer(request: bytes, call: Call) -> bytes:
            status = Status.OK
            try:
                return method(request, call)
            except QuoremError as error:
                status = status_of(error)
                raise
            finally:
                total_ns = int(1e9 * (time.monotonic() - call.arrived))
                repository.statistics.record(
                    call, name, status, call.queue_ns, call.encode_ns, call.compute_ns, total_ns
                )

        return answer

    reading = prepared(repository)
    scores = counted("ScoreStream", partial(answer, repository, reading[SCORER]["Score"]))
    infers = counted("ModelStreamInfer", partial(answer, repository, reading[INFERENCE]["ModelInfer"]))
    return {
        SCORER: {"ScoreStream": partial(score_stream, scores)},
        INFERENCE: {"ModelStreamInfer": partial(model_stream_infer, infers)},
    }
