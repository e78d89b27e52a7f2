"""KServe's Python server on a version of an exported repository; runs in the environment of requirements/kserve.txt.

`python kserve_server.py VERSION_DIRECTORY MODEL PORT HTTP_PORT`: its custom predictor, without a log of
every call.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

OUTPUT = "logit"


class Onnx(Model):
    """One session of model.onnx."""

    def __init__(self, name: str, version: Path) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(version / "model.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        """(B, slots) int64 and (B, columns) float32 to (B,) float32 logits."""
        logits: Any = self._session.run([OUTPUT], {each.name: each.as_numpy() for each in payload.inputs})[0]
        output = InferOutput(OUTPUT, list(logits.shape), "FP32")
        output.set_data_from_numpy(logits)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])


def main() -> None:
    """Serve until a signal comes."""
    version, name, port, http_port = sys.argv[1:]
    model = Onnx(name, Path(version))
    server = ModelServer(http_port=int(http_port), grpc_port=int(port), enable_latency_logging=False)
    logging.getLogger("kserve").setLevel(logging.WARNING)  # it tells each call at INFO
    server.start([model])


if __name__ == "__main__":
    main()
