"""Several ranks learn what one process learns: the losses of every step, whatever the model, and errors told once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
from commands import RECIPE, quorem

PROGRAM = Path(__file__).with_name("ranks.py")
LONG = {  # ten epochs of twenty batches; the last batch is one row larger than its half, and there are bags
    "rows = { train = 4000, valid = 1000, test = 1000 }": "rows = { train = 2561, valid = 500, test = 500 }",
    "batch = 256": "batch = 128\npatience = 99",
    "epochs = 3": "epochs = 10",
    "dropout = 0.1": "dropout = 0.0",
}


def recipe_at(path: Path, changes: dict[str, str]) -> Path:
    """The small recipe with changes, as a file."""
    text = RECIPE
    for before, after in (LONG | changes).items():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    return path


PLAIN = 'name = "dcnv2"\nbatchnorm = false\ncross = 2'
MODELS = {  # model, optimizer, bits, dtype, how near the losses are, and the logloss at the end
    "plain": (PLAIN, "", 0, "float64", 1e-9, 1e-7),
    "normalised": ('name = "dcnv2"\ncross = 2', "", 0, "float64", 1e-9, 1e-7),
    "rows": (PLAIN, "sparse_rows = 1\n", 0, "float64", 1e-9, 1e-7),
    "few_bits": (PLAIN, 'sparse_rows = 100\noptimizer = "adagrad"\nlr = 0.05\n', 3, "float64", 1e-9, 1e-7),
    "rowwise": (PLAIN, 'sparse_rows = 1\noptimizer = "rowwise_adagrad"\nlr = 0.05\n', 0, "float64", 1e-9, 1e-7),
    # What a bias before a batchnorm learns is noise: only the running mean, which lags behind, feels it.
    "single": ('name = "deepfm"', "", 0, "float32", 1e-3, 1e-2),
}


FROM_CSV = """
[data]
source = "csv"
path = "rows.csv"
split = { by = "share", valid = 0.1, test = 0.1 }
[features]
user = { kind = "categorical", encoding = "vocabulary" }
price = { kind = "dense", transform = "standard" }
[model]
name = "dlrm"
bottom = [4]
top = [4]
[train]
batch = 101
epochs = 2
"""


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What one rank, and each of two, know of every model."""
    directory, asked = tmp_path_factory.mktemp("ranks"), list[str | Path]()
    for name, (model, optimizer, bits, dtype, _, _) in MODELS.items():
        changes = {
            'name = "deepfm"': model,
            "l2 = 1e-4": f"l2 = 1e-4\n{optimizer}",
            "dim = 4": f"dim = 4\nbits = {bits}",
        }
        asked += [recipe_at(directory / f"{name}.toml", changes), dtype]
    for count in (1, 2):
        ranks.end(ranks.start(count, PROGRAM, directory / str(count), *asked), [0] * count)
    return [
        [json.loads((directory / str(count) / f"{number}.json").read_text()) for number in range(count)]
        for count in (1, 2)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_have_the_loss_curve_of_one(curves: list[list[dict[str, Any]]], name: str) -> None:
    (one,), two = ([each[name] for each in found] for found in curves)
    *_, near, metrics = MODELS[name]
    assert two[0] == two[1]  # weights to the bit, and what is known of them
    assert len(one["losses"]) == 200
    assert np.abs(np.divide(two[0]["losses"], one["losses"]) - 1).max() <= near
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    assert two[0]["metrics"]["logloss"] == pytest.approx(one["metrics"]["logloss"], rel=metrics)


def test_messages_between_three_ranks() -> None:
    ranks.end(ranks.start(3, PROGRAM.with_name("rank_messages.py")), [0, 0, 0])


def test_what_is_refused_is_told_once(tmp_path: Path) -> None:
    recipe = recipe_at(tmp_path / "recipe.toml", {"dim = 4": "dim = 0"})
    told = ranks.end(ranks.start(2, "-m", "quorem", "train", recipe, "--out", tmp_path / "run"), [2, 2])
    assert "embedding.dim" in told[0]
    assert told[1] == ""
    for command in ("search", "compare", "encode"):
        told = ranks.end(ranks.start(2, "-m", "quorem", command, recipe, "--out", tmp_path / "run"), [2, 2])
        assert "runs in one process" in told[0]
        assert told[1] == ""
    assert not (tmp_path / "run").exists()


def test_ranks_that_read_a_cache_learn_what_those_do_that_read_the_rows(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    lines = [f"u{user},{price},{user % 3 // 2}" for user, price in zip(*draw.integers(0, 30, (2, 2000)), strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["user,price,label", *lines]))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(FROM_CSV)
    quorem("encode", recipe, "--out", tmp_path / "cache", "--jobs", "1", "--quiet")
    for out, more in (("rows", ()), ("cached", ("--cache", tmp_path / "cache"))):
        ranks.end(ranks.start(2, "-m", "quorem", "train", recipe, "--out", tmp_path / out, "--quiet", *more), [0, 0])
    read, cached = ((tmp_path / out / "weights.safetensors").read_bytes() for out in ("rows", "cached"))
    assert read == cached
