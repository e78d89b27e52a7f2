"""Torch's model = the oracle, for every scheme, combine, model and encoding; and how a model is drawn and trained."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from oracle import logits as oracle_logits
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Encoded
from quorem.protos.ids import VocabularyValues
from quorem.protos.manifest import check, check_tensors, tensor_shapes
from quorem.protos.schema import cardinality, has_ids
from quorem.train.checkpoint import Progress
from quorem.train.features import Rows, model_rows
from quorem.train.loop import Place, evaluate_rows, fit
from quorem.train.model import Model
from quorem.train.recipe import TrainConfig
from torch import nn

ROWS = 64
BOUND = 1e-5
SINGLE = ("full", "hash", "classes")  # schemes of one table
SEVERAL = ("qr", "mixed_radix", "chinese_remainder", "semantic", "completed", "colliding")
JOINS = {
    "mult": (pb.MULT, 0),
    "add": (pb.ADD, 0),
    "concat": (pb.CONCAT, 0),
    "path": (pb.PATH, 0),
    "path_hidden": (pb.PATH, 5),
    "feature": (pb.FEATURE, 0),
}
CASES = [
    *(("deepfm", "id", scheme, join) for scheme, join in itertools.product(SEVERAL, JOINS)),
    *(("deepfm", "id", scheme, "mult") for scheme in SINGLE),
    *((model, "hash", "qr", "mult") for model in runs.MODELS),
    *((model, "vocabulary", "completed", "path_hidden") for model in runs.MODELS),
    *((model, "bucket", "mixed_radix", "feature") for model in runs.MODELS),
    *((model, "id", "chinese_remainder", "concat") for model in runs.MODELS if model != "deepfm"),
    ("deepfm", "vocabulary", "falling", "mult"),
    ("dlrm", "hash", "falling", "add"),
    ("deepfm", "id", "various", "mult"),
]


def features_of(encoding: str) -> list[pb.Feature]:
    """Three fields of one encoding, three bags, and dense features of every transform."""
    bags = "id" if encoding == "bucket" else encoding
    return [
        runs.categorical("a", encoding, 50),
        runs.categorical("bag", bags, 40, bag=4, mean=True),
        runs.categorical("b", encoding, 7),
        runs.categorical("c", encoding, 31, seed=1),
        runs.categorical("short", bags, 3, bag=2),
        runs.categorical("one", bags, 9, bag=1, mean=True),
        runs.number("plain"),
        runs.number("logged", pb.LOG1P),
        runs.number("standard", pb.STANDARD, 1.5, 0.7),
    ]


def manifest_of(model: str, encoding: str, scheme: str, join: str) -> pb.Manifest:
    """A model whose larger fields are of one scheme; `falling`: of falling depth; `various`: each of its own."""
    features, fields = features_of(encoding), list[pb.Field]()
    own = {
        "falling": {"a": "chinese_remainder", "bag": "mixed_radix", "c": "qr"},
        "various": {"a": "semantic", "bag": "qr", "c": "mixed_radix"},
    }.get(scheme, {})
    joins = {"bag": "path", "c": "add"} if scheme == "various" else {}
    for feature in features:
        if has_ids(feature):
            kind = own.get(feature.name, scheme) if cardinality(feature) > 11 else "full"
            combine, hidden = JOINS[joins.get(feature.name, join)]
            combine = pb.ALONE if kind in SINGLE else combine
            fields.append(runs.field(feature, kind, combine, 6, hidden=hidden if combine == pb.PATH else 0))
    manifest = runs.model(features, fields, model)
    check(manifest, "test")
    return manifest


def model_of(manifest: pb.Manifest) -> Model:
    """Its torch model, with the classes that `runs` gives its fields."""
    classes = {name: each for field in manifest.plan.fields for name, each in runs.classes_of(field).items()}
    return Model(manifest.schema, manifest.plan, manifest.net, classes)


def away_from_zero(model: Model) -> None:
    """Move every weight away from tiny initial values, so that a wrong row shows."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)


@pytest.mark.parametrize(("name", "encoding", "scheme", "join"), CASES)
def test_torch_equals_oracle(name: str, encoding: str, scheme: str, join: str) -> None:
    manifest = manifest_of(name, encoding, scheme, join)
    rng = np.random.default_rng(7)
    given = {key: each for key, each in runs.weights(manifest, rng).items() if each.dtype != np.float32}
    vocabularies = {
        feature.name: VocabularyValues(
            given[f"vocabulary.{feature.name}.values"], given[f"vocabulary.{feature.name}.ids"]
        )
        for feature in manifest.schema.features
        if feature.HasField("vocabulary")
    }
    raw = runs.rows(manifest, given, rng, ROWS)
    rows = model_rows(manifest.schema, vocabularies, Encoded(*raw), np.zeros(ROWS, np.float32))
    model = model_of(manifest)
    model.reset(3)
    away_from_zero(model)
    model.train()
    model(rows.ids, rows.numbers)  # moves batchnorm's running statistics
    model.eval()
    with torch.no_grad():
        found = model(rows.ids, rows.numbers)[0].numpy()
    weights = given | model.weights()
    shapes = {key: (str(each.dtype), each.shape) for key, each in weights.items()}
    check_tensors(tensor_shapes(manifest), shapes, "the model's weights")
    expected = oracle_logits(manifest, weights, *raw)
    assert np.ptp(expected) > 0.1
    assert (np.abs(found - expected) <= BOUND * np.maximum(1, np.abs(expected))).all()


def test_same_seed_same_weights_and_other_seed_other_weights() -> None:
    manifest = manifest_of("dcnv2_low", "id", "completed", "path_hidden")

    def fresh(seed: int) -> dict[str, np.ndarray]:
        model = model_of(manifest)
        model.reset(seed)
        return model.weights()

    first, again, other = fresh(1), fresh(1), fresh(2)
    assert all((first[name] == again[name]).all() for name in first)
    drawn = [name for name in first if not name.endswith(".bias")]
    assert all((first[name] != other[name]).any() for name in drawn)


@pytest.mark.parametrize("name", ["dcn", "dcnv2", "dcnv2_low"])
def test_cross_layers_start_with_xaviers_weights_and_no_bias(name: str) -> None:
    manifest = manifest_of(name, "id", "full", "mult")
    model = model_of(manifest)
    model.reset(1)
    crosses = {key: each for key, each in model.weights().items() if key.startswith("cross.")}
    assert {key.rpartition(".")[2] for key in crosses} == (
        {"u", "v", "bias"} if name == "dcnv2_low" else {"weight", "bias"}
    )
    for key, weight in crosses.items():
        if key.endswith(".bias"):
            assert not weight.any()
        else:
            inputs, outputs = weight.shape if weight.ndim == 2 else (len(weight), 1)
            assert weight.std() == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.25)


def test_every_weight_but_those_that_no_row_reaches_learns() -> None:
    for name, join in (("dcn", "path_hidden"), ("dcnv2", "feature"), ("dcnv2_low", "mult"), ("deepfm", "path")):
        manifest = manifest_of(name, "id", "completed", join)
        model = model_of(manifest)
        model.reset(1)
        away_from_zero(model)
        raw = runs.rows(manifest, {}, np.random.default_rng(3), ROWS)
        rows = model_rows(manifest.schema, {}, Encoded(*raw), np.zeros(ROWS, np.float32))
        model(rows.ids, rows.numbers)[0].square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().sum() > 0, key


def clicks(manifest: pb.Manifest, count: int, seed: int) -> Rows:
    """Rows whose labels follow from two ids and a number, but for noise."""
    rng = np.random.default_rng(seed)
    raw_ids, dense = runs.rows(manifest, {}, rng, count)
    rows = model_rows(manifest.schema, {}, Encoded(raw_ids, dense), np.zeros(count, np.float32))
    chance = np.where((rows.ids[:, 0] % 3 == 0).numpy(), 0.85, 0.15)
    labels = torch.from_numpy((rng.random(count) < chance).astype(np.float32))
    return Rows(rows.ids, rows.numbers, labels, None, None)


class Losses:
    """A watcher that keeps every epoch's training loss."""

    def __init__(self) -> None:
        self.found = list[float]()

    def resumed(self, progress: Progress) -> None: ...

    def epoch(self, number: int, batches: int, done: int) -> None: ...

    def step(self, batches: int, rows: int, loss: float) -> None: ...

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        self.found.append(loss)


@pytest.mark.parametrize(("name", "join"), [("deepfm", "mult"), ("dlrm", "path_hidden"), ("dcnv2_low", "feature")])
def test_bf16_trains_the_layers_and_evaluates_in_fp32(name: str, join: str, tmp_path: Path) -> None:
    manifest = manifest_of(name, "id", "qr", join)
    model, losses = model_of(manifest), Losses()
    model.reset(1)
    seen = set[tuple[str, bool, torch.dtype]]()

    def watch(kind: str, module: nn.Module) -> None:
        def keep(_module: nn.Module, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, object]) -> None:
            first = output[0] if isinstance(output, tuple) else output
            seen.add((kind, model.training, first.dtype))

        module.register_forward_hook(keep)

    watch("logit", model)
    for group in (each for tables in model.tables() for each in tables.packed()):
        watch("vectors", group)
    for module in model.layers.values():
        if isinstance(module, nn.Linear):
            watch("linear", module)
    train, valid = clicks(manifest, 2000, 1), clicks(manifest, 500, 2)
    config = TrainConfig(precision="bf16", batch=100, epochs=6, patience=6, lr=0.01, optimizer="adam")
    fit(model, train, valid, config, Place(tmp_path, "test", resume=False), losses)
    assert losses.found[-1] < 0.9 * losses.found[0]
    assert evaluate_rows(model, valid)["auc"] > 0.7
    assert seen == {
        *(("logit", training, torch.float32) for training in (True, False)),
        *(("vectors", training, torch.float32) for training in (True, False)),
        ("linear", True, torch.bfloat16),
        ("linear", False, torch.float32),
    }
    assert {each.dtype for each in model.weights().values()} == {np.dtype(np.float32)}


def test_fp32_never_meets_another_type(tmp_path: Path) -> None:
    manifest = manifest_of("deepfm", "id", "qr", "mult")
    model, types = model_of(manifest), set[torch.dtype]()
    model.reset(1)
    for module in model.layers.values():
        module.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))
    rows = clicks(manifest, 200, 1)
    fit(model, rows, rows, TrainConfig(batch=100, epochs=1), Place(tmp_path, "test", resume=False), Losses())
    assert types == {torch.float32}
