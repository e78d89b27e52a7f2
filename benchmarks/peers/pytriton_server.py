"""PyTriton on a version of an exported repository; runs in the environment of requirements/pytriton.txt.

`python pytriton_server.py VERSION_DIRECTORY MODEL PORT HTTP_PORT METRICS_PORT INSTANCES`: its batcher as it comes,
batches of up to as many rows as the exported config.pbtxt allows.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

OUTPUT = "logit"
MOST_ROWS = 4096


class Onnx:
    """One session of model.onnx, opened in the process that runs it."""

    def __init__(self, version: Path) -> None:
        self._path, self._session = str(version / "model.onnx"), None

    @batch
    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """(B, slots) int64 and (B, columns) float32 to (B, 1) float32 logits."""
        [logits] = self._opened().run([OUTPUT], inputs)
        return {OUTPUT: logits[:, np.newaxis]}

    def tensors(self) -> list[Tensor]:
        """What the graph reads, without the rows."""
        dtypes = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
        inputs = self._opened().get_inputs()
        self._session = None  # a session does not survive a fork
        return [Tensor(name=each.name, dtype=dtypes[each.type], shape=tuple(each.shape[1:])) for each in inputs]

    def _opened(self) -> Any:
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        return self._session


def main() -> None:
    """Serve until a signal comes."""
    version, name, port, http_port, metrics_port, instances = sys.argv[1:]
    functions = [Onnx(Path(version)) for _ in range(int(instances))]
    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=int(port),
        http_address="127.0.0.1",
        http_port=int(http_port),
        metrics_port=int(metrics_port),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=functions,
            inputs=functions[0].tensors(),
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MOST_ROWS, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
