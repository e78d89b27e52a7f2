"""`python foreign.py BUNDLE`: a server that is not ours: of the Open Inference Protocol, the calls that every one has.

Model `raw` is the bundle's, replies packed; `typed` the same, replies typed; `silent` tells no inputs; `off` is half a
logit off; `short` loses a row; `narrow` tells another width; `crashes` fails with a long text; `other` has tensors of
its own and a score a row of two numbers. Prints the address; ends with its standard input.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime as ort
from quorem.protos import open_inference_pb2 as pb
from quorem.protos.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

DTYPES = {"INT64": "<i8", "INT8": "<i1", "FP32": "<f4", "FP64": "<f8", "BOOL": "?"}
OTHER = {
    "item": ("INT64", [-1, 3]),
    "kind": ("INT8", [-1, 1]),
    "price": ("FP64", [-1, -1, 2]),
    "new": ("BOOL", [-1, 1]),
}
BUNDLE = ("raw", "typed", "silent", "off", "short", "narrow", "crashes")


class Foreign(GRPCInferenceServiceServicer):
    """The calls of the protocol that are here; all others are UNIMPLEMENTED."""

    def __init__(self, bundle: Path) -> None:
        self._session = ort.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])

    def ServerLive(self, request, context):  # noqa: N802  # the protocol's name
        return pb.ServerLiveResponse(live=True)

    def ModelMetadata(self, request, context):  # noqa: N802  # the protocol's name
        tensor = pb.ModelMetadataResponse.TensorMetadata
        if request.name == "other":
            inputs = [tensor(name=name, datatype=kind, shape=shape) for name, (kind, shape) in OTHER.items()]
        elif request.name in BUNDLE:
            kinds = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}
            inputs = [
                tensor(
                    name=each.name, datatype=kinds[each.type], shape=[-1, each.shape[1] + (request.name == "narrow")]
                )
                for each in self._session.get_inputs()
                if request.name != "silent"
            ]
        else:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model\n  {request.name}")
        return pb.ModelMetadataResponse(name=request.name, versions=["1"], inputs=inputs)

    def ModelInfer(self, request, context):  # noqa: N802  # the protocol's name
        arrays = {
            each.name: np.frombuffer(raw, DTYPES[each.datatype]).reshape(each.shape)
            for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        if request.model_name == "crashes":
            context.abort(grpc.StatusCode.INTERNAL, "Traceback:\n  " + "line\n" * 1000)
        reply = pb.ModelInferResponse(model_name=request.model_name, model_version="1")
        if request.model_name == "other":
            assert all(array.ndim == len(OTHER[name][1]) for name, array in arrays.items())
            self._add(reply, "pair", np.zeros((len(arrays["item"]), 2), np.float32), typed=False)
            return reply
        for name, values in zip(("logit", "ctr"), self._session.run(["logit", "ctr"], arrays), strict=True):
            values = values + np.float32(0.5 * (request.model_name == "off"))
            self._add(reply, name, values[request.model_name == "short" :], typed=request.model_name == "typed")
        return reply

    def _add(self, reply, name: str, values: np.ndarray, *, typed: bool) -> None:
        output = reply.outputs.add(name=name, datatype="FP32", shape=values.shape)
        if typed:
            output.contents.fp32_contents.extend(values.tolist())
        else:
            reply.raw_output_contents.append(values.tobytes())


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    add_GRPCInferenceServiceServicer_to_server(Foreign(Path(sys.argv[1])), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
