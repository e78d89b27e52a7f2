"""Rows: the requests that are timed, made of a version's golden rows, and the logits that must come back.

Legend: G golden rows; N rows of a request; S slots of `ids`; D columns of `dense`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from quorem.protos import manifest, manifest_pb2, scoring_pb2
from quorem.protos import open_inference_pb2 as inference
from quorem.protos.encode import Column, Encoded, Float32s, encode
from quorem.protos.schema import layout
from quorem.serve import golden
from quorem.serve.exchange import request_of

INFER = "/inference.GRPCInferenceService/ModelInfer"
SCORE = "/quorem.v1.Scorer/Score"
OUTPUT = "logit"
FLAT, CANDIDATES = (1, 32, 128), 270


class Request(NamedTuple):
    """A call, and the (N,) float32 logits of its rows."""

    path: str
    body: bytes
    logits: Float32s


class Pair(NamedTuple):
    """The same rows for a quorem server and for the others; one call for both where rows share nothing."""

    ours: Request
    theirs: Request


class Rows:
    """The golden rows of a version's directory, as requests.

    timed: rows of a request -> the call: the first golden rows; of the candidates, all share the first one's context.
    bound: how far off a logit may be, of itself where it is above 1.
    """

    def __init__(self, version: Path) -> None:
        """Raises ParityError where the graph does not give the golden logits: it tells the candidates'."""
        found = manifest.read(version, verify_digests=False)
        self.model, self._schema, self._layout = version.parent.name, found.schema, layout(found.schema)
        self._golden, self.bound = golden.read(version, self._layout), found.export.parity_bound
        session = ort.InferenceSession(str(version / "model.onnx"), providers=["CPUExecutionProvider"])
        everything = slice(0, len(self._golden.logits))
        self._golden.check(_logits(session, self._golden.take(everything)), everything, self.bound)
        flat = {rows: self.golden(rows)[0] for rows in FLAT}
        self.timed = {rows: Pair(each, each) for rows, each in flat.items()} | {CANDIDATES: self._candidates(session)}

    def golden(self, rows: int) -> list[Request]:
        """All golden rows, in calls of N."""
        starts = range(0, len(self._golden.logits), rows)
        parts = [slice(start, start + rows) for start in starts]
        return [self._flat(self._golden.take(each), self._golden.logits[each]) for each in parts]

    def _candidates(self, session: ort.InferenceSession) -> Pair:
        chosen = np.arange(CANDIDATES) % len(self._golden.logits)
        columns = self._columns(Encoded(self._golden.rows.ids[chosen], self._golden.rows.dense[chosen]))
        sides = {feature.name: feature.side for feature in self._schema.features}
        first = {name: _rows(each, 0) for name, each in columns.items() if sides[name] == manifest_pb2.CONTEXT}
        candidates = {name: each for name, each in columns.items() if name not in first}
        repeated = {name: _rows(each, np.zeros(CANDIDATES, np.int64)) for name, each in first.items()}
        encoded = encode(self._schema, candidates | repeated, CANDIDATES, long_bags="refuse")
        logits = _logits(session, encoded)
        request = request_of(candidates, CANDIDATES, first, model=self.model, logit=True)
        return Pair(Request(SCORE, request.SerializeToString(), logits), self._flat(encoded, logits))

    def _columns(self, encoded: Encoded) -> dict[str, Column]:
        """Golden rows as a caller has them: an integer is its own code."""
        if any(each.HasField("bag") or each.values == manifest_pb2.STRING for each in self._schema.features):
            raise SystemExit(
                "the peers' benchmark takes a model of single integers and numbers, without bags and strings"
            )
        return {
            feature.name: Column(floats=encoded.dense[:, self._layout.dense[feature.name]])
            if feature.name in self._layout.dense
            else Column(integers=encoded.ids[:, self._layout.slots[feature.name][0]])
            for feature in self._schema.features
        }

    def _flat(self, encoded: Encoded, logits: Float32s) -> Request:
        tensor = inference.ModelInferRequest.InferInputTensor
        inputs = _inputs(encoded)
        kinds = {"ids": "INT64", "dense": "FP32"}
        request = inference.ModelInferRequest(
            model_name=self.model,
            inputs=[tensor(name=name, datatype=kinds[name], shape=array.shape) for name, array in inputs.items()],
            outputs=[inference.ModelInferRequest.InferRequestedOutputTensor(name=OUTPUT)],
            raw_input_contents=[array.tobytes() for array in inputs.values()],
        )
        return Request(INFER, request.SerializeToString(), logits)


def logits_of(path: str, reply: bytes) -> Float32s:
    """The (N,) logits of a reply, whatever form its server gives them."""
    if path == SCORE:
        return np.frombuffer(scoring_pb2.ScoreResponse.FromString(reply).scores, "<f4")
    found = inference.ModelInferResponse.FromString(reply)
    place = [each.name for each in found.outputs].index(OUTPUT)
    if found.raw_output_contents:
        return np.frombuffer(found.raw_output_contents[place], "<f4")
    return np.array(found.outputs[place].contents.fp32_contents, np.float32)


def _rows(column: Column, chosen: int | np.ndarray) -> Column:
    picked = np.atleast_1d(chosen)
    return Column(
        integers=None if column.integers is None else column.integers[picked],
        floats=None if column.floats is None else column.floats[picked],
    )


def _logits(session: ort.InferenceSession, encoded: Encoded) -> Float32s:
    return np.asarray(session.run([OUTPUT], _inputs(encoded))[0], np.float32)


def _inputs(encoded: Encoded) -> Mapping[str, np.ndarray]:
    both = {"ids": encoded.ids, "dense": encoded.dense}
    return {name: array for name, array in both.items() if array.shape[1]}
