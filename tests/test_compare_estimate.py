"""The estimate of a study's time: finished runs before probes, the price of a row, and what is not known said so."""

from pathlib import Path

import pytest
from quorem.train.compare.arms import make_arms
from quorem.train.compare.estimate import Costs, duration, told
from quorem.train.compare.probe import Probed, extrapolate_search
from quorem.train.compare.results import Result
from quorem.train.compare.training import Kind, Run

STUDY = """
[study]
title = "A study"
recipe = "synthetic"
seeds = [1, 2, 3]
set = ["train.epochs=30", "data.synthetic.rows.train=100000"]
[[arms]]
name = "full"
factor = "size"
"""


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, ...]:
    (tmp_path / "study.toml").write_text(STUDY)
    return make_arms(tmp_path / "study.toml", ())[1][0].variants[0].runs


def test_the_price_of_a_row_is_the_last_epochs_and_the_rest_is_fixed():
    probed = Probed(10.0, [500.0, 1000.0])  # (3000 + 600 / 3) / 500 + 3200 / 1000 = 9.6 s of epochs
    assert probed.extrapolate((3000, 600), (30_000, 6000), 5) == pytest.approx(0.4 + 5 * 32)
    assert probed.extrapolate((3000, 600), (3000, 0), 1) == pytest.approx(0.4 + 3)
    assert Probed(1.0, [100.0, 100.0]).extrapolate((1000, 0), (1000, 0), 1) == pytest.approx(10)  # noise: never below 0


def test_a_run_is_expected_to_stop_early(runs: tuple[Run, ...]):
    assert runs[0].epochs == 20  # of the recipe's thirty


def test_finished_runs_say_more_than_probes(runs: tuple[Run, ...]):
    costs = Costs()
    assert (costs.of(runs[0].kind), costs.left(runs, 2)) == (None, None)
    assert told(runs, costs, 2) == ["    3 x synthetic deepfm: not known", "in all not known, 2 at a time"]
    costs.guessed[runs[0].kind] = 40.0
    assert costs.left(runs, 2) == 60.0
    assert costs.left(runs[:1], 2) == 40.0  # one run is no faster for the second place
    for seconds in (100.0, 200.0, None):
        costs.learn(runs[0], Result("", {}, seconds, None))
    assert told(runs, costs, 3) == [
        "    3 x synthetic deepfm: about 2 min a run (mean of 2 finished)",
        "in all about 2 min, 3 at a time",
    ]


def test_the_price_of_a_searchs_epoch_is_what_four_of_them_add():
    assert extrapolate_search((12.0, 20.0), 10.0, 3) == pytest.approx(10 + 3 * 2 * 10)
    assert extrapolate_search((12.0, 11.0), 10.0, 3) == 12.0  # noise: never below 0


def test_a_random_search_costs_as_many_trainings_until_one_is_finished(tmp_path: Path):
    searched = STUDY + "search = []\nset = ['search={ method = \"random\", trials = 4 }']"
    (tmp_path / "study.toml").write_text(searched)
    run = make_arms(tmp_path / "study.toml", ())[1][0].variants[0].runs[0]
    assert run.search
    costs = Costs()
    assert told([run.search, run], costs, 2) == [
        "    1 x synthetic deepfm, random search: not known",
        "    1 x synthetic deepfm: not known",
        "in all not known, 2 at a time",
    ]
    costs.guessed[run.kind] = 10.0
    assert told([run.search, run], costs, 2)[0].endswith("about 40 s a run (as many trainings)")
    assert costs.left([run.search, run], 2) == 40.0
    costs.learn(run.search, Result("", {}, 25.0, None))
    assert told([run.search], costs, 2)[0].endswith("about 25 s a run (mean of 1 finished)")


def test_searches_that_cost_alike_are_of_one_kind(tmp_path: Path):
    def kinds(*settings: str) -> set[Kind]:
        (tmp_path / "study.toml").write_text(STUDY + f"search = {list(settings)}")
        runs = make_arms(tmp_path / "study.toml", ())[1][0].variants[0].runs
        return {run.search.kind for run in runs if run.search}

    assert len(kinds()) == 1
    assert kinds() == kinds("search.lr=0.1", "search.penalty=0.5", "search.choice=soft")
    assert not kinds() & kinds("search.epochs=20")
    assert not kinds() & kinds("search.lookup=separate")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (99, "99 s"), (150, "2 min"), (5940, "99 min"), (7500, "2 h 05 min")]
)
def test_durations_in_words(seconds: float, words: str):
    assert duration(seconds) == words
