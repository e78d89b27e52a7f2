"""Soak versions: good versions of a model with scores of their own, requests whose scores are known, bad versions.

Version N has the weights of variant N % VARIANTS, so that whoever reads a version's number knows its right scores.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import oracle
import runs
import served
from quorem.export.bundle import export
from quorem.protos import open_inference_pb2 as oip
from quorem.protos import scoring_pb2 as pb
from quorem.protos.encode import Column, Encoded, encode
from quorem.serve.exchange import request_of
from safetensors.numpy import load_file, save_file

VARIANTS = 4
NAME, LABEL = "ctr", "stable"
SCORE, INFER = "/quorem.v1.Scorer/Score", "/inference.GRPCInferenceService/ModelInfer"
SIZES = (1, 3, 8, 20)
APART = 1e-3  # at least, between the logits of two variants in every request
TOLERANCE = 1e-5  # of logits, times their size where that is above 1: parity, as everywhere
BAD = ("wrong digest", "wrong golden logits", "broken graph")


@dataclass(frozen=True)
class Asked:
    """A request, and the logits that each variant gives for it; `labelled` asks for the label's version."""

    path: str
    request: bytes
    logits: tuple[np.ndarray, ...]
    labelled: bool

    def answered(self, reply: bytes) -> tuple[int, str]:
        """The version that a reply names, and what is wrong with it: empty if its logits are that version's."""
        if self.path == SCORE:
            score = pb.ScoreResponse.FromString(reply)
            version, found = score.version, np.frombuffer(score.scores, "<f4")
        else:
            infer = oip.ModelInferResponse.FromString(reply)
            version, found = int(infer.model_version), np.frombuffer(infer.raw_output_contents[0], "<f4")
        right = self.logits[version % VARIANTS]
        if found.shape != right.shape:
            return version, f"{found.shape} logits instead of {right.shape}"
        off = float(np.max(np.abs(found - right) / np.maximum(1, np.abs(right))))
        return version, "" if off <= TOLERANCE else f"logits {off:g} off those of version {version}"


def make_variants(root: Path) -> tuple[list[Path], list[Asked]]:
    """A bundle for each variant, and requests over all kinds of features."""
    manifest = served.make_manifest()
    weights = [runs.weights(manifest, np.random.default_rng(seed)) for seed in range(3, 3 + VARIANTS)]
    columns = served.make_columns(weights[0]["vocabulary.city.values"], served.ROWS)
    encoded = encode(manifest.schema, columns, served.ROWS, long_bags="refuse")
    bundles = list[Path]()
    for number, each in enumerate(weights):
        logits = oracle.logits(manifest, each, encoded.ids, encoded.dense).astype(np.float32)
        label = np.zeros(served.ROWS, np.float32)
        runs.write(
            root / f"run-{number}",
            manifest,
            each,
            {"ids": encoded.ids, "dense": encoded.dense, "logit": logits, "label": label},
        )
        bundles.append(export(root / f"run-{number}", root / "variants" / NAME, version=number + 1))

    def logits_of(rows: Encoded) -> tuple[np.ndarray, ...]:
        found = [oracle.logits(manifest, each, rows.ids, rows.dense) for each in weights]
        for one, other in zip(found, [*found[1:], found[0]], strict=True):
            assert np.abs(one - other).max() > APART, "two versions that nobody can tell apart"
        return tuple(found)

    asked = list[Asked]()
    for rows in SIZES:
        asked.append(_infer(encoded, rows, logits_of(Encoded(encoded.ids[:rows], encoded.dense[:rows]))))
        candidates = {name: served.head(column, rows) for name, column in columns.items()}
        context = {name: served.head(candidates.pop(name), 1) for name in served.CONTEXT}
        whole = candidates | {name: _repeated(column, rows) for name, column in context.items()}
        right = logits_of(encode(manifest.schema, whole, rows, long_bags="refuse"))
        for label in (None, None, LABEL):
            request = request_of(candidates, rows, context, model=NAME, label=label, logit=True)
            asked.append(Asked(SCORE, request.SerializeToString(), right, label is not None))
    return bundles, asked


def _repeated(column: Column, rows: int) -> Column:
    arrays: Mapping[str, Any] = {name: getattr(column, name) for name in ("integers", "floats", "missing")}
    return Column(**{name: None if each is None else np.repeat(each, rows) for name, each in arrays.items()})


def _infer(encoded: Encoded, rows: int, logits: tuple[np.ndarray, ...]) -> Asked:
    request = oip.ModelInferRequest(model_name=NAME, outputs=[{"name": "logit"}])
    for name, datatype, array in (("ids", "INT64", encoded.ids), ("dense", "FP32", encoded.dense)):
        request.inputs.add(name=name, datatype=datatype, shape=array[:rows].shape)
        request.raw_input_contents.append(array[:rows].tobytes())
    return Asked(INFER, request.SerializeToString(), logits, False)


def publish(bundles: list[Path], models: Path, number: int, *, bad: str = "") -> None:
    """Put a version beside the others: good, or bad in one of the ways of `BAD`; nobody meets it half-way."""
    model = models / NAME
    model.mkdir(parents=True, exist_ok=True)
    shutil.copy(bundles[0].parent / "config.pbtxt", model / "config.pbtxt")
    hidden = model / f".{number}.tmp"
    shutil.copytree(bundles[number % VARIANTS], hidden)
    if bad == "wrong digest":
        data = bytearray((hidden / "tables.bin").read_bytes())
        data[len(data) // 2] ^= 1
        (hidden / "tables.bin").write_bytes(data)
    elif bad == "wrong golden logits":
        golden = load_file(hidden / "golden.safetensors")
        save_file(golden | {"logit": golden["logit"] + np.float32(0.01)}, hidden / "golden.safetensors")
        fuzz.sign(hidden)
    elif bad == "broken graph":
        data = (hidden / "model.onnx").read_bytes()
        (hidden / "model.onnx").write_bytes(data[: len(data) // 2])
        fuzz.sign(hidden)
    hidden.rename(model / str(number))
