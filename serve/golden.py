"""Golden: a bundle's golden rows, and the proof that a graph gives their logits.

Legend: G golden rows; S slots of `ids`; D columns of `dense`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..protos import manifest
from ..protos.encode import Encoded, Float32s
from ..protos.errors import Malformed, ParityError
from ..protos.schema import Layout
from .graph import AGAIN, LOGIT
from .survey import GOLDEN

ELSEWHERE = 2  # times the parity bound: another processor, or another batch, rounds in another way


@dataclass(frozen=True)
class Golden:
    """The rows that a bundle was proved on: their arrays, (G, S) and (G, D), and `logits` (G,) float32."""

    rows: Encoded
    logits: Float32s
    path: Path

    def take(self, rows: slice) -> Encoded:
        """The arrays of some rows."""
        return Encoded(self.rows.ids[rows], self.rows.dense[rows])

    def check(self, found: Float32s, rows: slice, bound: float) -> None:
        """Compare the logits that a graph gave for some rows with the stored ones.

        Raises:
            ParityError: one further off than twice the bundle's parity bound, or another number of them.
        """
        stored, off = self.logits[rows], float("inf")
        if found.shape == stored.shape:
            with np.errstate(invalid="ignore"):  # a logit that is not finite gives NaN, which is no parity
                off = float(np.max(np.abs(found - stored) / np.maximum(1, np.abs(stored)), initial=0.0))
        if not off <= ELSEWHERE * bound:
            start, stop, _ = rows.indices(len(self.logits))
            raise ParityError(
                f"a served model gives its golden logits to {ELSEWHERE} x {bound:g}",
                found=f"{off:g} off",
                where=f"{self.path}, rows {start} to {stop - 1}",
                remedy="Export the run again with the ONNX Runtime of this machine",
            )


def read(directory: Path, places: Layout) -> Golden:
    """The golden rows of a version.

    Raises:
        Malformed, WrongShape: golden rows that are not the model's.
    """
    path = directory / GOLDEN
    try:
        golden: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Malformed(f"{GOLDEN} is a safetensors file", found=str(error), where=str(path), remedy=AGAIN) from None
    rows = len(golden.get(LOGIT, ()))
    if not rows:
        raise Malformed("a bundle has golden rows", found="none", where=str(path), remedy=AGAIN)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {LOGIT: ("float32", (rows,))}
    if places.slot_count:
        expected["ids"] = ("int64", (rows, places.slot_count))
    if places.dense_count:
        expected["dense"] = ("float32", (rows, places.dense_count))
    found = {name: (str(golden[name].dtype), golden[name].shape) for name in expected if name in golden}
    manifest.check_tensors(expected, found, str(path))
    empty = {"ids": np.empty((rows, 0), np.int64), "dense": np.empty((rows, 0), np.float32)}
    whole = empty | golden
    return Golden(Encoded(whole["ids"], whole["dense"]), golden[LOGIT], path)
