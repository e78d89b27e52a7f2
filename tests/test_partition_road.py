"""The whole road for every partition: trained on real rows, exported, served; the scores are those of training.

And the paper's extreme: Criteo's 33.76 M ids in under 4,000 rows, all the way to a score.
"""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import quorem
from quorem.protos import manifest as manifests
from quorem.protos.encode import Column
from quorem.serve.client import Client
from safetensors.numpy import load_file
from served import serving

FOLDER = "frappe"
CLASSES = '{ scheme = "semantic", table = "%s", partitions = ["kind", "shelf"], complete = true }'
COMBINES = {
    "mult": {"embedding.combine": "mult"},
    "add": {"embedding.combine": "add"},
    "concat": {"embedding.combine": "concat"},
    "path": {"embedding.combine": "path"},
    "path_mlp": {"embedding.combine": "path", "embedding.hidden": "4"},
    "feature": {"embedding.combine": "feature"},
}
SCHEMES = {
    "qr": {"embedding.scheme": "qr", "embedding.collisions": "4"},
    "mixed_radix": {"embedding.scheme": "mixed_radix", "embedding.tables": "3"},
    "chinese_remainder": {"embedding.scheme": "chinese_remainder", "embedding.tables": "3"},
    "semantic": {"embedding.scheme": "qr", "embedding.fields.item": "%s"},
}
CASES = {f"{scheme}.{combine}": SCHEMES[scheme] | COMBINES[combine] for scheme, combine in product(SCHEMES, COMBINES)}
CASES |= {"full": {}, "hash": {"embedding.scheme": "hash"}}
UNEVEN = {"embedding.fields.user.dim": "4", "embedding.fields.daytime.dim": "2", "embedding.fields.city.dim": "3"}
MODELS = {
    "fm": 'name = "fm"',
    "wide_deep": 'name = "wide_deep", mlp = [16]',
    "deepfm": 'name = "deepfm", mlp = [16]',
    "nfm": 'name = "nfm", mlp = [16]',
    "ipnn": 'name = "ipnn", mlp = [16]',
    "autoint": 'name = "autoint", layers = 2, width = 4',
    "autoint_mlp": 'name = "autoint", layers = 1, width = 4, mlp = [16]',
    "dlrm": 'name = "dlrm", top = [16]',
}
CASES |= {f"{name}.mult": SCHEMES["qr"] | {"model": f"{{ {model} }}"} for name, model in MODELS.items()}
CASES |= {
    f"{name}.uneven.{unify}": SCHEMES["qr"] | UNEVEN | {"model": f'{{ {model}, unify = "{unify}" }}'}
    for name, model in MODELS.items()
    for unify in ("linear", "pad")
    if name != "wide_deep"
}
CASES["wide_deep.uneven"] = SCHEMES["qr"] | UNEVEN | {"model": f"{{ {MODELS['wide_deep']} }}"}
for combine in ("feature", "concat"):  # the other combines of dims that differ
    CASES[f"fm.{combine}.uneven"] = SCHEMES["mixed_radix"] | COMBINES[combine] | UNEVEN | {"model": '{ name = "fm" }'}


def train(recipe: str, out: Path, settings: dict[str, str]) -> None:
    """Train a little, in this process."""
    quick = settings | {"train.epochs": "1", "train.lr": "0.02", "train.batch": "256"}
    sets = [part for key, value in quick.items() for part in ("--set", f"{key}={value}")]
    quorem("train", recipe, "--out", out, "--quiet", "--device", "cpu", *sets)


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Within the parity bound."""
    return bool((np.abs(found - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all())


def test_every_scheme_combine_and_model_trains_on_real_rows_and_serves_what_it_learnt(tmp_path: Path) -> None:
    root = os.environ.get("QUOREM_DATA")
    if not root or not (Path(root) / FOLDER).is_dir():
        pytest.skip(f"QUOREM_DATA does not name a directory with {FOLDER}")
    items = sorted(
        {each for split in ("train", "valid", "test") for each in _column(Path(root) / FOLDER / f"{split}.parquet")}
    )
    table = pa.table({"item": items, "kind": [each % 60 for each in items], "shelf": [each // 50 for each in items]})
    pq.write_table(table, tmp_path / "items.parquet")
    for name, settings in CASES.items():
        classes = CLASSES % (tmp_path / "items.parquet")
        own = {key: classes if value == "%s" else value for key, value in settings.items()}
        small = {"data.rows": "3000"} | ({} if "model" in own else {"model.mlp": "[16]"})
        train("frappe", tmp_path / name, own | small)
        quorem("export", tmp_path / name, "--to", tmp_path / "models" / name)
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "1") as server, Client(server.address) as client:
        for name in CASES:
            manifest, reference = manifests.read(tmp_path / name), load_file(tmp_path / name / "reference.safetensors")
            columns = {
                feature.name: Column(integers=np.ascontiguousarray(reference["ids"][:, slot]))
                for slot, feature in enumerate(manifest.schema.features)
            }
            reply = client.score(name, rows=len(reference["logit"]), columns=columns, logit=True)
            assert near(np.asarray(reply.scores), reference["logit"]), name
            assert np.ptp(reference["logit"]) > 0.01, name
        assert server.stop() == 0


def _column(path: Path) -> list[int]:
    return pq.read_table(path, columns=["item"])["item"].to_pylist()


def test_all_of_criteos_ids_in_under_four_thousand_rows(tmp_path: Path) -> None:
    rows = {f"data.synthetic.rows.{split}": "2000" for split in ("train", "valid", "test")}
    train("cardinalities", tmp_path / "run", rows)
    manifest = manifests.read(tmp_path / "run")
    assert sum(field.cardinality for field in manifest.plan.fields) == 33_762_577
    assert sum(table.rows for field in manifest.plan.fields for table in field.tables) < 4000
    assert all(field.complementary for field in manifest.plan.fields)
    quorem("export", tmp_path / "run", "--to", tmp_path / "models" / "ctr")
    # 2.16 GB is what full tables of this dimension take: 33,762,577 ids of 16 float32.
    full = 33_762_577 * 16 * 4
    assert (tmp_path / "models/ctr/1/tables.bin").stat().st_size * 5000 < full
    reference, dense = load_file(tmp_path / "run" / "reference.safetensors"), 0
    columns, slot = dict[str, Column](), 0
    for feature in manifest.schema.features:
        if feature.WhichOneof("encoding") == "dense":
            columns[feature.name] = Column(floats=np.ascontiguousarray(reference["dense"][:, dense]))
            dense += 1
        else:
            columns[feature.name] = Column(integers=np.ascontiguousarray(reference["ids"][:, slot]))
            slot += 1
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "1") as server, Client(server.address) as client:
        reply = client.score("ctr", rows=len(reference["logit"]), columns=columns, logit=True)
        assert near(np.asarray(reply.scores), reference["logit"])
        assert server.stop() == 0
