"""Parity: ONNX Runtime must give the logits that training gave, or the model is not published."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..protos import manifest_pb2 as pb
from ..protos.errors import Malformed, ParityError
from ..protos.schema import layout
from .graph import Array
from .model import LOGIT
from .side import Side, context_and_candidates

CHUNK_ROWS = 4096
ERRORS_ONLY = 3
RUNS = "a bundle's graph takes rows of its schema"


@dataclass(frozen=True)
class Parity:
    """How far apart two evaluators are: the greatest |logit - stored| / max(1, |stored|) over `rows` rows."""

    found: float
    rows: int


def session(model: Path) -> onnxruntime.InferenceSession:
    """A model file on one thread of the CPU.

    Raises:
        Malformed: ONNX Runtime does not open it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    with _told("ONNX Runtime opens a bundle's graph", model):
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


@contextmanager
def _told(rule: str, model: Path) -> Iterator[None]:
    """Tell an error of ONNX Runtime's, whose errors have no common class, as quorem's."""
    try:
        yield
    except Exception as error:
        raise Malformed(rule, found=str(error), where=str(model), remedy="Export the run again") from None


def run(model: Path, outputs: Sequence[str], inputs: Mapping[str, Array]) -> Iterator[Sequence[Any]]:
    """The outputs of a row-wise model file, `CHUNK_ROWS` rows at a time."""
    opened, rows = session(model), len(next(iter(inputs.values())))
    for start in range(0, rows, CHUNK_ROWS):
        stretch = slice(start, start + CHUNK_ROWS)
        with _told(RUNS, model):
            found = opened.run(list(outputs), {name: array[stretch] for name, array in inputs.items()})
        yield found


def score(model: Path, inputs: Mapping[str, Array]) -> Array:
    """The logits of a row-wise model file for its inputs; float32 [R]."""
    return np.concatenate([found for (found,) in run(model, [LOGIT], inputs)])


def score_ranked(model: Path, schema: pb.Schema, inputs: Mapping[str, Array]) -> Array:
    """The logits of a ranking model file for row-wise inputs; float32 [R].

    Rows that follow each other and share their context are the candidates of one request.
    """
    opened, context, candidates = (
        session(model),
        *(inputs_of(side, schema, inputs) for side in context_and_candidates(schema)),
    )
    rows, found = len(next(iter(inputs.values()))), list[Array]()
    bits = np.hstack([array.view(np.uint8).reshape(rows, -1) for array in context.values()])
    starts = np.flatnonzero(np.r_[True, (bits[1:] != bits[:-1]).any(axis=1)])
    for start, end in zip(starts, [*starts[1:], rows], strict=True):
        once = {name: array[start : start + 1] for name, array in context.items()}
        each = {name: array[start:end] for name, array in candidates.items()}
        with _told(RUNS, model):
            found.append(np.asarray(opened.run([LOGIT], once | each)[0]))
    return np.concatenate(found)


def crossed(schema: pb.Schema, inputs: Mapping[str, Array], contexts: int) -> dict[str, Array]:
    """The first rows' contexts, each beside the candidates of all rows: row-wise inputs of contexts * R rows."""
    rows = len(next(iter(inputs.values())))
    first = min(contexts, rows)
    found = {name: np.tile(array, (first, 1)) for name, array in inputs.items()}
    side, owner = context_and_candidates(schema)[0], np.repeat(np.arange(first), rows)
    for name, positions in _positions(side, schema).items():
        found[name][:, positions] = inputs[name][owner][:, positions]
    return found


def _positions(side: Side, schema: pb.Schema) -> dict[str, list[int]]:
    """Where a side's slots and columns stand in row-wise inputs."""
    places, found = layout(schema), {"ids": list[int](), "dense": list[int]()}
    for feature in side.schema.features:
        if feature.name in places.slots:
            first, count = places.slots[feature.name]
            found["ids"].extend(range(first, first + count))
        else:
            found["dense"].append(places.dense[feature.name])
    return {name: positions for name, positions in found.items() if positions}


def inputs_of(side: Side, schema: pb.Schema, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A side's part of row-wise inputs."""
    names = {"ids": side.ids, "dense": side.dense}
    found = _positions(side, schema).items()
    return {names[name]: np.ascontiguousarray(inputs[name][:, positions]) for name, positions in found}


def compare(found: Array, stored: Array, bound: float) -> Parity:
    """Compare logits with the stored ones.

    Raises:
        ParityError: some row differs by more than `bound` * max(1, |stored logit|), or is NaN.
    """
    expected = stored.astype(np.float64)
    if found.shape != expected.shape:
        raise ParityError(
            "a graph gives one logit a row",
            found=f"{list(found.shape)} logits for {len(expected)} rows",
            remedy="Export the run again",
        )
    with np.errstate(invalid="ignore"):  # a logit that is not finite gives NaN, which is no parity
        ratios = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    worst = int(np.argmax(np.where(np.isnan(ratios), np.inf, ratios)))
    if not ratios[worst] <= bound:
        raise ParityError(
            f"ONNX Runtime and training agree on every reference row to within {bound:g} * max(1, |logit|)",
            found=f"logit {found[worst]:.9g} instead of {expected[worst]:.9g}; {int((~(ratios <= bound)).sum())} of "
            f"{len(expected)} rows differ",
            where=f"reference row {worst}",
            remedy="A model that differs is not published. Train again, or copy the bundle again; if it still differs, "
            "that is a bug worth reporting",
        )
    return Parity(float(ratios[worst]), len(expected))
