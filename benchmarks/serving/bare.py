"""`python -m benchmarks.serving.bare GRAPH`: ModelInfer with nothing around it, the least that grpcio can cost.

Threads behind a SimpleQueue, one parse of the request, `session.run`, the outputs' bytes: no checks, no admission, no
statistics, no reply but scores. What quorem's server takes beyond it is quorem's; what it takes itself is grpcio's.
"""

import sys

import grpc
import numpy as np
import onnxruntime as ort
from quorem.protos import open_inference_pb2 as pb
from quorem.serve.threads import Threads

THREADS = 4


def main() -> None:
    """Serve until killed; the first line is the port."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    inputs = [
        (each.name, np.int64 if "int64" in each.type else np.float32, each.shape[1]) for each in session.get_inputs()
    ]

    def infer(request: bytes, _context: grpc.ServicerContext) -> bytes:
        raw = pb.ModelInferRequest.FromString(request).raw_input_contents
        arrays = {
            name: np.frombuffer(data, dtype).reshape(-1, width)
            for (name, dtype, width), data in zip(inputs, raw, strict=True)
        }
        return b"".join(each.tobytes() for each in session.run(["logit", "ctr"], arrays))

    class Handler(grpc.GenericRpcHandler):
        handler = grpc.unary_unary_rpc_method_handler(infer)

        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return self.handler

    server = grpc.server(Threads(THREADS, "bare"), handlers=[Handler()])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
