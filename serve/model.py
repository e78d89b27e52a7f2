"""Model: one version, opened: its manifest, its session, and a proof that it gives the scores it was exported with."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..protos import manifest
from ..protos.encode import Encoded, Float32s
from ..protos.errors import Malformed, ParityError, Unavailable, WrongShape
from ..protos.schema import fingerprint, layout
from .settings import Device, Version
from .sides import Sides
from .survey import GOLDEN, GRAPH

IDS, DENSE, LOGIT, CTR = "ids", "dense", "logit", "ctr"
WARM_ROWS = 256
ELSEWHERE = 2  # times the parity bound: another processor, or another batch, rounds in another way
AGAIN = "Export the run again, as a new version"


class Model:
    """A version that can be run; safe to call from several threads.

    Legend: B rows; S slots of `ids`; D columns of `dense`.
    """

    def __init__(self, version: Version, device: Device) -> None:
        """Open a version whose digests were verified before.

        Raises:
            ArtifactError: a bundle that cannot be trusted.
            Unavailable: no such device.
            ParityError: this machine gives other scores than the bundle's golden rows.
        """
        self.version = version
        self.manifest = manifest.read(version.directory, verify_digests=False)
        self.schema = self.manifest.schema
        self.fingerprint = fingerprint(self.schema)
        self.layout = layout(self.schema)
        self.sides = Sides(self.schema)
        self._session = _open(version, device)
        self._check_signature()

    @cached_property
    def inputs(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """The graph's inputs: name -> (dtype, width); `ids` [B, S] and `dense` [B, D], left out at width 0."""
        widths = {
            IDS: (np.dtype(np.int64), self.layout.slot_count),
            DENSE: (np.dtype(np.float32), len(self.layout.dense)),
        }
        return {name: each for name, each in widths.items() if each[1]}

    def run(self, encoded: Encoded, outputs: Sequence[str]) -> list[Float32s]:
        """The named outputs, each (B,) float32."""
        arrays = {IDS: encoded.ids, DENSE: encoded.dense}
        values: Any = self._session.run(outputs, {name: arrays[name] for name in self.inputs})
        return values

    def warm(self) -> None:
        """Run the golden rows, alone and together, and compare the logits with the stored ones.

        Raises:
            ParityError: a logit further off than the bundle's parity bound.
            Malformed, WrongShape: golden rows that are not the model's.
        """
        golden = self._golden()
        rows = len(golden[LOGIT])
        for start in (0, *range(1, rows, WARM_ROWS)):
            stop = 1 if start == 0 else start + WARM_ROWS
            part = Encoded(golden[IDS][start:stop], golden[DENSE][start:stop])
            stored = golden[LOGIT][start:stop]
            (found,) = self.run(part, [LOGIT])
            off = float(np.max(np.abs(found - stored) / np.maximum(1, np.abs(stored)), initial=0.0))
            if not off <= ELSEWHERE * self.manifest.export.parity_bound:
                raise ParityError(
                    f"a served model gives its golden logits to {ELSEWHERE} x {self.manifest.export.parity_bound:g}",
                    found=f"{off:g} off",
                    where=f"{self.version.directory}, rows {start} to {min(stop, rows) - 1}",
                    remedy="Export the run again with the ONNX Runtime of this machine",
                )

    def _golden(self) -> dict[str, npt.NDArray[Any]]:
        path = self.version.directory / GOLDEN
        try:
            golden = load_file(path)
        except (OSError, SafetensorError) as error:
            raise Malformed(
                f"{GOLDEN} is a safetensors file", found=str(error), where=str(path), remedy=AGAIN
            ) from None
        rows = len(golden.get(LOGIT, ()))
        if not rows:
            raise Malformed("a bundle has golden rows", found="none", where=str(path), remedy=AGAIN)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (str(dtype), (rows, width)) for name, (dtype, width) in self.inputs.items()
        }
        expected[LOGIT] = ("float32", (rows,))
        manifest.check_tensors(
            expected,
            {name: (str(golden[name].dtype), golden[name].shape) for name in expected if name in golden},
            str(path),
        )
        empty = {IDS: np.empty((rows, 0), np.int64), DENSE: np.empty((rows, 0), np.float32)}
        return empty | golden

    def _check_signature(self) -> None:
        kinds = {"int64": "tensor(int64)", "float32": "tensor(float)"}
        expected = {name: (kinds[str(dtype)], width) for name, (dtype, width) in self.inputs.items()}
        found = {each.name: (each.type, each.shape[-1] if each.shape else None) for each in self._session.get_inputs()}
        outputs = {each.name: each.type for each in self._session.get_outputs()}
        if found != expected or any(outputs.get(name) != kinds["float32"] for name in (LOGIT, CTR)):
            raise WrongShape(
                f"the graph of this schema has inputs {expected} and outputs {LOGIT}, {CTR}",
                found=f"inputs {found}, outputs {outputs}",
                where=str(self.version.directory / GRAPH),
                remedy=AGAIN,
            )


def _open(version: Version, device: Device) -> ort.InferenceSession:
    """A session of one thread, by path: ONNX Runtime then maps the tables, and all workers share their pages."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})  # TF32 would break parity
    path = str(version.directory / GRAPH)
    try:
        session = ort.InferenceSession(path, options, providers=[cuda] * (device == "cuda") + ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common class below it
        raise Malformed("ONNX Runtime opens a bundle's graph", found=str(error), where=path, remedy=AGAIN) from None
    if device == "cuda" and cuda[0] not in session.get_providers():
        raise Unavailable(
            "--device cuda needs a GPU, its driver, and the CUDA and cuDNN that this onnxruntime-gpu was built for",
            found=f"providers {session.get_providers()}",
            where=path,
            remedy="Serve with --device cpu, or install them",
        )
    return session
