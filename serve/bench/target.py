"""Target: what stands at an endpoint, and which call of it is timed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...protos import manifest, manifest_pb2
from ...protos import open_inference_pb2 as inference
from ...protos import scoring_pb2 as scoring
from ...protos.errors import NotFound, Unimplemented, WrongSchema
from ...protos.schema import fingerprint
from ..channel import Access
from ..exchange import Description, description_of
from ..services import INFERENCE, SCORER
from .questions import Questions

Protocol = Literal["score", "infer"]
PATHS: dict[Protocol, str] = {"score": f"/{SCORER}/Score", "infer": f"/{INFERENCE}/ModelInfer"}
FIND_S = 10.0  # all questions together
DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}


@dataclass(frozen=True)
class Tensor:
    """An input of a model as its metadata tells; -1 in a shape: any."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A model at an endpoint, and the call of it that is timed.

    path: gRPC's name of the call.
    version: empty: the one that an unversioned call gets.
    served: what quorem's own server describes; None for others.
    tensors: inputs that the model's metadata tells, for "infer"; servers may tell none.
    max_rows: that a request may have; None where the server does not say.
    schema: of the model, from the server or from a bundle; None where neither tells.
    """

    access: Access
    path: str
    protocol: Protocol
    model: str
    version: str
    served: Description | None
    tensors: tuple[Tensor, ...]
    max_rows: int | None
    schema: manifest_pb2.Schema | None = None


def find(access: Access, model: str, protocol: Literal["auto", "score", "infer"], bundle: Path | None) -> Target:
    """Ask an endpoint what it serves.

    Args:
        access: the endpoint, and how to reach it.
        model: empty for the only one.
        protocol: "auto" takes Score where there is a quorem.v1.Scorer, and ModelInfer elsewhere.
        bundle: the version's directory, for servers that do not tell their schema.

    Raises:
        Unavailable: nobody answers within ten seconds.
        Unimplemented: somebody does, but speaks neither protocol.
        NotFound: no such model; several, and none was named.
        WrongSchema: another model than the bundle's is served.
        QuoremError: what else a server refuses, and a bundle that is none.
    """
    schema = None if bundle is None else manifest.read(bundle, verify_digests=False).schema
    with access.channel() as channel:
        questions = Questions(channel, access, FIND_S)
        served = _described(questions, model, alone=protocol == "score")
        if served is None:
            _check_speaks_inference(questions)
            model, version = model or _only_model(questions), ""
        else:
            model, version = served.model, str(served.version)
            if schema is not None and fingerprint(schema) != served.fingerprint:
                raise WrongSchema(
                    "a bundle and the served model have one schema",
                    found=f"{served.model}/{served.version} of another",
                    where=str(bundle),
                    remedy="Name the --model or the --bundle that belong together",
                )
            schema = served.schema
        chosen: Protocol = "infer" if served is None or protocol == "infer" else "score"
        tensors = _inputs(questions, model, version) if chosen == "infer" else ()
    limit = None if served is None else served.limits.max_rows
    return Target(access, PATHS[chosen], chosen, model, version, served, tensors, limit, schema)


def _described(questions: Questions, model: str, *, alone: bool) -> Description | None:
    """What quorem's server says of a model; None of another's server, unless the Scorer alone will do."""
    request = scoring.DescribeRequest(model=model).SerializeToString()
    try:
        reply = questions.ask(f"/{SCORER}/Describe", request, scoring.DescribeResponse)
    except Unimplemented:
        if alone:
            raise
        return None
    return description_of(reply, questions.access.endpoint)


def _check_speaks_inference(questions: Questions) -> None:
    try:
        questions.ask(f"/{INFERENCE}/ServerLive", b"", inference.ServerLiveResponse)
    except Unimplemented as error:
        raise Unimplemented(
            f"an endpoint speaks {SCORER} or the Open Inference Protocol",
            found=f"UNIMPLEMENTED: {error.rule}",
            where=questions.access.endpoint,
            remedy="Name the gRPC port of a server that does",
        ) from None


def _only_model(questions: Questions) -> str:
    request = inference.RepositoryIndexRequest(ready=True).SerializeToString()
    try:
        reply = questions.ask(f"/{INFERENCE}/RepositoryIndex", request, inference.RepositoryIndexResponse)
        names = sorted({each.name for each in reply.models})
    except Unimplemented:
        names = []
    if len(names) == 1:
        return names[0]
    raise NotFound(
        "a model is named where a server has several, or does not list them",
        found=f"models {names[:8]}" if names else "no list",
        where=questions.access.endpoint,
        remedy="Name one with --model",
    )


def _inputs(questions: Questions, model: str, version: str) -> tuple[Tensor, ...]:
    request = inference.ModelMetadataRequest(name=model, version=version).SerializeToString()
    reply = questions.ask(f"/{INFERENCE}/ModelMetadata", request, inference.ModelMetadataResponse)
    return tuple(Tensor(each.name, each.datatype, tuple(each.shape)) for each in reply.inputs)
