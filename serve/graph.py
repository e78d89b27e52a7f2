"""Graph: one graph of a version, opened by path, whose inputs are those that the schema says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ..protos.encode import Float32s
from ..protos.errors import Malformed, QuoremError, Unavailable, WrongShape
from .settings import Device

LOGIT, CTR = "logit", "ctr"
KINDS = {"int64": "tensor(int64)", "float32": "tensor(float)"}
Numbers = bytes | npt.NDArray[Any]  # of a row one after the other, of rows one after the other
AGAIN = "Export the run again, as a new version"


class Graph:
    """A graph that can be run; safe to call from several threads.

    names: of the inputs that have a width.
    Outputs: `logit` and `ctr`, float32, one number a row.
    """

    def __init__(
        self, path: Path, inputs: Mapping[str, tuple[np.dtype[Any], tuple[int | None, int]]], device: Device
    ) -> None:
        """Open a graph file that was verified before.

        Args:
            path: the file, with the version's tables beside it.
            inputs: name -> dtype and shape (rows, width); rows None: any number. Those of width 0 are left out.
            device: where to run it.

        Raises:
            Malformed: ONNX Runtime does not open it.
            Unavailable: no such device.
            WrongShape: other inputs or outputs.
        """
        self._inputs = [(name, dtype, shape[1]) for name, (dtype, shape) in inputs.items() if shape[1]]
        self.is_row_wise = all(rows is None for _, (rows, _) in inputs.values())
        self.names = [name for name, _, _ in self._inputs]
        self._session = _open(path, device)
        expected = {name: (KINDS[str(dtype)], list(inputs[name][1])) for name, dtype, _ in self._inputs}
        with told("ONNX Runtime tells what a bundle's graph reads", path):
            found = {each.name: (each.type, _sizes(each.shape)) for each in self._session.get_inputs()}
            outputs = {each.name: each.type for each in self._session.get_outputs()}
        if found != expected or any(outputs.get(name) != KINDS["float32"] for name in (LOGIT, CTR)):
            raise WrongShape(
                f"the graph of this schema has inputs {expected} and outputs {LOGIT}, {CTR}",
                found=f"inputs {found}, outputs {outputs}",
                where=str(path),
                remedy=AGAIN,
            )

    def run(self, arrays: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> list[Float32s]:
        """The named outputs, each (rows,) float32; arrays of width 0 are not looked at."""
        is_whole = len(arrays) == len(self.names)
        values: Any = self._session.run(outputs, arrays if is_whole else {name: arrays[name] for name in self.names})
        return values

    def join(self, parts: Sequence[Sequence[Numbers]]) -> dict[str, npt.NDArray[Any]]:
        """The inputs of several requests, one request's rows after the other's; of a single one, its own, or views.

        Args:
            parts: of each request the numbers of each input, in the order of `names`; arrays are (rows, width).
        """
        if len(parts) == 1:
            arrays = [each for each in parts[0] if isinstance(each, np.ndarray)]
            if len(arrays) == len(self.names):
                return dict(zip(self.names, arrays, strict=True))
        joined: dict[str, npt.NDArray[Any]] = {}
        for (name, dtype, width), numbers in zip(self._inputs, zip(*parts, strict=True), strict=True):
            data = numbers[0] if len(numbers) == 1 else b"".join(numbers)
            joined[name] = np.frombuffer(data, dtype).reshape(-1, width)
        return joined


@contextmanager
def told(rule: str, path: Path) -> Iterator[None]:
    """Tell an error that is not quorem's as Malformed: those of ONNX Runtime have no common class."""
    try:
        yield
    except QuoremError:
        raise
    except Exception as error:
        raise Malformed(rule, found=str(error), where=str(path), remedy=AGAIN) from None


# Looks for slices of one tensor in gathers from one table, of which exported graphs have none, by unpacking its rows.
POINTLESS = ["GatherSliceToSplitFusion"]


def _sizes(shape: Sequence[int | str | None]) -> list[int | None]:
    """A shape as ONNX Runtime tells it, without the names of the sizes that vary."""
    return [size if isinstance(size, int) else None for size in shape]


def _open(path: Path, device: Device) -> ort.InferenceSession:
    """A session of one thread, by path: ONNX Runtime then maps the tables, and all workers share their pages."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})  # TF32 would break parity
    providers = [cuda] * (device == "cuda") + ["CPUExecutionProvider"]
    with told("ONNX Runtime opens a bundle's graph", path):
        session = ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=POINTLESS)
    if device == "cuda" and cuda[0] not in session.get_providers():
        raise Unavailable(
            "--device cuda needs a GPU, its driver, and the CUDA and cuDNN that this onnxruntime-gpu was built for",
            found=f"providers {session.get_providers()}",
            where=str(path),
            remedy="Serve with --device cpu, or install them",
        )
    return session
