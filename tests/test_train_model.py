"""Torch's model = the oracle, for every scheme, combine, model and encoding; and how a model is drawn and trained."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import LAYERS
from oracle import logits as oracle_logits
from quorem.protos import manifest_pb2 as pb
from quorem.protos.encode import Encoded
from quorem.protos.ids import VocabularyValues
from quorem.protos.manifest import check, check_tensors, tensor_shapes
from quorem.protos.nets import weight_shapes
from quorem.protos.schema import cardinality, has_ids
from quorem.train.checkpoint import Progress
from quorem.train.features import Rows, model_rows
from quorem.train.layers import KINDS, Unify, make_module, reset_module
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
UNEVEN = {  # feature -> join and dim: with the two vectors of `a`, vectors of dims 2, 3, 4, 5 and 6
    "a": ("feature", 3),
    "bag": ("concat", 6),
    "b": ("mult", 2),
    "c": ("mult", 4),
    "short": ("mult", 4),
    "one": ("mult", 5),
}
CASES = [
    *(("deepfm", "id", scheme, join) for scheme, join in itertools.product(SEVERAL, JOINS)),
    *(("deepfm", "id", scheme, "mult") for scheme in SINGLE),
    *((model, "hash", "qr", "mult") for model in runs.MODELS),
    *((model, "vocabulary", "completed", "path_hidden") for model in runs.MODELS),
    *((model, "bucket", "mixed_radix", "feature") for model in runs.MODELS),
    *((model, "id", "chinese_remainder", "concat") for model in runs.MODELS if model != "deepfm"),
    *((model, "hash", "qr", "uneven") for model in runs.MODELS),
    *((model, "id", "mixed_radix", "padded") for model in runs.UNIFYING),
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
    """A model whose larger fields are of one scheme; `falling`: of falling depth; `various`: each of its own.

    The joins `uneven` and `padded`: each field has its own and a dim of its own; `padded` pads, without dense features.
    """
    features, fields = features_of(encoding), list[pb.Field]()
    if join == "padded":
        features = [feature for feature in features if has_ids(feature)]
    own = {
        "falling": {"a": "chinese_remainder", "bag": "mixed_radix", "c": "qr"},
        "various": {"a": "semantic", "bag": "qr", "c": "mixed_radix"},
    }.get(scheme, {})
    joins = {"bag": "path", "c": "add"} if scheme == "various" else {}
    for feature in features:
        if has_ids(feature):
            kind = own.get(feature.name, scheme) if cardinality(feature) > 11 else "full"
            own_join, dim = UNEVEN[feature.name] if join in ("uneven", "padded") else (join, 6)
            combine, hidden = JOINS[joins.get(feature.name, own_join)]
            combine = pb.ALONE if kind in SINGLE else combine
            fields.append(runs.field(feature, kind, combine, dim, hidden=hidden if combine == pb.PATH else 0))
    manifest = runs.model(features, fields, model, **({"pad": True} if join == "padded" else {}))
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


@pytest.mark.parametrize(
    ("name", "prefix", "roles"),
    [
        ("dcn", "cross.", {"weight", "bias"}),
        ("dcnv2", "cross.", {"weight", "bias"}),
        ("dcnv2_low", "cross.", {"u", "v", "bias"}),
        ("autoint", "attention.0.", {"query", "key", "value", "residual"}),
        ("fm", "fm.bias.", {"bias"}),
    ],
)
def test_layers_start_with_xaviers_weights_and_no_bias(name: str, prefix: str, roles: set[str]) -> None:
    manifest = manifest_of(name, "id", "full", "mult")
    model = model_of(manifest)
    model.reset(1)
    own = {key: each for key, each in model.weights().items() if key.startswith(prefix)}
    assert {key.rpartition(".")[2] for key in own} == roles
    for key, weight in own.items():
        if key.endswith(".bias"):
            assert not weight.any()
        else:
            inputs, outputs = weight.shape if weight.ndim == 2 else (len(weight), 1)
            assert weight.std() == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.25)


def test_linear_maps_start_as_zeros_behind_the_vectors() -> None:
    """Before a first step it is the same whether vectors of several dims are mapped or padded."""
    found = list[torch.Tensor]()
    for pad in (False, True):
        unify = pb.Layer(name="vectors", unify=pb.Unify(dims=[2, 5, 5, 3], dim=5, pad=pad))
        module = make_module(unify)
        assert module is not None
        reset_module(module, torch.Generator().manual_seed(1))
        found.append(module(torch.arange(30.0).view(2, 15)))
        assert len(list(module.parameters())) == (0 if pad else 6)
    assert torch.equal(*found)
    expected = [0, 1, 0, 0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0, 0]
    assert found[0][0].tolist() == expected


@given(dims=st.lists(st.integers(1, 6), min_size=1, max_size=7), heads=st.integers(1, 3), width=st.integers(1, 4))
def test_layers_of_vectors_equal_the_oracles(dims: list[int], heads: int, width: int) -> None:
    """Of dims in any order, and of one vector alone."""
    count, dim, rng = len(dims), max(dims), np.random.default_rng(0)
    wide = rng.normal(size=(3, count * dim))
    for source, layer in (
        (rng.normal(size=(3, sum(dims))), pb.Layer(name="a", unify=pb.Unify(dims=dims, dim=dim))),
        (rng.normal(size=(3, sum(dims))), pb.Layer(name="a", unify=pb.Unify(dims=dims, dim=dim, pad=True))),
        (wide, pb.Layer(name="a", attention=pb.Attention(vectors=count, dim=dim, heads=heads, width=width))),
        (wide, pb.Layer(name="a", bi_interaction=pb.BiInteraction(vectors=count, dim=dim))),
        (wide, pb.Layer(name="a", fm=pb.FactorizationMachine(vectors=count, dim=dim))),
        (wide, pb.Layer(name="a", bias=pb.Bias(width=count * dim))),
    ):
        kind, module, weights = str(layer.WhichOneof("kind")), make_module(layer), dict[str, np.ndarray]()
        if module is not None:
            with torch.no_grad():
                for name, weight in module.named_parameters():
                    weight.copy_(torch.from_numpy(rng.normal(size=weight.shape)))
                    weights[f"a.{name}"] = weight.numpy()
        found = KINDS[kind](layer, module, [torch.from_numpy(source).float()])
        expected = LAYERS[kind](layer, weights, [source])
        assert weights.keys() == weight_shapes(pb.Net(layers=[layer])).keys()
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        pb.Layer(name="a", unify=pb.Unify(dims=[2, 4], dim=4)),
        pb.Layer(name="a", unify=pb.Unify(dims=[2, 4], dim=4, pad=True)),
        pb.Layer(name="a", fm=pb.FactorizationMachine(vectors=3, dim=2)),
        pb.Layer(name="a", bi_interaction=pb.BiInteraction(vectors=3, dim=2)),
    ],
    ids=["unify", "pad", "fm", "bi_interaction"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_must_be_exact_is_not_rounded_under_autocast(layer: pb.Layer, dtype: torch.dtype) -> None:
    kind, module = str(layer.WhichOneof("kind")), make_module(layer)
    if module is not None:
        reset_module(module, torch.Generator().manual_seed(1))
    value = (torch.arange(12).view(2, 6) + 100).to(dtype)  # exact in bfloat16; its squares are not
    with torch.autocast("cpu", torch.bfloat16):
        found = KINDS[kind](layer, module, [value])
    assert found.dtype == torch.float32
    assert torch.equal(found, KINDS[kind](layer, module, [value.float()]))


def test_every_weight_but_those_that_no_row_reaches_learns() -> None:
    joins = itertools.cycle(["path_hidden", "feature", "mult", "path", "uneven"])
    for name, join in [("fm", "uneven"), ("autoint", "uneven"), *zip(runs.MODELS, joins, strict=False)]:
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

    def epoch(self, number: int, batches: int, done: int, rows: int) -> None: ...

    def seen(self, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> None: ...

    def step(self, batches: int, rows: int, loss: float, lr: float) -> None: ...

    def warned(self, told: str) -> None: ...

    def validated(self, epoch: int, loss: float, metrics: dict[str, float], lr: float, best: bool) -> None:
        self.found.append(loss)


@pytest.mark.parametrize(
    ("name", "join"),
    [
        ("deepfm", "mult"),
        ("dlrm", "path_hidden"),
        ("dcnv2_low", "feature"),
        ("deepfm", "uneven"),
        ("nfm", "uneven"),
        ("autoint_mlp", "mult"),
    ],
)
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
        elif isinstance(module, Unify):
            watch("vectors", module)
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
