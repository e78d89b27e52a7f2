"""Ids that begin elsewhere than at 0: the whole road, from a recipe to scores, without a vocabulary and its bytes."""

import json
import os
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
from cached import equal
from commands import quorem
from oracle import logits as oracle_logits
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import open_inference_pb2 as inference
from quorem.protos.encode import Column, Encoded, encode
from quorem.protos.errors import InputError
from quorem.protos.ids import ids_of
from quorem.protos.schema import layout
from quorem.serve.bench.drawn import columns
from quorem.serve.client import Client
from quorem.serve.observed import Fields
from quorem.train.recipe_file import read_recipe, to_toml
from safetensors.numpy import load_file
from served import serving

RECIPE = """
[data]
source = "csv"
path = "rows.csv"
split = { by = "share", valid = 0.2, test = 0.2 }
[features]
level = { kind = "categorical", encoding = "id", first = -3, size = 7, out_of_range = "error", side = "context" }
item = { kind = "categorical", encoding = "id", first = 957, size = 40 }
seen = { kind = "bag", encoding = "id", first = 10, size = 5, max_length = 3 }
kind = { kind = "categorical", encoding = "id", size = 4 }
[embedding]
scheme = "qr"
dim = 4
threshold = 20
[model]
name = "deepfm"
mlp = [8]
[train]
batch = 64
epochs = 2
"""


def write(folder: Path, text: str = RECIPE) -> Path:
    """900 clicks, some on items and with seen values beyond their ranges, and the recipe."""
    draw, lines = np.random.default_rng(3), ["level,item,seen,kind,label"]
    for _ in range(900):
        level, item = int(draw.integers(-3, 4)), int(draw.integers(950, 1000))
        seen = " ".join(str(each) for each in draw.integers(8, 17, draw.integers(0, 4)))
        lines.append(f"{level},{item},{seen},{draw.integers(0, 4)},{int(item % 2 + (level > 0) > draw.random() * 2)}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run and its bundle, which was proved against torch's logits: both graphs."""
    folder = tmp_path_factory.mktemp("first")
    quorem("train", write(folder), "--out", folder / "run", "--quiet", "--device", "cpu")
    quorem("export", folder / "run", "--to", folder / "models" / "ctr")
    return folder


def reference(root: Path) -> tuple[pb.Manifest, Encoded, np.ndarray]:
    held = load_file(root / "run" / "reference.safetensors")
    return (
        manifests.read(root / "run"),
        Encoded(held["ids"], np.zeros((len(held["ids"]), 0), np.float32)),
        held["logit"],
    )


def test_torch_is_the_oracle_and_no_vocabulary_takes_bytes(root: Path) -> None:
    manifest, rows, logits = reference(root)
    weights = load_file(root / "run" / "weights.safetensors")
    assert np.ptp(logits) > 0.05
    assert np.abs(logits - oracle_logits(manifest, weights, rows.ids, rows.dense)).max() < 1e-5
    item = next(each for each in manifest.schema.features if each.name == "item")
    ids = ids_of(item, rows.ids[:, layout(manifest.schema).slots["item"][0]])
    assert {0, 39, 40} <= set(ids.tolist()) <= set(range(41)), "all of the range, and the rare id"
    bundle = manifests.read(root / "models" / "ctr" / "1")
    assert [graph.file for graph in bundle.export.graphs] == ["model.onnx", "rank.onnx"]
    assert not [part for part in bundle.export.parts if part.name == "vocabularies" and part.bytes]


def test_inspect_and_the_card_say_where_ids_begin(root: Path) -> None:
    told = [line.split() for line in quorem("inspect", root / "run").stdout.splitlines()]
    assert ["item", "candidate", "integer", "id", "from", "957", "41"] in told
    assert ["kind", "candidate", "integer", "id", "5"] in told
    facts = json.loads(quorem("inspect", root / "run", "--json").stdout)
    assert [each["first"] for each in facts["features"]] == [-3, 957, 10, 0]
    assert "id from 957" in (root / "models" / "ctr" / "1" / "card.md").read_text()


def test_values_are_sent_as_they_are_and_refused_beyond_their_range(root: Path) -> None:
    manifest, rows, logits = reference(root)
    count, slots = 20, layout(manifest.schema).slots
    single = {name: Column(integers=rows.ids[:count, slots[name][0]]) for name in ("level", "item", "kind")}
    bags = rows.ids[:count, slots["seen"][0] : slots["seen"][0] + 3]
    is_item = bags != -(2**63)
    sent = {**single, "seen": Column(integers=bags[is_item], lengths=is_item.sum(axis=1))}
    with (
        serving(root / "models", root / "log", "--workers", "1") as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert next(each for each in client.describe("ctr").schema.features if each.name == "item").id.first == 957
        found = client.score("ctr", sent, count).scores
        assert np.abs(found - 1 / (1 + np.exp(-logits[:count]))).max() < 1e-5
        missing = Column(integers=np.array([0]), missing=np.array([True]))
        for level in (-4, 4, 957):
            with pytest.raises(InputError, match=rf"\[-3, 4\). Found: {level}\."):
                client.score("ctr", one(level=level), 1)
        scores = [client.score("ctr", one(item=each), 1).scores[0] for each in (957, 956, 997, 0)]
        assert scores[1] == scores[2] == scores[3] != scores[0], "beyond the range: rare, on either side"
        client.score("ctr", one(item=957) | {"level": missing}, 1)
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            inference.ModelInferRequest.SerializeToString,
            inference.ModelInferResponse.FromString,
        )
        raw = rows.ids[:1].copy()
        for level, refused in ((3, False), (4, True), (-4, True), (-(2**63), False)):
            raw[0, slots["level"][0]] = level
            request = inference.ModelInferRequest(model_name="ctr", raw_input_contents=[raw.tobytes()])
            request.inputs.add(name="ids", datatype="INT64", shape=raw.shape)
            if refused:
                with pytest.raises(grpc.RpcError, match=r"\[-3, 4\)"):
                    ask(request)
            else:
                ask(request)


def one(**values: int) -> dict[str, Column]:
    """A row, but for what is given of values that are in range."""
    found = {"level": 0, "item": 957, "kind": 0} | values
    bag = Column(integers=np.array([10]), lengths=np.array([1]))
    return {name: Column(integers=np.array([value])) for name, value in found.items()} | {"seen": bag}


def test_drawn_rows_lie_in_their_ranges_and_others_are_counted(root: Path) -> None:
    described = manifests.read(root / "run").schema
    encoded = encode(described, columns(described, 3000, np.random.default_rng(1)), 3000, long_bags="refuse")
    counted = Fields(described)
    counted.take(encoded)
    found = counted.snapshot()
    assert [found[name]["unseen"] for name in ("level", "item", "kind")] == [0, 0, 0]
    strange = encoded.ids.copy()
    strange[:30, 1], strange[30:50, 1], strange[50:60, 1] = 956, 997, -(2**63)
    counted.take(Encoded(strange, encoded.dense))
    assert counted.snapshot()["item"] == {"values": 6000, "missing": 10, "unseen": 50}


def test_a_cache_holds_the_same_ids(root: Path, tmp_path: Path) -> None:
    quorem("encode", root / "recipe.toml", "--out", tmp_path / "cache", "--quiet", "--jobs", "1")
    equal(root / "recipe.toml", tmp_path / "cache")


def test_a_recipe_says_where_ids_begin_or_reads_as_it_always_did(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    plain, base = read_recipe(str(recipe), ["features={ item = { kind = 'categorical', encoding = 'id', size = 9 } }"])
    assert "first =" not in to_toml(plain, base)
    for feature, told in (
        ("{kind='categorical',encoding='hash',buckets=9,first=1}", "first means nothing here"),
        ("{kind='categorical',encoding='id',size=9,first=9223372036854775800}", "at most 2^63"),
        ("{kind='categorical',encoding='id',size=9,first=-9223372036854775808}", "greater than"),
        ("{kind='categorical',encoding='id',size=9,first=1.5}", "integer"),
    ):
        done = quorem("train", recipe, "--out", tmp_path / "r", "--set", f"features.item={feature}", check=2)
        assert told in done.stderr
        assert "features.item" in done.stderr


def test_the_ranges_of_the_shipped_recipe_hold_all_values_of_its_rows() -> None:
    root = os.environ.get("QUOREM_DATA")
    if not root or not (Path(root) / "frappe").is_dir():
        pytest.skip("QUOREM_DATA does not name a directory with frappe")
    (recipe, _), (plain, _) = read_recipe("frappe_ids"), read_recipe("frappe")
    assert recipe.features.keys() == plain.features.keys()
    assert [each.side for each in recipe.features.values()] == [each.side for each in plain.features.values()]
    for split in ("train", "valid", "test"):
        rows = pq.read_table(Path(root) / "frappe" / f"{split}.parquet")
        for name, feature in recipe.features.items():
            found = rows[name].to_numpy()
            assert feature.first <= found.min() <= found.max() < feature.first + (feature.size or 0), (split, name)
