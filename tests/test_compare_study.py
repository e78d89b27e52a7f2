"""Studies: what a file means as arms and runs, the order in which they are due, tuning, and every way to be refused."""

from pathlib import Path

import pytest
from quorem.protos.errors import RecipeError
from quorem.train.checkpoint import NAME as CHECKPOINT
from quorem.train.compare import results
from quorem.train.compare.arms import Arm, make_arms, schedule
from quorem.train.compare.results import Result
from quorem.train.recipe_file import read_recipe, shipped_recipes, to_toml

HEAD = """
[study]
title = "A study"
recipe = "synthetic"
seeds = [1, 2]
against = "full"
[[arms]]
name = "full"
factor = "size"
"""
GRID = """
[[grids]]
name = "{scheme} c={collisions}"
series = "{scheme}"
factors = ["size", "scheme"]
against = "hash c={collisions}"
set = ["embedding.threshold=50"]
[grids.over]
"embedding.scheme" = ["hash", "qr"]
"embedding.collisions" = [2, 4]
"""


def arms_of(directory: Path, text: str, *settings: str) -> tuple[Arm, ...]:
    path = directory / "study.toml"
    path.write_text(text)
    return make_arms(path, settings)[1]


def result(digest: str, auc: float) -> Result:
    return Result(digest, {"valid": {"auc": auc}, "test": {"auc": auc}}, 1.0, None)


def test_a_grid_is_the_product_of_its_values(tmp_path: Path):
    full, *grid = arms_of(tmp_path, HEAD + GRID)
    assert [arm.name for arm in grid] == ["hash c=2", "hash c=4", "qr c=2", "qr c=4"]
    assert [arm.series for arm in grid] == ["hash", "hash", "qr", "qr"]
    assert [arm.against for arm in grid] == [("full",), ("full",), ("full", "hash c=2"), ("full", "hash c=4")]
    assert (full.factors, full.against, full.series) == (("size",), (), "full")
    recipe, _ = read_recipe("synthetic", grid[3].variants[0].runs[1].settings, 2)
    assert (recipe.embedding.scheme, recipe.embedding.collisions, recipe.train.seed) == ("qr", 4, 2)
    assert grid[3].variants[0].runs[1].text == to_toml(recipe, Path())


def test_settings_are_laid_over_one_another(tmp_path: Path):
    text = HEAD.replace("seeds =", 'set = ["train.lr=0.1", "train.l2=0.1", "train.batch=32"]\nseeds =')
    text += 'set = ["train.lr=0.2", "train.l2=0.2"]\nseeds = [7]\ntune = { "train.lr" = [0.3] }'
    (run,) = arms_of(tmp_path, text, "train.epochs=9")[0].variants[0].runs
    train = read_recipe("synthetic", run.settings, run.seed)[0].train
    assert (train.lr, train.l2, train.batch, train.epochs, train.seed) == (0.3, 0.2, 32, 9, 7)


def test_arms_of_one_recipe_share_their_runs(tmp_path: Path):
    arms = arms_of(tmp_path, HEAD + '[[arms]]\nname = "again"\nfactor = "other"\nset = ["embedding.scheme=full"]')
    assert [run.digest for run in arms[0].variants[0].runs] == [run.digest for run in arms[1].variants[0].runs]
    assert len(schedule(arms, {}, (), None)) == 2


def test_a_recipe_stands_beside_the_study_or_is_shipped(tmp_path: Path):
    recipe, base = read_recipe("synthetic")
    (tmp_path / "mine.toml").write_text(to_toml(recipe, base))
    mine, shipped = arms_of(tmp_path, HEAD.replace('"synthetic"', '"mine.toml"')), arms_of(tmp_path, HEAD)
    assert mine[0].variants[0].runs[0].digest == shipped[0].variants[0].runs[0].digest


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_recipe_of_a_run_is_the_recipe_it_came_from(tmp_path: Path, name: str):
    """Runs are trained from the resolved recipe, under its digest: resolving it again must change nothing."""
    text = to_toml(*read_recipe(name))
    (tmp_path / "resolved.toml").write_text(text)
    assert to_toml(*read_recipe(str(tmp_path / "resolved.toml"))) == text


def test_every_arm_has_a_run_before_any_has_two(tmp_path: Path):
    due = schedule(arms_of(tmp_path, HEAD + GRID), {}, (), None)
    assert [(each.position, each.label) for each in due[4:7]] == [(0, "qr c=4"), (1, "full"), (1, "hash c=2")]
    assert len(due) == 10
    assert len(schedule(arms_of(tmp_path, HEAD + GRID), {}, (), 1)) == 5


def test_an_arm_is_tuned_on_the_validation_auc_of_its_first_seed(tmp_path: Path):
    text = HEAD.replace("factor =", 'tune = { "train.lr" = [0.1, 0.2], "train.batch" = [32, 64] }\nfactor =')
    (arm,) = arms_of(tmp_path, text.replace('against = "full"', ""))
    assert [tuple(variant.tuned.values()) for variant in arm.variants] == [(0.1, 32), (0.1, 64), (0.2, 32), (0.2, 64)]
    firsts = [variant.runs[0].digest for variant in arm.variants]
    due = schedule([arm], {}, (), None)
    assert [each.run.digest for each in due if each.ready] == firsts
    assert len(due) == 5  # four that are tried, and a second seed of the best

    finished = {digest: result(digest, auc) for digest, auc in zip(firsts, (0.5, 0.8, 0.8, 0.7), strict=True)}
    assert arm.chosen({digest: finished[digest] for digest in firsts[:3]}, ()) is None
    best = arm.chosen(finished, ())
    assert best is arm.variants[1]  # the first of the best
    assert [each.run for each in schedule([arm], finished, (), None) if each.position] == [best.runs[1]]

    some = {firsts[0]: finished[firsts[0]]}
    assert arm.chosen(some, set(firsts[1:])) is arm.variants[0]
    assert arm.chosen({}, set(firsts)) is None
    assert len(schedule([arm], {}, set(firsts), None)) == 4  # nothing more to do when all have failed


def test_the_name_of_checkpoints_is_the_one_that_training_writes():
    assert results.CHECKPOINT == CHECKPOINT


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "study"),
        ("[study", "a study is TOML"),
        (HEAD + 'sed = ["x"]', "Did you mean `seeds`?"),
        (HEAD.replace("title", "titel"), "Did you mean `title`?"),
        (HEAD.replace("[1, 2]", "[]"), "study.seeds"),
        (HEAD.replace("[1, 2]", "[1, 1]"), "a seed stands once"),
        (HEAD.replace("[1, 2]", "[-1]"), "study.seeds"),
        (HEAD.replace("[1, 2]", '["1"]'), "study.seeds"),
        (HEAD.replace('factor = "size"', ""), "factor"),
        (HEAD + 'factors = ["size"]', "factor"),
        (HEAD.replace('"size"', '"../size"'), "arms.0.factor"),
        (HEAD.replace('name = "full"', 'name = "a|b"'), "arms.0.name"),
        (HEAD.partition("[[arms]]")[0], "[[arms]]"),
        (HEAD.replace('against = "full"', 'against = "ful"'), "Did you mean 'full'?"),
        (HEAD + 'against = ["nobody"]', "'nobody'"),
        (HEAD + HEAD.partition('against = "full"')[2], "'full' 2 times"),
        (HEAD + 'set = ["train.lr=-1"]', "arm 'full'"),
        (HEAD + 'set = ["embedding.shceme=qr"]', "shceme"),
        (HEAD + 'set = ["nonsense"]', "key=value"),
        (HEAD + 'set = ["train.seed=3"]', "Say `seeds` instead"),
        (HEAD + 'recipe = "nobody"', "nobody"),
        (HEAD + 'tune = { "train.lr" = [] }', "tune"),
        (HEAD + "tune = { train.lr = [0.1] }", "tune"),
        (HEAD + 'tune = { "train.lr" = [0.1, -1] }', "train.lr"),
        (HEAD + GRID.replace("[2, 4]", "[]"), "embedding.collisions"),
        (HEAD + GRID.replace("[2, 4]", f"{list(range(1, 6000))}"), "at most 10000 arms"),
        (HEAD + GRID.replace("c={collisions}", "c={c}"), "Fields are {scheme}, {collisions}"),
        (HEAD + GRID.replace('name = "{scheme} ', 'name = "'), "stands once"),
        (HEAD + GRID.partition("[grids.over]")[0] + "over = {}", "grids.0.over"),
        (HEAD + GRID + '"train.collisions" = [1]', "end in different words"),
        (HEAD + 'set = ["data.synthetic.seed=2"]\nagainst = "b"\n[[arms]]\nname = "b"\nfactor = "x"', "the same rows"),
    ],
)
def test_a_wrong_study_is_refused(tmp_path: Path, text: str, told: str):
    with pytest.raises(RecipeError) as refused:
        arms_of(tmp_path, text)
    assert told in str(refused.value)
    assert "study.toml" in refused.value.where


def test_a_study_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="no such file"):
        make_arms(tmp_path / "study.toml", ())
