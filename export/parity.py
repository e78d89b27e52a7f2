"""Parity: ONNX Runtime must give the logits that training gave, or the model is not published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..protos.errors import ParityError
from .graph import Array
from .model import LOGIT

BOUND = 1e-5
CHUNK_ROWS = 4096
ERRORS_ONLY = 3


@dataclass(frozen=True)
class Parity:
    """How far apart two evaluators are: the greatest |logit - stored| / max(1, |stored|) over `rows` rows."""

    found: float
    rows: int


def score(model: Path, inputs: Mapping[str, Array]) -> Array:
    """The logits of a model file for its inputs, on one thread of the CPU; float32 [R]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    rows = len(next(iter(inputs.values())))
    logits = np.empty(rows, np.float32)
    for start in range(0, rows, CHUNK_ROWS):
        stretch = slice(start, start + CHUNK_ROWS)
        outputs: Sequence[Any] = session.run([LOGIT], {name: array[stretch] for name, array in inputs.items()})
        logits[stretch] = outputs[0]
    return logits


def prove(model: Path, rows: Mapping[str, Array]) -> Parity:
    """Compare a model's logits with the stored ones.

    Args:
        model: model.onnx, with its tables beside it.
        rows: `ids` and `dense` where the model has them, and `logit` float32 [R].

    Raises:
        ParityError: some row differs by more than `BOUND` * max(1, |stored logit|), or is NaN.
    """
    stored = rows["logit"].astype(np.float64)
    found = score(model, {name: array for name, array in rows.items() if name in ("ids", "dense")})
    with np.errstate(invalid="ignore"):  # a logit that is not finite gives NaN, which is no parity
        ratios = np.abs(found - stored) / np.maximum(1, np.abs(stored))
    worst = int(np.argmax(np.where(np.isnan(ratios), np.inf, ratios)))
    if not ratios[worst] <= BOUND:
        raise ParityError(
            f"ONNX Runtime and training agree on every reference row to within {BOUND:g} * max(1, |logit|)",
            found=f"logit {found[worst]:.9g} instead of {stored[worst]:.9g}; {int((~(ratios <= BOUND)).sum())} of "
            f"{len(stored)} rows differ",
            where=f"reference row {worst}",
            remedy="A model that differs is not published. Train again, or copy the bundle again; if it still differs, "
            "that is a bug worth reporting",
        )
    return Parity(float(ratios[worst]), len(stored))
