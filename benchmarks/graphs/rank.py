"""One context and N candidates through whole nets: the row-wise and the ranking graph, layers in float32 and in int8.

Sixteen of Criteo's columns and nine of its 13 numbers are the context's. Each call has a new context and N candidates
from 600,000; in the row-wise graph the context stands in every row, as it would in life. Requests are built before the
clock starts. Weights are random: the times and the rounding are real, the quality of the ranking is not.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from quorem.export import tables
from quorem.export.build import MODEL, RANK
from quorem.export.bundle import publish
from quorem.export.graph import TABLES, Array
from quorem.export.model import Blueprint
from quorem.export.parity import score
from quorem.export.run_directory import CALIBRATION, REFERENCE, VALIDATION, WEIGHTS
from quorem.export.tensors import open_tensors
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import models
from quorem.protos.schema import layout
from safetensors.numpy import save_file

from . import criteo
from .clock import Prepare, calls_for, race

COUNTS = (1, 8, 50, 270, 700)
PRECISIONS = {
    "fp32": pb.Precision(tables=pb.FP32, dense=pb.FP32),
    "int8 layers": pb.Precision(tables=pb.FP32, dense=pb.INT8),
}
REFERENCE_ROWS, CALIBRATION_ROWS = 512, 4096
PLAIN = {"batchnorm": False, "dropout": 0.0}
COMPARED = 20  # requests of 270 candidates
CONTEXTS = 4096


def _plan() -> pb.Plan:
    return pb.Plan(fields=criteo.fields())


# A net, how many of the 13 numbers are the candidates', and the scale of its embeddings.
NETS: Mapping[str, tuple[Callable[[], pb.Net], int, float]] = {
    "deepfm": (lambda: models.deepfm(_plan(), 13, mlp=[400, 400, 400], **PLAIN), 4, 0.1),
    "dlrm": (lambda: models.dlrm(_plan(), 13, bottom=[512, 256], top=[512, 256], **PLAIN), 4, 0.3),
    "dlrm-context": (lambda: models.dlrm(_plan(), 13, bottom=[512, 256], top=[512, 256], **PLAIN), 0, 0.3),
    "dcnv2": (
        lambda: models.dcnv2(_plan(), 13, cross=3, rank=0, stacked=False, mlp=[400, 400], **PLAIN),
        4,
        0.1,
    ),
}


def measure(work: Path, rounds: int, nets: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All cells, and how far logits are from those of the row-wise graph in float32; `work` keeps nothing."""
    cells, deviations = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in nets:
        here = work / name
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        build, candidate_numbers, scale = NETS[name]
        manifest = write_run(here / "run", build(), candidate_numbers, scale)
        sessions = dict[str, onnxruntime.InferenceSession]()
        for label, precision in PRECISIONS.items():
            bundle, _ = publish(here / "run", here / label.replace(" ", "_"), precision=precision)
            for file in (MODEL, RANK):
                sessions[f"{file.removesuffix('.onnx')} {label}"] = _session(bundle / file)
        requests = _Requests(manifest.schema)
        for session in sessions.values():
            for _ in range(100):
                session.run(None, requests.next(700, session))
        deviations += [{"net": name, **each} for each in _deviations(sessions, requests)]
        for count in COUNTS:
            variants = {label: _variant(session, requests, count) for label, session in sessions.items()}
            for timed in race(variants, rounds, calls_for(count)):
                cells.append({"net": name, "candidates": count, **timed.as_json()})
                print(f"{name} {count:4} candidates  {timed.variant:<18} {timed.us} us  {timed.speedup} x", flush=True)
        del sessions
        shutil.rmtree(here)
    return cells, deviations


def write_run(run: Path, net: pb.Net, candidate_numbers: int, scale: float) -> pb.Manifest:
    """A run directory with random weights; its reference logits are those of the float32 row-wise graph."""
    run.mkdir()
    schema = criteo.schema(candidate_numbers)
    manifest = pb.Manifest(format_version=manifests.FORMAT_VERSION, schema=schema, plan=_plan(), net=net)
    manifest.training.source = "random"

    def scale_of(name: str, shape: tuple[int, ...]) -> float:
        if name.startswith("embedding."):
            return scale**0.5
        return (2 / shape[1]) ** 0.5 if len(shape) == 2 else 0.01

    criteo.write_weights(run / WEIGHTS, manifests.tensor_shapes(manifest), scale_of)
    rng = np.random.default_rng(2)
    reference, calibration = _rows(rng, schema, REFERENCE_ROWS), _rows(rng, schema, CALIBRATION_ROWS)
    with open_tensors(run / WEIGHTS) as weights:
        model = Blueprint(manifest, weights.read).build()
        tables.write(run / TABLES, model.packed, weights)
    (run / MODEL).write_bytes(model.row_wise.SerializeToString())
    for name, inputs in ((REFERENCE, reference), (VALIDATION, reference)):
        logit = score(run / MODEL, inputs).astype(np.float32)
        label = (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        save_file({**inputs, "logit": logit, "label": label}, run / name)
    save_file(calibration, run / CALIBRATION)
    (run / TABLES).unlink()
    (run / MODEL).unlink()
    manifest.files.extend(manifests.describe_files(run, [CALIBRATION, REFERENCE, VALIDATION, WEIGHTS]))
    manifests.write(run, manifest)
    return manifest


def _rows(rng: np.random.Generator, schema: pb.Schema, count: int) -> dict[str, Array]:
    """Uniform ids and normal numbers, as a row-wise graph takes them."""
    sizes = [feature.id.size + 1 for feature in schema.features if feature.HasField("id")]
    dense = rng.standard_normal((count, layout(schema).dense_count), np.float32)
    return {"ids": criteo.random_ids(rng, sizes, count), "dense": dense}


class _Requests:
    """Requests for either graph: a context of its own for each, candidates from the pool in turn."""

    def __init__(self, schema: pb.Schema) -> None:
        rng, kinds = np.random.default_rng(3), {"ids": "id", "dense": "dense"}
        whole = {"context": CONTEXTS, "candidate": criteo.POOL_ROWS}
        sides = {"context": pb.CONTEXT, "candidate": pb.CANDIDATE}
        self._places = {
            (side, name): [
                place
                for place, feature in enumerate(f for f in schema.features if f.WhichOneof("encoding") == kind)
                if feature.side == number
            ]
            for side, number in sides.items()
            for name, kind in kinds.items()
        }
        self._pools = dict[tuple[str, str], Array]()
        for side, count in whole.items():
            rows = _rows(rng, schema, count)
            for name in kinds:
                self._pools[side, name] = np.ascontiguousarray(rows[name][:, self._places[side, name]])
        self._context = self._candidate = 0

    def next(self, count: int, session: onnxruntime.InferenceSession) -> dict[str, Array]:
        """The next request, of `count` candidates, in the form that a session takes."""
        return self._form(*self._take(count), session)

    def for_all(self, count: int, sessions: Sequence[onnxruntime.InferenceSession]) -> list[dict[str, Array]]:
        """The next request in the form of each session."""
        context, candidates = self._take(count)
        return [self._form(context, candidates, session) for session in sessions]

    def _take(self, count: int) -> tuple[int, slice]:
        self._context = (self._context + 1) % CONTEXTS
        if self._candidate + count > criteo.POOL_ROWS:
            self._candidate = 0
        found = slice(self._candidate, self._candidate + count)
        self._candidate += count
        return self._context, found

    def _form(self, context: int, candidates: slice, session: onnxruntime.InferenceSession) -> dict[str, Array]:
        parts = {
            key: pool[context : context + 1] if key[0] == "context" else pool[candidates]
            for key, pool in self._pools.items()
        }
        wanted = {each.name for each in session.get_inputs()}
        if wanted & {"ids", "dense"}:
            return {name: self._row_wise(parts, name) for name in ("ids", "dense") if name in wanted}
        named = {f"{side}_{name}": part for (side, name), part in parts.items()}
        return {name: np.ascontiguousarray(part) for name, part in named.items() if name in wanted}

    def _row_wise(self, parts: Mapping[tuple[str, str], Array], name: str) -> Array:
        context, candidates = parts["context", name], parts["candidate", name]
        rows = np.empty((len(candidates), context.shape[1] + candidates.shape[1]), context.dtype)
        rows[:, self._places["context", name]] = context
        rows[:, self._places["candidate", name]] = candidates
        return rows


def _deviations(sessions: Mapping[str, onnxruntime.InferenceSession], requests: _Requests) -> list[dict[str, Any]]:
    """Root mean square and greatest difference of logits, and their spread within a request."""
    found: dict[str, list[Array]] = {name: [] for name in sessions}
    for _ in range(COMPARED):
        feeds = requests.for_all(270, list(sessions.values()))
        for (name, session), feed in zip(sessions.items(), feeds, strict=True):
            found[name].append(session.run(["logit"], feed)[0])
    base, *others = ((name, np.stack(each).astype(np.float64)) for name, each in found.items())
    spread = float(base[1].std(axis=1).mean())
    return [
        {
            "variant": name,
            "rmse / spread": float(np.sqrt(np.mean((logits - base[1]) ** 2)) / spread),
            "greatest difference": float(np.abs(logits - base[1]).max()),
            "spread": spread,
        }
        for name, logits in others
    ]


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _variant(session: onnxruntime.InferenceSession, requests: _Requests, count: int) -> Prepare:
    def prepare() -> Callable[[], object]:
        feed = requests.next(count, session)
        return lambda: session.run(["logit"], feed)

    return prepare
