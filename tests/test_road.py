"""The whole road on real rows: train, export, serve, score the raw file; the scores are those of training."""

import os
from pathlib import Path

import numpy as np
import pytest
from quorem.protos import manifest as manifests
from quorem.protos import schema
from safetensors.numpy import load_file
from served import quorem, serving

SMALL = ("--set", "train.epochs=1", "--set", "data.rows=10000", "--quiet", "--device", "cpu")
CRITEO = (*SMALL, "--set", "model.bottom=[32]", "--set", "model.top=[32]")


@pytest.mark.parametrize(
    ("recipe", "folder", "settings", "not_features"),
    [
        ("criteo", "criteo_kaggle_14k", CRITEO, ()),
        ("movielens", "ml100k", SMALL, ("rating", "timestamp", "movie_title")),
    ],
)
def test_a_raw_file_scores_as_it_did_in_training(
    tmp_path: Path, recipe: str, folder: str, settings: tuple[str, ...], not_features: tuple[str, ...]
) -> None:
    root = os.environ.get("QUOREM_DATA")
    if not root or not (Path(root) / folder).is_dir():
        pytest.skip(f"QUOREM_DATA does not name a directory with {folder}")
    run, out = tmp_path / "run", tmp_path / "scores.csv"
    quorem("train", recipe, "--out", run, *settings)
    quorem("export", run, "--to", tmp_path / "models" / recipe)
    ignored = [part for name in ("label", *not_features) for part in ("--ignore", name)]
    with serving(tmp_path / "models", tmp_path / "log", "--workers", "1") as server:
        rows = Path(root) / folder / "test.parquet"
        quorem("score", server.address, rows, "--logit", "--out", out, *ignored)
        assert server.stop() == 0
    scores = np.loadtxt(out, delimiter=",", skiprows=1, usecols=-1)
    manifest, reference = manifests.read(run), load_file(run / "reference.safetensors")
    assert len(scores) == manifest.training.test_rows
    assert len(reference["logit"]) == len(scores) or folder != "criteo_kaggle_14k", "every row of this split is kept"
    chosen = np.unique(np.linspace(0, len(scores) - 1, len(reference["logit"])).astype(np.int64))
    assert np.ptp(reference["logit"]) > 0.01
    assert (np.abs(scores[chosen] - reference["logit"]) <= 1e-5 * np.maximum(1, np.abs(reference["logit"]))).all()
    kept, unseen, vocabularies = 0, 0, 0
    for feature in manifest.schema.features:
        if feature.WhichOneof("encoding") == "vocabulary":
            first, slots = schema.layout(manifest.schema).slots[feature.name]
            values = load_file(run / "weights.safetensors")[f"vocabulary.{feature.name}.values"]
            unseen += int((~np.isin(reference["ids"][:, first : first + slots], values)).sum())
            kept, vocabularies = kept + feature.vocabulary.size, vocabularies + 1
    (version,) = (tmp_path / "models" / recipe).glob("[0-9]*")
    parts = {part.name: part.bytes for part in manifests.read(version).export.parts}
    assert unseen > 10
    assert 8 * kept < parts["vocabularies"] <= 9.5 * kept + 140 * vocabularies, "9.5 bytes a value, and little besides"
    assert parts["vocabularies"] <= 10 * kept or kept < 10_000
