"""Precision: every model, in every precision of tables and layers, gives the oracle's logits within its stated bound.

Legend: R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import oracle
import pytest
import runs
from graphs import ENCODINGS, field, off, opened, request, scored
from quorem.export.bundle import export
from quorem.export.calibration import calibrate
from quorem.export.codes import FLOATS
from quorem.export.int8 import layers_in_int8
from quorem.export.model import Blueprint
from quorem.export.precision import DENSE, TABLES, parse, told
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb

ROWS = 40
MOST, LEAST = 40, 1e-4  # times the greatest difference seen may the bound be, or this, as float32 differs by chance
WIDE = {"mlp": [64, 16]}
SETTINGS = {"fm": {}, "autoint": {}, "dlrm": {"bottom": [64, 16], "top": [64, 16]}}
PRECISIONS = [tables if dense == "fp32" else f"{tables}+{dense}" for tables, dense in product(TABLES, DENSE)]


def manifest_of(name: str) -> pb.Manifest:
    """A model whose sides have features of every kind: encodings, bags, buckets, numbers, schemes, two dims."""
    features, fields = list[pb.Feature](), list[pb.Field]()
    for k, (side, encoding) in enumerate(product((pb.CONTEXT, pb.CANDIDATE), (*ENCODINGS, "hash", "vocabulary"))):
        bag = 3 * (k % 6 >= 4)
        features.append(runs.categorical(f"{encoding}.{k}", encoding, 40 + k, bag=bag, mean=k % 6 == 4))
        scheme, combine = [("qr", "mult"), ("full", "mult"), ("mixed_radix", "add"), ("qr", "concat")][k % 4]
        fields.append(field(features[-1], scheme, combine, 8 if k % 5 else 4, bits=(0, 0, 0, 3)[k % 4]))
        features[-1].side = side
        if k % 4 == 1:
            transform = (pb.NONE, pb.LOG1P, pb.STANDARD)[k // 4]
            features.append(runs.number(f"number.{k}", transform, *((1.5, 0.5) if transform == pb.STANDARD else ())))
            features[-1].side = side
    return runs.model(features, fields, name, **SETTINGS.get(name, WIDE))


def weights_of(manifest: pb.Manifest, rng: np.random.Generator) -> dict[str, runs.Array]:
    """Random weights, those of layers such that numbers neither grow nor fade."""
    found = runs.weights(manifest, rng)
    for layer in manifest.net.layers:
        if layer.HasField("linear"):
            found[f"{layer.name}.weight"] *= np.float32(4 / np.sqrt(layer.linear.inputs))
    return found


@dataclass(frozen=True)
class Run:
    """A run directory, its manifest, its weights, and its reference rows: `ids`, `dense`, `logit`."""

    path: Path
    manifest: pb.Manifest
    weights: dict[str, runs.Array]
    reference: dict[str, runs.Array]

    def logits(self, inputs: Mapping[str, runs.Array]) -> runs.Array:
        """The oracle's."""
        return oracle.logits(self.manifest, self.weights, inputs["ids"], inputs["dense"])


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the model that the test asks for."""
    name, rng = request.param, np.random.default_rng(len(request.param))
    path, manifest = tmp_path_factory.mktemp("runs") / name, manifest_of(name)
    weights = weights_of(manifest, rng)
    reference = runs.scored(manifest, weights, rng, ROWS)
    return Run(path, runs.write(path, manifest, weights, reference), weights, reference)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("run", runs.MODELS, indirect=True)
def test_every_model_in_every_precision(tmp_path: Path, run: Run, precision: str) -> None:
    """Row-wise on every reference row, and ranking 1, 2 and 7 of them under the context of another."""
    bundle = export(run.path, tmp_path / "model", precision=parse(precision))
    facts, net = manifests.read(bundle).export, run.manifest.net
    assert told(facts.precision) == precision
    int8 = layers_in_int8(net) if precision.endswith("+int8") else []
    assert list(facts.int8_layers) == sorted(int8)
    assert bool(layers_in_int8(net)) == (net.model != "fm" and run.path.name != "autoint")
    logits, bound = run.reference["logit"], facts.parity_bound
    found = scored(opened(bundle / "model.onnx"), {name: run.reference[name] for name in ("ids", "dense")})
    seen = off(found, logits)
    assert seen <= bound <= max(LEAST, MOST * seen)
    if net.model == "autoint":
        assert "attend" in facts.no_rank
        assert not (bundle / "rank.onnx").exists()
        return
    assert not facts.no_rank
    ranking = opened(bundle / "rank.onnx")
    for context, count in ((0, 1), (1, 2), (2, 7)):
        asked = request(run.manifest.schema, run.reference["ids"], run.reference["dense"], context, range(5, 5 + count))
        ranked = scored(ranking, asked.ranking)
        assert ranked.shape == (count,)
        assert off(ranked, run.logits(asked.row_wise)) <= bound


@pytest.mark.parametrize("name", ["nfm", "deepfm", "dlrm", "dcnv2"])
def test_layers_are_calibrated_to_what_they_read(tmp_path: Path, name: str) -> None:
    """A normalisation before a layer, which one in float32 would take into itself, among it."""
    features = [runs.categorical(f"c{k}", "id", 30 + k) for k in range(4)]
    settings = SETTINGS.get(name, WIDE) | ({"batchnorm": True} if name == "nfm" else {})
    manifest = runs.model(features, [field(each, "qr", "mult", 64) for each in features], name, **settings)
    rng = np.random.default_rng(3)
    weights = weights_of(manifest, rng)
    for each in (each for each in weights if each.endswith("norm.variance")):
        weights[each] /= 100
    runs.write(tmp_path / "run", manifest, weights, runs.scored(manifest, weights, rng, ROWS))
    bundle = export(tmp_path / "run", tmp_path / "model")
    ids, dense = runs.rows(manifest, weights, rng, ROWS)
    rows = {"ids": ids} | ({"dense": dense} if dense.shape[1] else {})
    found = calibrate(Blueprint(manifest, weights.__getitem__), FLOATS, bundle, rows)
    assert not (bundle / "probe.onnx").exists()
    assert sorted(found.layers) == sorted(layers_in_int8(manifest.net)) != []
    values = oracle.inputs(manifest, weights, ids, dense)
    for layer in manifest.net.layers:
        sources = [values[name] for name in layer.inputs]
        values[layer.name] = oracle.LAYERS[str(layer.WhichOneof("kind"))](layer, weights, sources)
    for source, known in found.ranges.items():
        for ends, expected in ((known.low, values[source].min(axis=0)), (known.high, values[source].max(axis=0))):
            np.testing.assert_allclose(ends, expected, atol=1e-4, rtol=1e-4)
