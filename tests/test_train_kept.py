"""What a run keeps of its rows for the export: rows to calibrate with, and validation rows with the model's logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import RECIPE, quorem
from oracle import logits as oracle_logits
from quorem.protos import manifest as manifests
from quorem.protos.encode import Encoded
from quorem.protos.metrics import auc, logloss
from quorem.train.features import model_rows
from quorem.train.prepare import CALIBRATION_ROWS, Prepared, keep, prepare
from quorem.train.recipe_file import read_recipe
from safetensors.numpy import load_file

NUMBERS = '"I1..I3" = { kind = "dense", transform = "standard" }\n'


def raw_of(count: int) -> Encoded:
    return Encoded(np.arange(2 * count, dtype=np.int64).reshape(count, 2), np.zeros((count, 0), np.float32))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 1000])
def test_kept_rows_span_the_split_in_even_steps(count: int) -> None:
    kept = keep(raw_of(count), 8)
    assert len(kept.places) == min(count, 8)
    assert (kept.raw.ids == raw_of(count).ids[kept.places]).all()
    assert kept.raw.dense.shape == (len(kept.places), 0)
    if count > 1:
        steps = np.diff(kept.places)
        assert (kept.places[0], kept.places[-1]) == (0, count - 1)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """More training rows than are kept."""
    path = tmp_path_factory.mktemp("many") / "many.toml"
    path.write_text(RECIPE.replace("train = 4000", "train = 9000"))
    recipe, base = read_recipe(str(path), [], None)
    return prepare(recipe, base)


def test_they_are_the_rows_that_were_trained_on_and_validated_on(prepared: Prepared) -> None:
    assert len(prepared.calibration.places) == CALIBRATION_ROWS < len(prepared.train)
    splits = (
        (prepared.calibration, prepared.train),
        (prepared.validation, prepared.valid),
        (prepared.reference, prepared.heldout),
    )
    for kept, rows in splits:
        labels = rows.labels.numpy()[kept.places]
        again = model_rows(prepared.schema, prepared.vocabularies, kept.raw, labels)
        assert (again.ids == rows.ids[kept.places]).all()
        np.testing.assert_array_equal(again.numbers, rows.numbers[kept.places])


def test_a_run_writes_them_and_scores_validation_rows_as_it_ends(tmp_path: Path) -> None:
    """After the shift of the last bias by a negative rate; metrics that the shift does not change are the run's own."""
    run, settings = tmp_path / "run", ("--set", "train.epochs=1", "--set", "data.negative_rate=0.25")
    (tmp_path / "small.toml").write_text(RECIPE)
    quorem("train", tmp_path / "small.toml", "--out", run, "--quiet", "--device", "cpu", *settings)
    manifest, weights = manifests.read(run), load_file(run / "weights.safetensors")
    assert [file.name for file in manifest.files] == [
        "calibration.safetensors",
        "reference.safetensors",
        "validation.safetensors",
        "weights.safetensors",
    ]
    calibration, validation = (load_file(run / f"{name}.safetensors") for name in ("calibration", "validation"))
    assert {name: (each.dtype.name, each.shape) for name, each in calibration.items()} == {
        "ids": ("int64", (4000, 9)),
        "dense": ("float32", (4000, 3)),
    }
    assert {name: (each.dtype.name, each.shape) for name, each in validation.items()} == {
        "ids": ("int64", (1000, 9)),
        "dense": ("float32", (1000, 3)),
        "label": ("float32", (1000,)),
        "logit": ("float32", (1000,)),
    }
    expected = oracle_logits(manifest, weights, validation["ids"], validation["dense"])
    assert (np.abs(validation["logit"] - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
    metrics, logits = manifest.training.valid_metrics, validation["logit"].astype(np.float64)
    assert auc(logits, validation["label"]) == pytest.approx(metrics["auc"], abs=1e-5)
    assert logloss(logits - np.log(0.25), validation["label"]) == pytest.approx(metrics["logloss"], abs=1e-5)


@pytest.mark.parametrize("absent", ["dense", "ids"])
def test_an_input_without_columns_has_no_tensor(absent: str, tmp_path: Path) -> None:
    assert NUMBERS in RECIPE
    before, _, after = RECIPE.partition("[features]\n")
    features, _, after = after.partition("[embedding]")
    features = (
        features.replace(NUMBERS, "")
        if absent == "dense"
        else '"I1..I3" = { kind = "dense", transform = "bucket", buckets = 8 }\n'
    )
    (tmp_path / "some.toml").write_text(f"{before}[features]\n{features}[embedding]{after}")
    run = tmp_path / "run"
    quorem("train", tmp_path / "some.toml", "--out", run, "--quiet", "--device", "cpu", "--set", "train.epochs=1")
    inputs = {"ids", "dense"} - {absent}
    assert load_file(run / "calibration.safetensors").keys() == inputs
    assert load_file(run / "validation.safetensors").keys() == inputs | {"label", "logit"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_model_on_a_gpu_scores_its_validation_rows_there(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE)
    quorem("train", tmp_path / "small.toml", "--out", tmp_path / "run", "--quiet", "--device", "cuda")
    manifest, weights = manifests.read(tmp_path / "run"), load_file(tmp_path / "run" / "weights.safetensors")
    for name in ("validation", "reference"):
        rows = load_file(tmp_path / "run" / f"{name}.safetensors")
        expected = oracle_logits(manifest, weights, rows["ids"], rows["dense"])
        assert (np.abs(rows["logit"] - expected) <= 1e-4 * np.maximum(1, np.abs(expected))).all()
