"""The road of a searched plan: composed tables of unequal dims are found, trained, exported, served, and no larger."""

import json
from pathlib import Path

import numpy as np
from commands import quorem
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import plan, plan_directory, tables_bin
from quorem.protos.encode import Column
from quorem.serve.client import Client
from safetensors.numpy import load_file
from served import serving

RECIPE = """
[data]
source = "synthetic"
[data.synthetic]
rows = { train = 1500, valid = 500, test = 300 }
scale = 0.001
dense = 1
bag = 3
[features]
I1 = { kind = "dense", transform = "standard" }
"C1..C7" = { kind = "categorical", encoding = "hash", values = "integer", buckets = 700 }
B1 = { kind = "bag", encoding = "hash", values = "integer", buckets = 300, max_length = 3 }
[embedding]
scheme = "qr"
[embedding.fields]
C3 = { scheme = "mixed_radix", tables = 3 }
C4 = { scheme = "mixed_radix", tables = 2, combine = "add" }
C5 = { scheme = "mixed_radix", tables = 3, combine = "concat" }
C6 = { combine = "feature" }
C7 = { scheme = "full" }
[train]
batch = 300
epochs = 2
lr = 0.02
[search]
candidates = [2, 3]
fields = { C2 = [5, 8], C3 = [6, 7], C4 = [1, 4], C5 = [4, 5], C7 = [9, 11], B1 = [4, 6] }
epochs = 2
every = 1
lr = 0.1
"""
MODELS = {
    "deepfm": '{ name = "deepfm", mlp = [8] }',  # makes the vectors alike
    "wide_deep": '{ name = "wide_deep", mlp = [8] }',  # takes them as they are
}
MISSING = -(2**63)


def columns_of(schema: pb.Schema, reference: dict[str, np.ndarray]) -> dict[str, Column]:
    """Rows as a caller has them."""
    columns, slot = dict[str, Column](), 0
    for feature in schema.features:
        if feature.HasField("dense"):
            columns[feature.name] = Column(floats=np.ascontiguousarray(reference["dense"][:, 0]))
            continue
        count = feature.bag.max_length if feature.HasField("bag") else 1
        ids, slot = reference["ids"][:, slot : slot + count], slot + count
        if feature.HasField("bag"):
            columns[feature.name] = Column(integers=ids[ids != MISSING], lengths=(ids != MISSING).sum(1))
        else:
            columns[feature.name] = Column(integers=np.ascontiguousarray(ids[:, 0]))
    return columns


def test_a_searched_plan_trains_exports_and_serves_and_is_as_large_as_it_says(tmp_path: Path) -> None:
    for name, model in MODELS.items():
        (tmp_path / f"{name}.toml").write_text(f"model = {model}\n{RECIPE}")
    common = ("--quiet", "--device", "cpu")
    done = quorem("search", tmp_path / "deepfm.toml", "--out", tmp_path / "plan", "--json", *common)
    dims = json.loads(done.stdout)["dims"]
    assert len(set(dims.values())) >= 4, "unequal dims"
    made, _ = plan_directory.read_plan(tmp_path / "plan")
    for name in MODELS:
        run, given = tmp_path / name, ("--plan", tmp_path / "plan")
        quorem("train", tmp_path / f"{name}.toml", "--out", run, *given, *common)
        manifest, weights = manifests.read(run), load_file(run / "weights.safetensors")
        assert manifest.plan == made
        for field in manifest.plan.fields:
            joined = [weights[f"embedding.{field.feature}.{j}"].shape for j in range(len(field.tables))]
            shares = plan.table_dims(field.combine, dims[field.feature], 0, len(joined))
            assert [width for _, width in joined] == shares, "the chosen dim is that of all of its tables"
        assert [layer.unify.dim for layer in manifest.net.layers if layer.HasField("unify")] == (
            [max(dims.values())] if name == "deepfm" else []
        )
        held = sum(each.size for key, each in weights.items() if key.startswith("embedding."))
        assert held == plan.parameters(made.fields) == json.loads(done.stdout)["parameters"]["embedding"]
        size = sum(tables_bin.plan_bytes(manifest.schema, made).values())
        quorem("export", run, "--to", tmp_path / "models" / name)
        assert (tmp_path / "models" / name / "1" / "tables.bin").stat().st_size == size
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "1") as server, Client(server.address) as client:
        for name in MODELS:
            manifest, reference = manifests.read(tmp_path / name), load_file(tmp_path / name / "reference.safetensors")
            columns, expected = columns_of(manifest.schema, reference), reference["logit"]
            found = np.asarray(client.score(name, rows=len(expected), columns=columns, logit=True).scores)
            assert (np.abs(found - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
            assert np.ptp(expected) > 0.01
        assert server.stop() == 0
