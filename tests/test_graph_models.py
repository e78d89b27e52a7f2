"""Whole graphs: ONNX Runtime gives the oracle's logits for every model, scheme, combine and encoding."""

from itertools import product
from pathlib import Path

import numpy as np
import oracle
import pytest
import runs
from graphs import COMBINES, ENCODINGS, NUMBERS, field, opened, proved
from quorem.export.bundle import export
from quorem.export.rows import CLASSES
from quorem.protos import manifest_pb2 as pb

SCHEMES = ("qr", "mixed_radix", "chinese_remainder", "semantic", "completed", "colliding")
# One table has nothing to combine; classes that collide are one table of them.
KINDS = [*product(SCHEMES, COMBINES), ("full", "mult"), ("hash", "mult"), ("classes", "mult")]


@pytest.mark.parametrize(
    ("scheme", "combine", "encoding", "model", "bag"),
    [
        # Every kind of table with every encoding, each with another model: all pairs of parameters, not all cells.
        (*kind, encoding, list(runs.MODELS)[(k + k // len(runs.MODELS) + e) % len(runs.MODELS)], 3 * (e % 2))
        for k, kind in enumerate(KINDS)
        for e, encoding in enumerate(ENCODINGS[k % 4 :] + ENCODINGS[: k % 4])
    ],
)
def test_scheme_combine_encoding_model(
    tmp_path: Path, scheme: str, combine: str, encoding: str, model: str, bag: int
) -> None:
    bag = 0 if encoding == "bucket" else bag  # a number is no bag
    features = [
        runs.categorical("a", encoding, 23),
        NUMBERS[0],
        runs.categorical("b", encoding, 7, bag=bag, mean=True),
        NUMBERS[1],
        NUMBERS[2],
        runs.categorical("c", encoding, 41, bag=bag and 1),
    ]
    proved(tmp_path, runs.model(features, [field(features[k], scheme, combine, 6) for k in (0, 2, 5)], model))


@pytest.mark.parametrize("combine", COMBINES)
def test_fields_of_one_table_join_the_group_of_the_others(tmp_path: Path, combine: str) -> None:
    features = [runs.categorical(f"c{k}", "hash", 20 + k, bag=3 * (k == 2)) for k in range(7)]
    schemes = ["full", "qr", "hash", "mixed_radix", "full", "semantic", "classes"]
    fields = [field(*each, combine, 4) for each in zip(features, schemes, strict=True)]
    for model in ("deepfm", "dcn"):
        proved(tmp_path / model, runs.model([*features, *NUMBERS], fields, model))


def test_dims_and_joins_of_every_kind_in_one_model(tmp_path: Path) -> None:
    features = [
        runs.categorical(f"{scheme}/{combine}/{k}", ENCODINGS[k % 3], 30 + k, bag=4 * (k % 5 == 1), mean=k % 2 == 0)
        for k, (scheme, combine) in enumerate(KINDS)
    ]
    fields = [
        field(feature, *feature.name.split("/")[:2], 3 + k % 3)  # pyright: ignore[reportArgumentType]  # two strings
        for k, feature in enumerate(features)
    ]
    graph = proved(tmp_path, runs.model([*features, *NUMBERS], fields, "wide"))
    classes = [each for each in graph.initializer if each.name == CLASSES]
    ids = sum(each.cardinality for each in fields for table in each.tables if table.classes)
    assert [list(each.dims) for each in classes] == [[ids]], "first-order tables share the classes"


UNEVEN = {  # feature -> scheme, combine, dim: with feature's two vectors of 2, dims 2, 2, 3, 5 and 5
    "a": ("qr", "feature", 2),
    "b": ("mixed_radix", "concat", 5),
    "c": ("qr", "mult", 3),
    "d": ("full", "mult", 5),
}


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    ("model", "settings"),
    [*((model, {}) for model in [*runs.MODELS, "wide"]), *((model, {"pad": True}) for model in runs.UNIFYING)],
)
def test_models_of_several_dims(tmp_path: Path, model: str, settings: dict[str, bool], dense: bool) -> None:
    features = [runs.categorical(name, "hash", 30 + ord(name), bag=3 * (name == "b")) for name in UNEVEN]
    fields = [field(feature, *UNEVEN[feature.name]) for feature in features]
    manifest = runs.model([*features, *(NUMBERS if dense else [])], fields, model, **settings)
    assert any(layer.HasField("unify") for layer in manifest.net.layers) == (model in runs.UNIFYING)
    proved(tmp_path, manifest)


@pytest.mark.parametrize("model", [*runs.MODELS, "wide"])
def test_models_of_bags_alone(tmp_path: Path, model: str) -> None:
    features = [runs.categorical(f"c{k}", "vocabulary", 20, bag=k + 1, mean=k == 1) for k in range(3)]
    fields = [runs.field(feature, "qr", pb.ADD, 4) for feature in features]
    proved(tmp_path, runs.model(features, fields, model))


@pytest.mark.parametrize("model", [*runs.MODELS, "wide"])
def test_models_without_dense_features(tmp_path: Path, model: str) -> None:
    features = [runs.categorical(f"c{k}", "id", 20) for k in range(3)]
    graph = proved(tmp_path, runs.model(features, [runs.field(one, "qr", pb.MULT, 4) for one in features], model))
    assert [each.name for each in graph.input] == ["ids"]


@pytest.mark.parametrize("model", ["deepfm", "dlrm", "wide"])
def test_models_of_buckets_alone_take_no_ids(tmp_path: Path, model: str) -> None:
    features = [runs.categorical(f"c{k}", "bucket", 6 + k) for k in range(3)]
    graph = proved(tmp_path, runs.model(features, [runs.field(one, "qr", pb.MULT, 4) for one in features], model))
    assert [each.name for each in graph.input] == ["dense"]


@pytest.mark.parametrize("model", ["fm", "deepfm", "nfm", "autoint", "wide"])
def test_one_feature_of_one_vector(tmp_path: Path, model: str) -> None:
    feature = runs.categorical("a/b.c d\"e'", "id", 3)
    proved(tmp_path, runs.model([feature], [runs.field(feature, "full", pb.ALONE, 1)], model))


@pytest.mark.parametrize(
    ("encoding", "size", "scheme", "combine", "rows"),
    [
        ("id", 2**24, "full", "mult", 0),
        ("hash", 2**62, "hash", "mult", 1000),
        ("id", 2**33, "qr", "mult", 2**17),
        ("id", 2**33, "qr", "path", 2**17),
        *(("id", 2**62 + 2, "mixed_radix", combine, 0) for combine in COMBINES),
        ("id", 2**63 - 2, "chinese_remainder", "mult", 0),
        ("id", 2**62 + 2, "chinese_remainder", "path of 3", 0),
    ],
)
def test_whole_models_are_exact_at_the_limits(
    tmp_path: Path, encoding: str, size: int, scheme: str, combine: str, rows: int
) -> None:
    big, small = runs.categorical("big", encoding, size), runs.categorical("small", "id", 3)
    dim = 6 if combine == "concat" else 1
    manifest = runs.model([big, small], [field(big, scheme, combine, dim, rows), field(small, "full", "add", 1)], "dnn")
    rng = np.random.default_rng(3)
    weights = runs.weights(manifest, rng)
    landmarks = [2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**33 - 1, 2**33, 2**33 + 1, 2**62, 2**62 + 1, -1, -(2**63)]
    ids = np.array([[each, each & 3] for each in landmarks], np.int64)
    logits = oracle.logits(manifest, weights, ids, np.zeros((len(ids), 0), np.float32)).astype(np.float32)
    reference = {"ids": ids, "logit": logits, "label": np.zeros(len(ids), np.float32)}
    runs.write(tmp_path / "run", manifest, weights, reference)
    export(tmp_path / "run", tmp_path / "model")


def test_a_request_of_no_rows_has_no_scores(tmp_path: Path) -> None:
    features = [runs.categorical("a", "vocabulary", 20, bag=2), runs.categorical("b", "hash", 9), *NUMBERS]
    fields = [field(features[0], "completed", "path of 3", 4), field(features[1], "qr", "mult", 3)]
    for model in runs.MODELS:
        runs.make_run(tmp_path / model, runs.model(features, fields, model), np.random.default_rng(0))
        path = export(tmp_path / model, tmp_path / "models" / model) / "model.onnx"
        session = opened(path)
        empty = {"ids": np.zeros((0, 3), np.int64), "dense": np.zeros((0, 3), np.float32)}
        assert [np.shape(each) for each in session.run(["logit", "ctr"], empty)] == [(0,), (0,)]
