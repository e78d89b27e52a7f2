"""`quorem search` as a user meets it: what it writes and says, stopping and going on, refusals."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import RECIPE, quorem
from quorem.protos import manifest as manifests
from quorem.protos import plan, plan_directory
from quorem.train.checkpoint import part
from quorem.train.loop import evaluate_rows
from quorem.train.prepare import prepare
from quorem.train.recipe_file import read_recipe
from quorem.train.search import supernet
from quorem.train.search.derive import wide_plan
from quorem.train.search.run import undecided
from safetensors.torch import load_file

SMALL = RECIPE.replace("train = 4000, valid = 1000, test = 1000", "train = 1000, valid = 300, test = 300")
SMALL = SMALL.replace('"C1..C6"', '"C1..C3"').replace("dropout = 0.1", "dropout = 0.1\nbatchnorm = true")
SEARCH = """
[search]
candidates = [1, 2, 4]
fields = { C7 = [3, 8] }
epochs = 6
every = 3
lr = 0.05
tau_rate = 0.02
"""
BATCHES, EPOCHS = 4, 7  # of 256 rows; the warm-up is one
FILES = {"plan.json", "search.json", "recipe.toml", "history.jsonl", "choice.svg", "dims.svg"}
SAME = ("plan.json", "search.json", "recipe.toml", "choice.svg", "dims.svg")
HERE = ("--device", "cpu")
Finished = tuple[Path, str, str]  # its directory, and what it said on stdout and stderr


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL + SEARCH)
    return path


@pytest.fixture(scope="module")
def found(recipe: Path) -> Finished:
    """A finished search."""
    done = quorem("search", recipe, "--out", recipe.parent / "plan", *HERE)
    return recipe.parent / "plan", done.stdout, done.stderr


def history(out: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl."""
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def differing(one: Path, other: Path, names: tuple[str, ...] = (*SAME, "history.jsonl")) -> list[str]:
    """The files that are not the same in both directories, to the byte."""
    return [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


def test_a_plan_directory_holds_what_it_promises(found: Finished) -> None:
    out, stdout, stderr = found
    assert {path.name for path in out.iterdir()} == FILES
    made, told = plan_directory.read_plan(out)
    assert {choice.feature for choice in told.choices} == {"C1", "C2", "C3", "C7", "B1"}
    for choice in told.choices:
        assert list(choice.candidates) == ([3, 8] if choice.feature == "C7" else [1, 2, 4])
        best = max(zip(choice.probabilities, choice.candidates, strict=True))[1]
        assert choice.dim == best
    lines = history(out)
    assert [line["step"] for line in lines] == list(range(1, EPOCHS * BATCHES + 1))
    assert lines[-1]["probabilities"] == {
        each.feature: pytest.approx(list(each.probabilities)) for each in told.choices
    }
    assert lines[-1]["tau"] == pytest.approx(1 - 0.02 * ((EPOCHS - 1) * BATCHES - 1))
    assert stderr.count("warm-up") == 1
    assert stderr.count("epoch ") == EPOCHS - 1
    assert len(stderr.splitlines()) == EPOCHS  # no line is cut in a pipe
    dims = {choice.feature: choice.dim for choice in told.choices}
    words = [line.split()[:2] for line in stdout.splitlines()]
    assert words[: len(dims)] == [
        [name, str(dims[name])] for name in ("C1", "C2", "C3", "C7", "B1")
    ]  # the recipe's order
    assert f"{plan.parameters(made.fields):,} embedding parameters" in stdout
    assert f"auc {told.valid_metrics['auc']:.5f}" in stdout
    assert f"quorem inspect {out}" in stdout
    assert f"--plan {out} --out RUN" in stdout


def test_the_command_that_it_names_trains_the_plan(recipe: Path, tmp_path: Path) -> None:
    settings = (
        "--set",
        'model={ name = "fm" }',
        "--set",
        'search={ method = "mixed" }',
        "--set",
        "embedding.scheme=full",
    )
    done = quorem("search", recipe, "--out", tmp_path / "plan", *settings, "--seed", "5", *HERE)
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[0] == "quorem"
    told = quorem(*(str(tmp_path / "run") if word == "RUN" else word for word in words[1:]), "--quiet", *HERE)
    assert told.stderr == ""
    made = manifests.read(tmp_path / "run")
    assert (made.net.model, made.training.seed) == ("fm", 5)
    assert list(made.plan.fields) == list(plan_directory.read_plan(tmp_path / "plan")[0].fields)


def test_a_choice_that_has_hardly_begun_is_called_so() -> None:
    sure, unsure = {"2": 0.1, "4": 0.9}, {"2": 0.45, "4": 0.55}
    assert undecided({"a": unsure, "b": {"1": 0.3, "2": 0.3, "3": 0.4}})
    assert not undecided({"a": sure, "b": sure})
    assert not undecided({"a": {"2": 0.0, "4": 1.0}, "b": unsure})
    assert not undecided({})


def test_for_a_script_it_prints_one_object_and_from_a_plans_own_recipe_it_gives_the_same_bytes(
    found: Finished, tmp_path: Path
) -> None:
    done = quorem("search", found[0] / "recipe.toml", "--out", tmp_path / "again", "--json", "--quiet", *HERE)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    keys = "plan method model seed device dims probabilities parameters valid test seconds"
    assert set(told) == set(keys.split())
    made, search = plan_directory.read_plan(tmp_path / "again")
    assert (told["plan"], told["method"], told["model"]) == (str(tmp_path / "again"), "autodim", "deepfm")
    assert (told["seed"], told["device"]) == (1, "cpu")
    assert told["dims"] == {choice.feature: choice.dim for choice in search.choices}
    assert told["probabilities"] == {
        each.feature: {str(dim): chance for dim, chance in zip(each.candidates, each.probabilities, strict=True)}
        for each in search.choices
    }
    assert told["parameters"]["embedding"] == plan.parameters(made.fields)
    assert told["valid"] == dict(search.valid_metrics)
    assert told["test"] == dict(search.test_metrics)
    assert told["test"]["auc"] != told["valid"]["auc"]
    assert differing(found[0], tmp_path / "again") == []


def test_another_seed_is_another_search_and_quiet_says_nothing(recipe: Path, found: Finished, tmp_path: Path) -> None:
    done = quorem("search", recipe, "--out", tmp_path / "other", "--seed", "2", "--quiet", *HERE)
    assert done == type(done)("", "")
    assert set(differing(found[0], tmp_path / "other")) >= {"history.jsonl", "search.json", "choice.svg"}
    assert plan_directory.read_plan(tmp_path / "other")[1].seed == 2


def test_without_a_section_the_defaults_stand_and_are_written_out(tmp_path: Path) -> None:
    (tmp_path / "silent.toml").write_text(SMALL)
    settings = ("--set", "data.synthetic.rows.train=60", "--set", "data.synthetic.rows.valid=60")
    quorem("search", tmp_path / "silent.toml", "--out", tmp_path / "silent", "--quiet", *HERE, *settings)
    assert (
        "candidates = [\n    2,\n    8,\n    16,\n    24,\n    32,\n]" in (tmp_path / "silent/recipe.toml").read_text()
    )
    assert len(history(tmp_path / "silent")) == 11
    _, told = plan_directory.read_plan(tmp_path / "silent")
    assert {tuple(choice.candidates) for choice in told.choices} == {(2, 8, 16, 24, 32)}


def test_a_killed_search_goes_on_as_if_nothing_had_happened(recipe: Path, found: Finished, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "quorem", "search", str(recipe), "--out", str(out), *HERE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "warm-up 1" in process.stderr.readline(), "told as the second begins, when the first is saved"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (out / "checkpoint.safetensors").exists()
    assert not (out / "search.json").exists()
    with (out / "history.jsonl").open("a") as file:
        file.write('{"step": 99}\n{"step": 9')  # told after the checkpoint; and a line that was cut short
    assert "Say --resume" in quorem("search", recipe, "--out", out, *HERE, check=2).stderr
    other = ("--resume", "--seed", "2", *HERE)
    assert "another recipe, seed" in quorem("search", recipe, "--out", out, *other, check=2).stderr
    quorem("search", recipe, "--out", out, "--resume", "--quiet", *HERE)
    assert {path.name for path in out.iterdir()} == FILES
    assert differing(found[0], out) == []


def stop_at(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], None]:
    """Press Ctrl-C while the loss is computed for the so-manieth time; what is returned takes the finger away."""
    real, seen = supernet.binary_cross_entropy_with_logits, list[int]()

    def loss(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == count:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(supernet, "binary_cross_entropy_with_logits", loss)
    return lambda: monkeypatch.setattr(supernet, "binary_cross_entropy_with_logits", real)


def test_stopped_in_the_middle_of_epochs_and_resumed(
    recipe: Path, found: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, resume = tmp_path / "plan", list[str]()
    for count in (2, 5, 6, 11):  # in the warm-up, in training, in a validation step, in that of an epoch's last batch
        free = stop_at(monkeypatch, count)
        done = quorem("search", recipe, "--out", out, "--json", *resume, *HERE, check=130)
        free()
        resume = ["--resume"]
        told = json.loads(done.stderr.splitlines()[-1])
        assert told == {"error": "Interrupted", "remedy": f"quorem search {recipe} --out {out} --resume --device cpu"}
        assert not (out / "search.json").exists()
    quorem("search", recipe, "--out", out, "--resume", "--quiet", *HERE)
    assert differing(found[0], out, ("plan.json", "search.json", "recipe.toml")) == []
    lines, undisturbed = history(out), {line["step"]: line for line in history(found[0])}
    assert [line["step"] for line in lines] == list(undisturbed), "each step is told once"
    assert all(line == undisturbed[line["step"]] for line in lines)


def test_the_metrics_are_those_of_the_probabilities_that_were_learnt(
    recipe: Path, found: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the last batch's noise: computed here from the checkpoint of a search that stopped in its last batch."""
    out = tmp_path / "plan"
    free = stop_at(monkeypatch, EPOCHS * BATCHES + 8)  # as many batches of training, and of validation
    quorem("search", recipe, "--out", out, "--quiet", *HERE, check=130)
    free()
    read, prepared = read_recipe(str(recipe))[0], prepare(*read_recipe(str(recipe)))
    wide = wide_plan(read, prepared.schema, prepared.semantics)
    net = supernet.make_supernet(read, prepared, wide, torch.device("cpu"))
    tensors = load_file(out / "checkpoint.safetensors")
    net.model.load_state_dict(part(tensors, "model"))
    net.choice.load_state_dict(part(tensors, "choice"))
    net.mixture.weights = net.choice.probabilities().detach()
    told = plan_directory.read_plan(found[0])[1]
    assert told.valid_metrics == pytest.approx(evaluate_rows(net.model, prepared.valid))
    assert told.test_metrics == pytest.approx(evaluate_rows(net.model, prepared.heldout))
    assert {choice.feature: choice.dim for choice in told.choices} == net.choice.dims()


def test_numbers_that_are_none_stop_the_search_and_the_last_good_checkpoint_stays(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    settings = ("--set", "train.lr=1e30", "--quiet", "--json", *HERE)

    def refused(*more: str) -> dict[str, str]:
        return json.loads(quorem("search", recipe, "--out", out, *settings, *more, check=2).stderr)

    told = refused()  # in the first epoch: nothing was saved
    assert "finite" in told["rule"]
    assert told["where"] == "search, epoch 1, batches up to 2"
    assert "train.lr" in told["remedy"]
    assert not (out / "checkpoint.safetensors").exists()
    assert refused("--resume")["found"] == "no checkpoint"
    assert refused()["where"] == "search, epoch 1, batches up to 2", "and it may begin again"
    shutil.rmtree(out)
    one_batch = ("--set", "train.batch=2000")  # an epoch: the first ends well
    assert refused(*one_batch)["where"] == "search, epoch 2, batches up to 1"
    kept = (out / "checkpoint.safetensors").read_bytes()
    assert len(history(out)) == 1
    assert refused(*one_batch, "--resume")["where"] == "search, epoch 2, batches up to 1"
    assert (out / "checkpoint.safetensors").read_bytes() == kept
    assert not (out / "search.json").exists()
    shutil.rmtree(out)
    infinite = ("--set", "train.lr=1e300", *one_batch)  # the loss is a number still, the weights are none
    assert "every weight" in refused(*infinite)["rule"]
    assert not (out / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("setting", "where", "told"),
    [
        ("search.candidates=[4]", "key search.candidates", "two dims or more"),
        ("search.candidates=[]", "key search.candidates", "two dims or more"),
        ("search.candidates=[0,4]", "key search.candidates", "Found: [0, 4]"),
        ("search.candidates=[-2,4]", "key search.candidates", "from 1 to 4096"),
        ("search.candidates=[2,5000]", "key search.candidates", "from 1 to 4096"),
        ("search.candidates=[2.0,4]", "key search.candidates", "Found: [2.0, 4]"),
        ("search.candidates=[true,4]", "key search.candidates", "Found: [True, 4]"),
        ("search.candidates=4", "key search.candidates", "Found: 4"),
        ("search.candidates=[4,2]", "key search.candidates", "Found: [4, 2]"),
        ("search.candidates=[2,2]", "key search.candidates", "Found: [2, 2]"),
        ("search.fields.C1=[8,2]", "key search.fields.C1", "Found: [8, 2]"),
        ("search.fields.C1=[2]", "key search.fields.C1", "two dims or more"),
        ("search.fields.C1=4", "key search.fields.C1", "Found: 4"),
        ("search.base=6", "key search", "above `base`, 6; `fields.C7` go up to 8"),
        ("search.base=0", "key search.base", "Found: 0"),
        ("search.fields.nobody=[1,2]", "small.toml", "nobody; features with ids are C1"),
        ("search.fields.I1=[1,2]", "small.toml", "I1; features with ids are C1"),
        ("search.alpha=0.3", "key search", 'alpha means nothing with method = "autodim"'),
        ("search.trials=3", "key search", 'trials means nothing with method = "autodim"'),
        ("search.parameters=9", "key search", 'parameters means nothing with method = "autodim"'),
        ("search.method=mixed", "key search", "candidates, epochs, every, fields, lr, tau_rate means nothing"),
        ('search={method="random",base=32}', "key search", 'base means nothing with method = "random"'),
        ("search.method=guess", "key search.method", "'autodim', 'mixed', 'random' or 'budget'"),
        ("search.epoch=3", "key search.epoch", "Did you mean `epochs`?"),
        ("search.lr=1e39", "key search.lr", "1000"),
        ("search.lr=nan", "key search.lr", "finite"),
        ("search.tau_min=0", "key search.tau_min", "greater than 0"),
        ("data.synthetic.rows.valid=0", "key data.synthetic.rows.valid", "greater than 0"),
        ("data.synthetic.rows.valid=1", "validation split", "one class"),
        ("embedding.bytes=1000", "[embedding]", "`bytes`, whose rows depend on the dim"),
        ("embedding.fields.C2={bytes=1000}", "[embedding.fields], C2", "`bytes`, whose rows depend on the dim"),
        ("embedding.combine=path", "field 'C", 'combine = "path"'),
        ("embedding.fields.C3.combine=path", "field 'C3'", "path's functions read whole"),
        ("embedding.combine=concat", "[search], field", "candidate 1 for 2 tables"),
    ],
)
def test_a_wrong_search_is_refused(recipe: Path, tmp_path: Path, setting: str, where: str, told: str) -> None:
    done = quorem("search", recipe, "--out", tmp_path / "plan", "--json", "--set", setting, *HERE, check=2)
    error = json.loads(done.stderr)
    assert done.stdout == ""
    assert list(error) == ["error", "rule", "found", "where", "remedy"]
    assert error["rule"]
    assert error["remedy"]
    assert where in error["where"]
    assert told.removeprefix("Found: ") in (error["found"] if told.startswith("Found") else " ".join(error.values()))
    assert not (tmp_path / "plan").exists()


def test_what_is_there_is_never_written_over(recipe: Path, found: Finished, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in found[0].iterdir()}
    for extra in ((), ("--resume",)):
        assert "finished" in quorem("search", recipe, "--out", found[0], *extra, *HERE, check=2).stderr
    assert {path.name: path.read_bytes() for path in found[0].iterdir()} == before
    (tmp_path / "mine.txt").write_text("mine")
    assert "something else" in quorem("search", recipe, "--out", tmp_path, *HERE, check=2).stderr
    assert "no checkpoint" in quorem("search", recipe, "--out", tmp_path, "--resume", *HERE, check=2).stderr
    quorem("search", recipe, "--out", tmp_path / "mine.txt", *HERE, check=2)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("mine.txt", "mine")]
    none = tmp_path / "none"
    assert "Leave --resume out" in quorem("search", recipe, "--out", none, "--resume", *HERE, check=2).stderr
    assert not none.exists()


def test_a_run_and_a_search_never_write_into_each_others_directory(
    recipe: Path, found: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even of the same recipe, to the byte."""
    before = {path.name: path.read_bytes() for path in found[0].iterdir()}
    assert "finished" in quorem("train", recipe, "--out", found[0], *HERE, check=2).stderr
    assert {path.name: path.read_bytes() for path in found[0].iterdir()} == before
    (tmp_path / "run").mkdir()
    for name in ("manifest.json", "metrics.jsonl"):
        (tmp_path / "run" / name).write_text("mine")
    shutil.copy(found[0] / "recipe.toml", tmp_path / "run")
    assert "finished" in quorem("search", recipe, "--out", tmp_path / "run", *HERE, check=2).stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "mine"
    drawn = ("--set", 'search={method="random",candidates=[1,2],trials=1}', *HERE)
    free = stop_at(monkeypatch, 2)
    quorem("search", recipe, "--out", tmp_path / "begun", "--quiet", *HERE, check=130)
    free()
    for resume in ((), ("--resume",)):
        told = quorem("search", recipe, "--out", tmp_path / "begun", *drawn, *resume, check=2).stderr
        assert "an interrupted run" in told
        assert "Name another --out" in told
    assert (tmp_path / "begun" / "checkpoint.safetensors").exists()


CSV = """
[data]
source = "csv"
train = "train.csv"
valid = "valid.csv"
[features]
item = { kind = "categorical", encoding = "id", size = 4 }
[model]
name = "fm"
"""


@pytest.mark.parametrize(("rows", "told"), [("", "at least one row"), ("1,0\n2,0\n", "one class")])
def test_rows_that_cannot_choose_are_refused(tmp_path: Path, rows: str, told: str) -> None:
    (tmp_path / "recipe.toml").write_text(CSV)
    (tmp_path / "train.csv").write_text("item,label\n" + "".join(f"{n % 4},{n % 2}\n" for n in range(20)))
    (tmp_path / "valid.csv").write_text(f"item,label\n{rows}")
    arguments = ("search", tmp_path / "recipe.toml", "--out", tmp_path / "plan", *HERE)
    assert told in quorem(*arguments, check=2).stderr
    assert not (tmp_path / "plan").exists()


def test_a_span_of_fields_may_have_candidates_of_its_own(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "span.toml"
    path.write_text(recipe.read_text().replace("C7 = [3, 8]", '"C1..C3" = [3, 8]'))
    assert read_recipe(str(path))[0].search.fields == dict.fromkeys(("C1", "C2", "C3"), (3, 8))


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_dims_by_popularity_leave_an_interrupted_search_alone(
    recipe: Path, tmp_path: Path, resume: tuple[str, ...]
) -> None:
    out = tmp_path / "plan"
    out.mkdir()
    (out / "checkpoint.safetensors").write_bytes(b"of another search")
    done = quorem("search", recipe, "--out", out, "--set", 'search={method="mixed"}', *resume, *HERE, check=2)
    assert "an interrupted run" in done.stderr
    assert "Say --resume" not in done.stderr
    assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]
