"""Model repository: Triton's index, loads and unloads, for the whole server; functions from bytes to bytes."""

from collections.abc import Iterable

from ..protos import open_inference_pb2 as pb
from ..protos.errors import Forbidden, NotFound, Unimplemented
from .call import Call
from .control import Control
from .messages import parse

READY = "READY"
HARMLESS = ("unload_dependents",)  # Triton's clients always send it; no model here has dependents


def repository_index(control: Control, allowed: bool, request: bytes, _call: Call) -> bytes:
    """Every version that the repository holds and its state; why it is not ready, only where control is allowed.

    Raises:
        InputError: a request that is none.
        Unimplemented: another repository than the server's own.
    """
    asked = parse(pb.RepositoryIndexRequest, "inference.RepositoryIndexRequest", request)
    _check_own(asked.repository_name)
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=each.name,
                version=str(each.number),
                state=each.state,
                reason=each.reason if allowed else "",  # it names files of this machine
            )
            for each in control.index()
            if each.state == READY or not asked.ready
        ]
    ).SerializeToString()


def repository_load(control: Control, allowed: bool, request: bytes, _call: Call) -> bytes:
    """Serve a model of the repository, or look for its versions again; answers when every worker has done it.

    Raises:
        InputError: a request that is none.
        Forbidden: this server is not controlled by calls.
        NotFound: no such model.
        ArtifactError, ParityError: none of its versions can be served.
        Unimplemented: another repository, or a configuration or files sent along.
    """
    asked = parse(pb.RepositoryModelLoadRequest, "inference.RepositoryModelLoadRequest", request)
    _check(allowed, asked.repository_name, asked.model_name, asked.parameters)
    control.load(asked.model_name)
    return pb.RepositoryModelLoadResponse().SerializeToString()


def repository_unload(control: Control, allowed: bool, request: bytes, _call: Call) -> bytes:
    """Serve a model no longer; answers when no worker does.

    Raises:
        InputError: a request that is none.
        Forbidden: this server is not controlled by calls.
        NotFound: not served.
        Unimplemented: another repository, or parameters that would change what is meant.
    """
    asked = parse(pb.RepositoryModelUnloadRequest, "inference.RepositoryModelUnloadRequest", request)
    _check(allowed, asked.repository_name, asked.model_name, asked.parameters)
    control.unload(asked.model_name)
    return pb.RepositoryModelUnloadResponse().SerializeToString()


def _check(allowed: bool, repository: str, model: str, parameters: Iterable[str]) -> None:
    if not allowed:
        raise Forbidden(
            "models are loaded and unloaded by calls only where the server allows it",
            where="inference.GRPCInferenceService",
            remedy="Serve with --allow-control, or change the files of the repository",
        )
    _check_own(repository)
    if unknown := sorted(set(parameters) - set(HARMLESS)):
        raise Unimplemented(
            "a model is loaded as it stands in the repository",
            found=f"parameter {unknown[0][:64]!r}",
            where="parameters",
            remedy="Export the model into the repository, then load it by name",
        )
    if not model or model.startswith(".") or any(each in model for each in "/\\\0"):
        raise NotFound(
            "a call names a model of the repository",
            found=repr(model[:64]) if model else "no name",
            where="model_name",
            remedy="Ask for the names with RepositoryIndex",
        )


def _check_own(repository: str) -> None:
    if repository:
        raise Unimplemented(
            "this server has one repository, without a name",
            found=repr(repository[:64]),
            where="repository_name",
            remedy="Leave it empty",
        )
