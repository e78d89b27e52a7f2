"""Arms that search first: which searches they share, what is due when, and what is told of them."""

import csv
import dataclasses
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import searched
from quorem.protos import plan as plans
from quorem.protos import plan_directory
from quorem.protos.errors import RecipeError
from quorem.train.compare import results
from quorem.train.compare.arms import Arm, all_runs, make_arms, schedule
from quorem.train.compare.results import Result, Results
from quorem.train.compare.searched import report_search
from quorem.train.compare.summary import Summary, as_dict, summarise
from quorem.train.compare.table import to_csv, to_markdown
from quorem.train.compare.training import Run

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STUDIES = [path for path in sorted(BENCHMARKS.glob("*/*.toml")) if "study" in tomllib.loads(path.read_text("utf-8"))]
HEAD = """
[study]
title = "A study"
recipe = "synthetic"
set = ["search.epochs=2"]
seeds = [1, 2]
"""
DEEPFM = """
[[arms]]
name = "deepfm"
factor = "searched"
search = []
"""
NFM = """
[[arms]]
name = "nfm"
factor = "searched"
set = ['model={ name = "nfm", mlp = [8] }']
search = ['model={ name = "deepfm", mlp = [64, 32], batchnorm = false }']
"""


def arms_of(directory: Path, text: str, *settings: str) -> tuple[Arm, ...]:
    path = directory / "study.toml"
    path.write_text(text)
    return make_arms(path, settings)[1]


def only(directory: Path, text: str, *settings: str) -> Run:
    """The first run of a study's only arm."""
    (arm,) = arms_of(directory, text, *settings)
    return arm.variants[0].runs[0]


def searched_by(run: Run) -> Run:
    assert run.search
    return run.search


def of_search(run: Run) -> dict[str, Any]:
    return tomllib.loads(searched_by(run).text)


def told(digest: str, auc: float, dims: dict[str, int] | None = None, **more: Any) -> Result:
    """A made-up result, of a search where it has dims."""
    report: dict[str, Any] = {"valid": {"auc": auc}, "test": {"auc": auc, "logloss": 1 - auc}, "full_bytes": 4000}
    report |= {"bytes": 1000, "embedding_parameters": 250, "first_order_bytes": 0, "collisions": 0}
    report |= {"best_epoch": 1} if dims is None else {"dims": dims}
    return Result(digest, report | more, 10.0 if dims is None else 30.0, 1 << 20)


def test_the_settings_of_a_search_are_laid_over_the_arms_for_it_alone(tmp_path: Path):
    text = HEAD + DEEPFM.replace("[]", '["train.l2=0.5", "embedding.dim=4"]') + 'set = ["train.l2=0.1"]'
    run = only(tmp_path, text, "train.epochs=7")
    (train, found) = (tomllib.loads(each.text) for each in (run, searched_by(run)))
    assert (train["train"]["l2"], train["embedding"]["dim"], train["train"]["epochs"]) == (0.1, 16, 7)
    assert (found["train"]["l2"], found["embedding"]["dim"], found["train"]["epochs"]) == (0.5, 4, 7)
    assert (found["search"]["method"], found["search"]["epochs"]) == ("autodim", 2)
    assert (run.verb, searched_by(run).verb, searched_by(run).search) == ("train", "search", None)
    assert searched_by(run).epochs == 3  # one to warm up
    assert [found["train"]["seed"], train["train"]["seed"]] == [1, 1]


def test_a_search_has_the_section_whether_or_not_the_recipe_says_it(tmp_path: Path):
    bare = HEAD.replace('set = ["search.epochs=2"]', "")
    said = HEAD.replace("search.epochs=2", "search.method=autodim")
    digests = {searched_by(only(tmp_path, head + DEEPFM)).digest for head in (bare, said)}
    assert len(digests) == 1
    assert of_search(only(tmp_path, bare + DEEPFM))["search"]["candidates"] == [2, 8, 16, 24, 32]


def test_a_training_is_known_by_its_text_and_its_search_and_not_by_the_section_search(tmp_path: Path):
    plain = HEAD + DEEPFM.replace("search = []", "")
    without = only(tmp_path, plain.replace('set = ["search.epochs=2"]', ""))
    assert "search" not in tomllib.loads(without.text)
    assert only(tmp_path, plain).digest == without.digest
    one, two = only(tmp_path, HEAD + DEEPFM), only(tmp_path, HEAD.replace("epochs=2", "epochs=3") + DEEPFM)
    assert one.text == two.text == without.text
    assert len({run.digest for run in (one, two, without)}) == 3
    assert searched_by(one).digest != searched_by(two).digest


@pytest.mark.parametrize("name", ["frappe", "movielens", "synthetic"])
def test_runs_that_were_written_down_are_those_of_their_study_still(name: str):
    folder = BENCHMARKS / "partitions"
    arms = make_arms(folder / f"{name}.toml", ())[1]
    written = json.loads((folder / "results" / name / "results.json").read_text("utf-8"))
    runs = {run["run"] for arm in written["arms"] for run in arm["runs"]}
    assert len(runs) > 10
    assert runs <= {run.digest for run in all_runs(arms)}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_studies_of_the_house_can_be_run(path: Path):
    assert make_arms(path, ())[1]


def test_arms_whose_searches_are_the_same_share_them(tmp_path: Path):
    deepfm, nfm = arms_of(tmp_path, HEAD + DEEPFM + NFM)
    pairs = zip(deepfm.variants[0].runs, nfm.variants[0].runs, strict=True)
    for one, other in pairs:
        assert searched_by(one).digest == searched_by(other).digest
        assert one.digest != other.digest
    assert tomllib.loads(nfm.variants[0].runs[0].text)["model"]["mlp"] == [8]
    assert len(all_runs([deepfm, nfm])) == 6
    assert len(schedule([deepfm, nfm], {}, (), None)) == 6


def test_a_training_waits_for_its_search(tmp_path: Path):
    arms = arms_of(tmp_path, HEAD + DEEPFM + NFM)
    due = schedule(arms, {}, (), None)
    assert [(each.label, each.position, each.ready) for each in due] == [
        ("deepfm: search", 0, True),
        ("deepfm", 0, False),
        ("nfm", 0, False),
        ("deepfm: search", 1, True),
        ("deepfm", 1, False),
        ("nfm", 1, False),
    ]
    found = {due[0].run.digest: told(due[0].run.digest, 0.7, {"a": 2})}
    assert [each.label for each in schedule(arms, found, (), 1) if each.ready] == ["deepfm: search", "deepfm", "nfm"]


def test_a_search_that_fails_fails_what_waits_for_it(tmp_path: Path):
    arms = arms_of(tmp_path, HEAD + DEEPFM + NFM)
    runs = all_runs(arms)
    found = Results(tmp_path / "runs")
    first = arms[0].variants[0].runs[0]
    found.failed[searched_by(first).digest] = "no number"
    found.fail_with_searches(runs)
    assert [found.failed.get(arm.variants[0].runs[0].digest) for arm in arms] == ["its search: no number"] * 2
    assert not any(arm.variants[0].runs[1].digest in found.failed for arm in arms)
    failures = summarise("A study", arms, found).failures
    assert [(failure.arm, failure.seed, failure.why) for failure in failures] == [
        ("deepfm", 1, "its search: no number"),
        ("nfm", 1, "its search: no number"),
    ]


def test_a_pinned_search_is_one_for_all_values_that_are_tried(tmp_path: Path):
    text = HEAD + DEEPFM.replace("[]", '["train.l2=0"]') + 'tune = { "train.l2" = [0.1, 0.01, 0.001] }'
    (arm,) = arms_of(tmp_path, text)
    assert len({searched_by(variant.runs[0]).digest for variant in arm.variants}) == 1
    assert len(schedule([arm], {}, (), 1)) == 4
    (loose,) = arms_of(tmp_path, text.replace('["train.l2=0"]', "[]"))
    assert len(schedule([loose], {}, (), 1)) == 6


def test_an_arm_is_tuned_to_the_search_whose_plan_trains_best(tmp_path: Path):
    (arm,) = arms_of(tmp_path, HEAD + DEEPFM + 'tune = { "search.penalty" = [0.0, 0.5] }')
    firsts = [variant.runs[0] for variant in arm.variants]
    assert firsts[0].text == firsts[1].text
    searches = {searched_by(run).digest: told("", auc, {"a": 2}) for run, auc in zip(firsts, (0.9, 0.5), strict=True)}
    assert len(searches) == 2
    assert arm.chosen(searches, ()) is None
    trained = {run.digest: told(run.digest, auc) for run, auc in zip(firsts, (0.6, 0.8), strict=True)}
    assert arm.chosen(searches | trained, ()) is arm.variants[1]
    waiting = [each for each in schedule([arm], {}, (), None) if each.position]
    assert [(each.label, each.ready) for each in waiting] == [("deepfm: search", False), ("deepfm", False)]


def test_an_arm_may_be_the_search_itself(tmp_path: Path):
    text = HEAD + DEEPFM + DEEPFM.replace('"deepfm"', '"soft"') + 'measure = "search"\nset = ["search.choice=soft"]'
    text += DEEPFM.replace('"deepfm"', '"supernet"') + 'measure = "search"'
    deepfm, soft, supernet = arms_of(tmp_path, text)
    assert [run.verb for run in soft.variants[0].runs] == ["search", "search"]
    assert [run.digest for run in supernet.variants[0].runs] == [
        searched_by(run).digest for run in deepfm.variants[0].runs
    ]
    assert len(all_runs([deepfm, soft, supernet])) == 6
    assert deepfm.rows == soft.rows


def test_a_grid_hands_its_search_to_its_arms(tmp_path: Path):
    text = HEAD + '[[grids]]\nname = "{lookup}"\nfactor = "x"\nsearch = ["train.l2=0"]\n'
    text += '[grids.over]\n"search.lookup" = ["shared", "separate"]'
    arms = arms_of(tmp_path, text)
    assert [of_search(arm.variants[0].runs[0])["search"]["lookup"] for arm in arms] == ["shared", "separate"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEEPFM.replace("search = []", 'measure = "search"'), "goes with `search`"),
        (DEEPFM + 'measure = "plan"', "measure"),
        (DEEPFM.replace("[]", '["train.seed=3"]'), "Say `seeds` instead"),
        (DEEPFM.replace("[]", '["search.epochs=0"]'), "search.epochs"),
        (DEEPFM.replace("[]", '["nonsense"]'), "key=value"),
        (DEEPFM.replace("[]", "3"), "search"),
        (DEEPFM + """set = ['search={ method = "mixed" }']\nmeasure = "search\"""", "trains something"),
        (DEEPFM.replace("search = []", 'tune = { "search.lr" = [0.1, 0.2] }'), "a run of its own"),
        (DEEPFM + 'tune = { "train.l2" = [0.1, 0.1] }', "a run of its own"),
        (DEEPFM.replace("[]", '["model.name=fm"]'), "mlp"),
    ],
)
def test_a_wrong_search_is_refused(tmp_path: Path, text: str, words: str):
    with pytest.raises(RecipeError) as refused:
        arms_of(tmp_path, HEAD + text)
    assert words in str(refused.value)
    assert "study.toml" in refused.value.where


def test_the_last_files_are_those_that_make_a_directory_whole():
    assert results.LAST == {"train": "manifest.json", "search": plan_directory.SEARCH}


@pytest.mark.parametrize("lookup", ["shared", "separate"])
def test_a_search_by_autodim_tells_of_the_model_with_all_candidates(tmp_path: Path, lookup: str):
    run = searched_by(only(tmp_path, HEAD + DEEPFM, f"search.lookup={lookup}"))
    directory = searched.write(tmp_path / "plan")
    held = [8] if lookup == "shared" else searched.CANDIDATES
    models = [searched.make_plan(dict.fromkeys(searched.DIMS, dim)).fields for dim in held]
    report = report_search(directory, run)
    assert report["embedding_parameters"] == sum(map(plans.parameters, models))
    classes = sum(plans.table_bytes(field) - plans.weight_bytes(field) for field in models[0])
    assert classes > 0
    assert report["bytes"] == 4 * report["embedding_parameters"] + classes
    assert report["full_bytes"] == 4 * 8 * sum(field.cardinality for field in models[0])
    assert list(report["dims"].items()) == list(searched.DIMS.items())  # in the schema's order, not in packing order
    assert (report["valid"], report["test"]) == ({"auc": 0.75, "logloss": 0.5}, {"auc": 0.5})


@pytest.mark.parametrize("method", ["mixed", "random"])
def test_other_searches_tell_of_their_plan(tmp_path: Path, method: str):
    run = searched_by(only(tmp_path, HEAD.replace("search.epochs=2", f"search.method={method}") + DEEPFM))
    made = searched.make_plan(searched.DIMS | {"brand": 4})
    search = searched.make_search(made)
    search.method = method
    for choice in search.choices:
        del choice.probabilities[:]
        if method == "mixed":
            del choice.candidates[:]
    plan_directory.write_plan(tmp_path / "plan", made, search)
    report = report_search(tmp_path / "plan", run)
    assert report["embedding_parameters"] == plans.parameters(made.fields)
    assert set(report["widest"].values()) == {4 if method == "mixed" else 8}  # of the dims there are, or of candidates


@pytest.fixture
def made(tmp_path: Path) -> tuple[Summary, Results]:
    """A study of which all is finished: three seeds of a search and a training, and the searches measured."""
    text = HEAD.replace("[1, 2]", "[1, 2, 3]") + DEEPFM + DEEPFM.replace('"deepfm"', '"supernet"')
    text += 'measure = "search"\n[[arms]]\nname = "full"\nfactor = "searched"'
    arms = arms_of(tmp_path, text)
    found = Results(tmp_path / "runs")
    for seed, run in enumerate(arms[0].variants[0].runs):
        search, dims = searched_by(run), {"a": 2, "b": 4, "c": 8 if seed < 2 else 6}
        found.finished[search.digest] = told(search.digest, 0.6, dims, embedding_parameters=4000, bytes=16000)
        found.finished[run.digest] = told(run.digest, 0.7, embedding_parameters=(100, 200, 300)[seed], bytes=800)
    for run in arms[2].variants[0].runs:
        found.finished[run.digest] = told(run.digest, 0.71)
    return summarise("A study", arms, found), found


def test_the_table_tells_of_the_search_and_the_training_apart(made: tuple[Summary, Results]):
    table = to_markdown(made[0])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    columns, _, *arms = rows
    found = {arm[0]: dict(zip(columns, arm, strict=True)) for arm in arms}
    assert columns[-2:] == ["s a search", "s a run"]
    assert [found[name]["s a search"] for name in ("deepfm", "supernet", "full")] == ["30.0", "30.0", "-"]
    assert [found[name]["s a run"] for name in ("deepfm", "supernet", "full")] == ["10.0", "-", "10.0"]
    assert [found[name]["parameters"] for name in found] == ["200 ± 100", "4,000", "250"]
    alike = (1 + 2 * 12 / (56 / 3 * 8) ** 0.5) / 3  # by hand: sums of products 12, of squares 56/3 and 8
    assert f"Dims alike over seeds: deepfm {alike:.3f}; supernet {alike:.3f}." in table
    assert "widest" in table
    assert "s a search" not in to_markdown(
        dataclasses.replace(made[0], entries=tuple(each for each in made[0].entries if not each.searches))
    )


def test_a_spreadsheet_and_a_script_are_told_the_same(made: tuple[Summary, Results]):
    lines = {line["arm"]: line for line in csv.DictReader(io.StringIO(to_csv(made[0])))}
    assert [lines[name]["search_seconds"] for name in lines] == ["30.0", "30.0", ""]
    assert [lines[name]["seconds"] for name in lines] == ["10.0", "", "10.0"]
    assert [lines["deepfm"][key] for key in ("embedding_parameters", "embedding_parameters_sd")] == ["200.0", "100.0"]
    assert lines["full"]["alike"] == ""
    arms = {arm["arm"]: arm for arm in json.loads(json.dumps(as_dict(*made)))["arms"]}
    assert arms["deepfm"]["stability"] == pytest.approx(float(lines["deepfm"]["alike"]), abs=1e-4)
    assert [run["dims"]["c"] for run in arms["deepfm"]["runs"]] == [8, 8, 6]
    assert [run["embedding_parameters"] for run in arms["deepfm"]["runs"]] == [100, 200, 300]
    assert {(run["search_seconds"], run["seconds"]) for run in arms["deepfm"]["runs"]} == {(30.0, 10.0)}
    assert {(run["search_seconds"], run["seconds"]) for run in arms["supernet"]["runs"]} == {(30.0, None)}
    assert [run["search"] for run in arms["deepfm"]["runs"]] == [run["run"] for run in arms["supernet"]["runs"]]
    assert "stability" not in arms["full"]
    assert "dims" not in arms["full"]["runs"][0]
