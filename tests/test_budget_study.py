"""The study of budgets: what is rounded after training, what fits a budget, how runs are compared, and going on."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from quorem.protos import low_bits
from quorem.train.prepare import prepare
from quorem.train.recipe_file import read_recipe

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `benchmarks` is no part of the package
from benchmarks.budget import rounded, run, singles, table  # noqa: E402  # found there
from benchmarks.budget.gather import groups  # noqa: E402  # found there
from benchmarks.budget.steps import ALONE, SEARCHED, Step  # noqa: E402  # found there

sys.path.remove(str(ROOT))


@pytest.mark.parametrize("bits", low_bits.BITS)
def test_rounded_columns_stand_on_their_levels_at_less_error_than_from_end_to_end(bits: int):
    values = np.random.default_rng(bits).normal(0, [0.1, 1, 30, 0], (500, 4)).astype(np.float32)
    found = rounded.rounded(values, bits)
    half = low_bits.half(bits)
    ends = np.maximum(np.abs(values).max(0) / half, low_bits.LEAST)
    naive = (np.clip(np.rint(values / ends + half), 0, 2 * half) - half) * ends
    assert [len(np.unique(column)) <= 2**bits for column in found.T] == [True] * 4
    assert (((found - values) ** 2).sum(0) <= ((naive - values) ** 2).sum(0) * (1 + 1e-5)).all()
    assert np.abs(found[:, 3]).max() < 1e-30
    if bits < 8:
        assert ((found[:, :3] - values[:, :3]) ** 2).sum() < 0.95 * ((naive - values)[:, :3] ** 2).sum()


def test_single_methods_are_the_largest_that_fit():
    recipe, base = read_recipe("synthetic", ["data.synthetic.rows={train=2000,valid=500,test=500}"])
    prepared = prepare(recipe, base)
    whole = singles._bytes(recipe, prepared, "hash", 1, recipe.embedding.dim)
    budgets = {"4x": whole // 4, "10x": whole // 10}
    found = singles.singles(recipe, prepared, budgets, every_dim=False)
    assert {each.scheme for each in found} == set(singles.ARMS)
    for each in found:
        count, dim = each.count, each.dim
        assert singles._bytes(recipe, prepared, each.scheme, count, dim) <= budgets[each.budget]
        assert count == 2 or singles._bytes(recipe, prepared, each.scheme, count - 1, dim) > budgets[each.budget]


def told(arm: str, setting: str, seed: int, size: int, auc: float) -> dict[str, object]:
    return {"arm": arm, "setting": setting, "seed": seed, "bytes": size, "auc": auc, "logloss": 0.5, "seconds": 1.0}


def test_the_best_single_method_is_within_the_budget_and_the_difference_in_standard_errors():
    found = groups(
        [
            *(told(SEARCHED, "10x", seed, 90, 0.9 + seed / 100) for seed in (1, 2, 3)),
            *(told(ALONE, "10x", seed, 90, 0.99) for seed in (1, 2, 3)),
            told("hashing", "c = 4", 1, 100, 0.8),
            told("hashing", "c = 2", 1, 101, 0.95),
            told("AutoDim", "penalty 1", 1, 60, 0.82),
        ]
    )
    best = table.best_single(found, 100)
    assert best is not None
    assert (best.arm, best.setting) == ("AutoDim", "penalty 1")
    assert table.best_single(found, 59) is None
    error = (0.01**2 / 3 + 0.01**2) ** 0.5
    assert table.differ(found[0], best) == pytest.approx(0.1 / error)
    assert table.differ(best, found[2]) is None


def test_a_study_goes_on_with_what_is_not_done(tmp_path: Path):
    given, other = tmp_path / "given.txt", tmp_path / "other.txt"
    given.write_text('{"a": 1}')
    first = Step("first", ("json.tool", str(given)))
    steps = [first, Step("second", ("json.tool", str(other)), ("first",)), Step("third", first.command, ("second",))]
    failed = run.run_all(steps, tmp_path, 2)
    assert set(failed) == {"second", "third"}
    assert "second" in failed["third"]
    assert run.result_of("first", tmp_path) == {"a": 1}
    given.write_text("no longer JSON")
    other.write_text('{"b": 2}')
    assert run.run_all(steps[:2], tmp_path, 2) == {}
    assert run.result_of("second", tmp_path) == {"b": 2}
    assert (run.seconds_of("second", tmp_path) or 0) > 0
    with pytest.raises(SystemExit, match="another command"):
        run.run_all([Step("first", ("json.tool", str(other)))], tmp_path, 1)
    assert json.loads((tmp_path / "first.clock.json").read_text())["command"] == list(first.command)
