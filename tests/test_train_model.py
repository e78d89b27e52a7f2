"""Torch's model = the oracle, for every model, scheme, combine and encoding; and what a fresh model must be."""

import itertools

import numpy as np
import pytest
import torch
from oracle import logits as oracle_logits
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets
from quorem.protos.encode import Encoded
from quorem.protos.ids import MISSING, VocabularyValues
from quorem.protos.manifest import check
from quorem.protos.schema import dense_features, layout
from quorem.train.features import model_rows
from quorem.train.model import Model
from quorem.train.planning import make_plan
from quorem.train.recipe import EmbeddingConfig

ROWS = 64
BOUND = 1e-5
SCHEMES = ("full", "hash", "qr", "mixed_radix", "chinese_remainder")
BAGS = {"bag": 4, "short": 2, "one": 1}  # name -> slots


def schema_of(encoding: str) -> tuple[pb.Schema, dict[str, VocabularyValues]]:
    """Three fields of one encoding, three bags, and dense features of every transform."""
    schema, vocabularies = pb.Schema(), {}
    for position, (name, size) in enumerate((("a", 50), ("b", 7), ("c", 31), ("bag", 40), ("short", 3), ("one", 9))):
        feature = schema.features.add(name=name, side=pb.CONTEXT if position % 2 else pb.CANDIDATE, values=pb.INTEGER)
        if name in BAGS:
            feature.bag.CopyFrom(pb.Bag(max_length=BAGS[name], pooling=pb.SUM if name == "short" else pb.MEAN))
        if encoding == "id" or (encoding == "bucket" and name in BAGS):
            feature.id.CopyFrom(pb.IdRange(size=size, out_of_range=pb.RARE))
        elif encoding == "hash":
            feature.hash.CopyFrom(pb.Hash(buckets=size, seed=position))
        elif encoding == "vocabulary":
            values = np.sort(np.random.default_rng(position).choice(100, size, replace=False)).astype(np.int64)
            ids = np.random.default_rng(position).permutation(size).astype(np.int32) + 1
            vocabularies[name] = VocabularyValues(values, ids)
            feature.vocabulary.CopyFrom(pb.Vocabulary(size=size, min_count=1))
        else:
            feature.values = pb.FLOAT
            feature.bucket.boundaries.extend(np.linspace(-1, 1, size).astype(np.float32).tolist())
    for name, dense in (
        ("plain", pb.Dense(transform=pb.NONE, missing=0.5, scale=1)),
        ("logged", pb.Dense(transform=pb.LOG1P, scale=1)),
        ("standard", pb.Dense(transform=pb.STANDARD, missing=2, mean=1.5, scale=0.7)),
    ):
        schema.features.add(name=name, side=pb.CONTEXT, values=pb.FLOAT).dense.CopyFrom(dense)
    return schema, vocabularies


def raw_rows(schema: pb.Schema, rng: np.random.Generator) -> Encoded:
    """Rows with missing, unseen and extreme values, and bags from empty to full."""
    places = layout(schema)
    ids = rng.integers(-5, 105, (ROWS, places.slot_count))
    ids[:8] = np.array([[MISSING], [-1], [2**62], [2**63 - 1], [0], [2**31], [2**24 + 1], [2**33]])
    ids = np.where(rng.random(ids.shape) < 0.2, MISSING, ids).astype(np.int64)
    dense = rng.normal(0, 2, (ROWS, places.dense_count)).astype(np.float32)
    dense[rng.random(dense.shape) < 0.2] = np.nan
    return Encoded(ids, dense)


@pytest.mark.parametrize(
    ("model", "scheme", "combine", "encoding"),
    [
        each
        for each in itertools.product(
            ("deepfm", "dlrm"),
            ("full", "hash", "qr"),
            ("mult", "add", "concat"),
            ("id", "hash", "vocabulary", "bucket"),
        )
        if each[1] not in ("full", "hash") or each[2] == "mult"
    ],
)
def test_torch_equals_oracle(model: str, scheme: str, combine: str, encoding: str) -> None:
    schema, vocabularies = schema_of(encoding)
    config = EmbeddingConfig.model_validate(
        {"scheme": scheme, "combine": combine, "collisions": 3, "tables": 3, "threshold": 10, "dim": 6}
    )
    plan = make_plan(config, schema, first_order=model == "deepfm")
    count = len(dense_features(schema))
    net = (
        nets.deepfm(plan, count, mlp=[16, 8], batchnorm=True, dropout=0.5)
        if model == "deepfm"
        else nets.dlrm(plan, count, bottom=[8], top=[16], batchnorm=True, dropout=0.5)
    )
    manifest = pb.Manifest(format_version=1, schema=schema, plan=plan, net=net)
    check(manifest, "test")
    rng = np.random.default_rng(7)
    encoded = raw_rows(schema, rng)
    rows = model_rows(schema, vocabularies, encoded, np.zeros(ROWS, np.float32))
    torch_model = Model(schema, plan, net)
    torch_model.reset(3)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in torch_model.parameters():  # away from tiny initial values, so that a wrong row shows
            parameter.add_(torch.randn_like(parameter) * 0.5)
    torch_model.train()
    torch_model(rows.ids, rows.numbers)  # moves batchnorm's running statistics
    torch_model.eval()
    with torch.no_grad():
        found = torch_model(rows.ids, rows.numbers)[0].numpy()
    weights = dict(torch_model.weights())
    for name, vocabulary in vocabularies.items():
        weights[f"vocabulary.{name}.values"], weights[f"vocabulary.{name}.ids"] = vocabulary.values, vocabulary.ids
    expected = oracle_logits(manifest, weights, encoded.ids, encoded.dense)
    assert np.ptp(expected) > 0.1
    assert (np.abs(found - expected) <= BOUND * np.maximum(1, np.abs(expected))).all()


def test_same_seed_same_weights_and_other_seed_other_weights() -> None:
    schema, _ = schema_of("id")
    plan = make_plan(EmbeddingConfig(scheme="qr", threshold=0), schema, first_order=True)
    net = nets.deepfm(plan, 3, mlp=[4], batchnorm=False, dropout=0)

    def fresh(seed: int) -> dict[str, np.ndarray]:
        model = Model(schema, plan, net)
        model.reset(seed)
        return model.weights()

    first, again, other = fresh(1), fresh(1), fresh(2)
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_quotient_tables_start_around_one() -> None:
    schema, _ = schema_of("id")
    plan = make_plan(EmbeddingConfig(scheme="qr", threshold=0, collisions=8), schema, first_order=False)
    model = Model(schema, plan, nets.deepfm(plan, 3, mlp=[4], batchnorm=False, dropout=0))
    model.reset(1)
    quotients = np.concatenate([table.ravel() for name, table in model.weights().items() if name.endswith(".1")])
    assert abs(quotients.mean() - 1) < 0.05
    assert 0.05 < quotients.std() < 0.2


@pytest.mark.parametrize("n", [2**24 + 1, 2**31 + 1, 2**33 + 1, 2**62])
def test_rows_are_exact_at_large_ids(n: int) -> None:
    from quorem.protos.packing import groups
    from quorem.protos.plan import build_field, quotient_remainder
    from quorem.train.tables import PackedGroup

    m = 2**31 + 11 if n > 2**40 else 2**16 + 1
    field = build_field("x", n, quotient_remainder(n, m), scheme=pb.QUOTIENT_REMAINDER, combine=pb.ADD, dim=1)
    ids = sorted(
        {0, 1, m - 1, m, n // 2, n - 2, n - 1, *(x for x in (2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**33) if x < n)}
    )
    with torch.device("meta"):  # no memory for tables: rows alone are asked for
        group = PackedGroup(groups([field])[0], [field], {"x": (0, 1)}, {})
    for j, table in enumerate(field.tables):
        for name, value in (("divide", table.divide), ("modulus", table.rows), ("offset", 0)):
            setattr(group, f"{name}{j}", torch.tensor([value]))
        found = group.rows(torch.tensor(ids).unsqueeze(1), j)[:, 0].tolist()
        assert found == [x // table.divide % table.rows for x in ids]


def test_padding_is_no_row_that_was_looked_up() -> None:
    schema, _ = schema_of("id")
    plan = make_plan(EmbeddingConfig(scheme="full", dim=4), schema, first_order=False)
    model = Model(schema, plan, nets.deepfm(plan, 3, mlp=[4], batchnorm=False, dropout=0))
    slots = sum(length for length in BAGS.values()) + 3
    ids = torch.full((2, slots), -1)
    ids[:, :3] = 1  # the three single fields; all bags are empty
    _, touched = model.embedding(ids)
    assert sum(len(rows.unique()) for _, rows in touched) == 3
