"""A runtime of MLServer for an exported repository; runs in the environment of requirements/mlserver.txt.

`python mlserver_runtime.py VERSION_DIRECTORY MODEL PORT HTTP_PORT METRICS_PORT PARALLEL_WORKERS FOLDER` writes the
settings into FOLDER and becomes `mlserver start FOLDER`, which imports this file for the class below.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

OUTPUT = "logit"

if __name__ != "__main__":
    import onnxruntime
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec
    from mlserver.types import InferenceRequest, InferenceResponse

    class Onnx(MLModel):
        """One session of model.onnx."""

        async def load(self) -> bool:
            """Open the session."""
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            path = self.settings.parameters.uri
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            return True

        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            """(B, slots) int64 and (B, columns) float32 to (B,) float32 logits."""
            inputs = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
            [logits] = self._session.run([OUTPUT], inputs)
            return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(OUTPUT, logits)])


def main() -> None:
    """Write the settings and become the server."""
    version, name, port, http_port, metrics_port, workers, target = sys.argv[1:]
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    server: dict[str, Any] = {
        "debug": False,
        "host": "127.0.0.1",
        "grpc_port": int(port),
        "http_port": int(http_port),
        "metrics_port": int(metrics_port),
        "metrics_dir": str(folder / "metrics"),
        "parallel_workers": int(workers),
        "logging_settings": {"version": 1, "loggers": {"mlserver": {"level": "WARNING"}}},  # it tells each call at INFO
    }
    model = {
        "name": name,
        "implementation": f"{Path(__file__).stem}.Onnx",
        "parameters": {"uri": str(Path(version) / "model.onnx")},
    }
    for file, settings in (("settings.json", server), ("model-settings.json", model)):
        (folder / file).write_text(json.dumps(settings, indent=1) + "\n")
    (folder / Path(__file__).name).write_bytes(Path(__file__).read_bytes())
    os.chdir(folder)
    command = str(Path(sys.executable).with_name("mlserver"))
    os.execv(command, [command, "start", str(folder)])  # noqa: S606  # no shell is wanted: the process becomes the server


if __name__ == "__main__":
    main()
