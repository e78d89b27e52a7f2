"""Prove: that a target answers a load, and answers golden rows with their own scores, before it is timed.

Legend: N rows of a request.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...protos import open_inference_pb2 as inference
from ...protos import scoring_pb2 as scoring
from ...protos.encode import Float32s
from ...protos.errors import Malformed, ParityError
from .load import Load
from .questions import Questions
from .target import DTYPES, Target

PROVE_S = 30.0  # the first call of a model may be a slow one


def prove(target: Target, load: Load) -> None:
    """Send the first request of a load, and all whose logits are known: what is timed afterwards are real answers.

    Raises:
        Malformed: a reply without a score a row.
        ParityError: other scores than the bundle's golden ones.
        QuoremError: the server refuses it, as in `find`.
    """
    where = f"{target.access.endpoint}, {target.path}"
    with target.access.channel() as channel:
        for number, (request, rows) in enumerate(zip(load.requests, load.counts, strict=True)):
            if number and load.expected[number] is None:
                continue
            questions = Questions(channel, target.access, PROVE_S)
            if target.protocol == "score":
                reply = questions.ask(target.path, request, scoring.ScoreResponse)
                found = {"ctr": _values("scores", "FP32", (rows,), reply.scores, rows, where)}
            else:
                found = _outputs(questions.ask(target.path, request, inference.ModelInferResponse), rows, where)
            if (logits := load.expected[number]) is not None:
                _check_parity(found, logits, load.bound, where)


def _outputs(reply: inference.ModelInferResponse, rows: int, where: str) -> dict[str, npt.NDArray[Any]]:
    """Every output by name; there is at least one."""
    found, raw = dict[str, npt.NDArray[Any]](), reply.raw_output_contents
    for position, each in enumerate(reply.outputs):
        if raw:
            data = raw[position] if position < len(raw) else b""
        else:
            data = next((values for _, values in each.contents.ListFields()), ())
        found[each.name] = _values(each.name, each.datatype, tuple(each.shape), data, rows, where)
    if not found:
        raise Malformed("a reply has outputs", found="none", where=where)
    return found


def _values(
    name: str, datatype: str, shape: tuple[int, ...], data: bytes | Sequence[Any], rows: int, where: str
) -> npt.NDArray[Any]:
    """An output, of N rows; one of a datatype without a fixed width only by its shape."""
    dtype, count = DTYPES.get(datatype), int(np.prod(shape))
    unit, width = ("bytes", dtype.itemsize if dtype else 0) if isinstance(data, bytes) else ("values", 1)
    if not shape or shape[0] != rows or (dtype is not None and len(data) != count * width):
        raise Malformed(
            f"a reply to {rows} rows holds a score a row",
            found=f"{datatype} {name!r} of shape {list(shape)} in {len(data)} {unit}",
            where=where,
        )
    if dtype is None:
        return np.empty((rows, 0))
    return np.frombuffer(data, dtype) if isinstance(data, bytes) else np.array(data, dtype)


def _check_parity(found: dict[str, npt.NDArray[Any]], logits: Float32s, bound: float, where: str) -> None:
    """Logits to the bound, of themselves beyond 1; probabilities to a quarter of it, which is a sigmoid's slope."""
    scale = np.maximum(1, np.abs(logits))
    if "logit" in found:
        values, expected, allowed = found["logit"], logits, bound * scale
    elif "ctr" in found:
        values, expected = found["ctr"], 1 / (1 + np.exp(-logits.astype(np.float64)))
        allowed = bound * scale / 4 + np.finfo(np.float32).eps
    else:
        raise Malformed("golden rows have an output `logit` or `ctr`", found=f"outputs {sorted(found)}", where=where)
    with np.errstate(invalid="ignore"):  # what is not finite is off by NaN, which no bound allows
        off = float(np.max(np.abs(values - expected) / allowed)) if values.shape == expected.shape else float("inf")
    if not off <= 1:
        raise ParityError(
            f"golden rows get their own scores, logits to {bound:g}",
            found=f"{off:.3g} times further off",
            where=where,
            remedy="Serve the bundle that --bundle names",
        )
