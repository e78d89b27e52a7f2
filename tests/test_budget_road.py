"""`quorem search --budget` as a user meets it: the same again, gone on with, trained, exported, refused."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from budgeted import BUDGET, BUDGETS, HERE, SAME, SEARCH, SMALL, differing, files_of, stop_at
from commands import quorem
from quorem.protos import manifest as manifests
from quorem.protos import plan, plan_directory, tables_bin
from quorem.train.budget.learning import Learning

FEATURES = {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "B1"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows, with vocabularies, hashes, a bag, and a section for AutoDim."""
    path = tmp_path_factory.mktemp("budget") / "small.toml"
    path.write_text(SMALL + SEARCH)
    return path


@pytest.fixture(scope="module")
def found(recipe: Path) -> tuple[Path, str, str]:
    """A finished search, and what it said on stdout and stderr."""
    out = recipe.parent / "plan"
    done = quorem("search", recipe, "--budget", BUDGET, "--out", out, *HERE)
    return out, done.stdout, done.stderr


@pytest.fixture(scope="module")
def several(recipe: Path) -> Path:
    """A finished search of two budgets."""
    quorem("search", recipe, "--pareto", BUDGETS, "--out", recipe.parent / "plans", "--quiet", *HERE)
    return recipe.parent / "plans"


def test_a_plan_directory_holds_what_it_promises(found: tuple[Path, str, str]) -> None:
    """A section [search] of another method stands aside: what both methods know is taken, the rest left out."""
    out, stdout, stderr = found
    assert files_of(out) == set(SAME), "and no checkpoint"
    made, told = plan_directory.read_plan(out)
    assert (told.method, told.model, told.seed, told.budget.asked, told.budget.bytes) == (
        "budget",
        "deepfm",
        1,
        BUDGET,
        14_000,
    )
    assert told.budget.taken == sum(tables_bin.plan_bytes(told.schema, made).values()) <= 14_000
    assert told.budget.smallest <= told.budget.taken < told.budget.full
    assert {choice.feature for choice in told.choices} == FEATURES
    for field, choice in zip(made.fields, told.choices, strict=True):
        assert list(choice.candidates) == ([3, 8] if choice.feature == "C7" else [1, 2, 4])
        own = [(list(each.rows), each.dim, each.bits) for each in choice.options]
        chosen = ([table.rows for table in field.tables], field.dim, field.tables[0].bits)
        assert choice.options[own.index(chosen)].loss == 0, "losses are told beside what was chosen"
        sizes = [each.bytes for each in choice.options]
        assert sizes == sorted(sizes)
        assert len(own) == len({str(each) for each in own})
    room = 14_000 - tables_bin.plan_bytes(told.schema, made)["vocabularies"]
    held = [json.loads(line)["bytes"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert 0.9 * room < held[4] < room, "the choice is asked for what vocabularies leave of the budget"
    text = (out / "recipe.toml").read_text()
    assert 'method = "budget"' in text
    assert "epochs = 3" in text
    assert not any(key in text for key in ("lookup", "penalty", 'choice = "soft"'))
    epochs = [line for line in stderr.splitlines() if line.startswith(("warm-up", "epoch"))]
    assert len(epochs) == 4
    assert stderr.count("tried ") == 4
    assert f"{told.budget.taken:,} of 14,000 bytes" in stdout
    assert f"quorem inspect {out}" in stdout


def test_the_plan_takes_of_the_disk_what_it_says(found: tuple[Path, str, str], tmp_path: Path) -> None:
    """By the command that it names, with vocabularies, a bag and first-order tables."""
    out, stdout, _ = found
    words = shlex.split(stdout.splitlines()[-1])[1:]
    settings = ("--set", "train.epochs=1", "--quiet", *HERE)
    quorem(*(str(tmp_path / "run") if word == "RUN" else word for word in words), *settings)
    quorem("export", tmp_path / "run", "--to", tmp_path / "ctr")
    taken = plan_directory.read_plan(out)[1].budget.taken
    bundle = tmp_path / "ctr" / "1"
    assert (bundle / "tables.bin").stat().st_size == taken
    parts = {part.name for part in manifests.read(bundle).export.parts}
    assert parts >= {"tables", "first_order", "vocabularies"}


def test_so_many_times_fewer_are_counted_from_full_tables(recipe: Path, tmp_path: Path) -> None:
    """Exported from a run of full ones."""
    settings = ("--quiet", *HERE)
    arguments = ("--set", "search.epochs=1", "--set", "search.proposals=1", "--json")
    done = quorem("search", recipe, "--budget", "1.5x", "--out", tmp_path / "plan", *arguments, *settings)
    (told,) = json.loads(done.stdout)["plans"]
    full = ("--set", "embedding.scheme=full", "--set", "train.epochs=1")
    quorem("train", recipe, "--out", tmp_path / "run", *full, *settings)
    quorem("export", tmp_path / "run", "--to", tmp_path / "ctr")
    size = (tmp_path / "ctr" / "1" / "tables.bin").stat().st_size
    assert (told["asked"], told["full_bytes"], told["budget"]) == ("1.5x", size, int(size / 1.5))
    assert told["bytes"] <= told["budget"]


def test_the_same_seed_gives_the_same_bytes_in_another_process(
    recipe: Path, found: tuple[Path, str, str], tmp_path: Path
) -> None:
    command = ["search", str(recipe), "--budget", BUDGET, "--quiet", *HERE]
    subprocess.run([sys.executable, "-m", "quorem", *command, "--out", str(tmp_path / "again")], check=True)
    assert differing(found[0], tmp_path / "again") == []
    quorem(*command, "--out", tmp_path / "other", "--seed", "2")
    assert "search.json" in differing(found[0], tmp_path / "other")


def test_its_own_recipe_gives_the_same_bytes(found: tuple[Path, str, str], tmp_path: Path) -> None:
    quorem("search", found[0] / "recipe.toml", "--out", tmp_path / "again", "--quiet", *HERE)
    assert differing(found[0], tmp_path / "again") == []


def test_several_budgets_have_a_directory_each(recipe: Path, several: Path, tmp_path: Path) -> None:
    names = {"20KB", "14KB"}
    plans = {f"{name}/{file}" for name in names for file in ("plan.json", "search.json", "map.svg")} | {"pareto.json"}
    assert files_of(several) == plans | {"budget-1.json", "budget-2.json", "history.jsonl", "pareto.svg", "recipe.toml"}
    taken = list[int]()
    for name in ("20KB", "14KB"):
        made, told = plan_directory.read_plan(several / name)
        assert (told.budget.asked, told.budget.bytes) == (name, 1000 * int(name[:2]))
        taken.append(sum(tables_bin.plan_bytes(told.schema, made).values()))
        assert taken[-1] == told.budget.taken <= told.budget.bytes
    assert taken[0] > taken[1]
    before = {name: (several / name).read_bytes() for name in plans}
    done = quorem("search", recipe, "--pareto", BUDGETS, "--out", several, "--quiet", *HERE, check=2)
    assert "what is finished is never written over" in done.stderr
    assert {name: (several / name).read_bytes() for name in plans} == before
    both = ("--budget", "1x", "--pareto", "1x,2x")
    with pytest.raises(SystemExit):
        quorem("search", recipe, *both, "--out", tmp_path / "none")


def test_the_smallest_budget_is_told_and_is_exactly_enough(recipe: Path, tmp_path: Path) -> None:
    settings = ("--set", "search.epochs=1", "--quiet", "--json", *HERE)
    done = quorem("search", recipe, "--budget", "1KB", "--out", tmp_path / "plan", *settings, check=2)
    error = json.loads(done.stderr)
    assert (error["error"], error["where"], done.stdout) == ("OverBudget", "search.budget", "")
    least = int(error["remedy"].split()[2])
    assert error["found"] == f"1,000 bytes, where the smallest plan takes {least:,}"
    plain = quorem("search", recipe, "--budget", f"{least - 1}", "--out", tmp_path / "plan", *HERE, check=2).stderr
    assert len(plain.splitlines()) == 1
    assert f"{least - 1:,} bytes, where the smallest plan takes {least:,}" in plain
    quorem("search", recipe, "--pareto", f"1MB,{least - 1}", "--out", tmp_path / "plan", *settings, check=2)
    assert not (tmp_path / "plan").exists()
    quorem("search", recipe, "--budget", str(least), "--out", tmp_path / "plan", *settings)
    told = plan_directory.read_plan(tmp_path / "plan")[1].budget
    assert told.taken == told.bytes == told.smallest == least


@pytest.mark.parametrize(
    ("setting", "where", "told"),
    [
        ("search.budget=much", "key search.budget", "a budget is bytes"),
        ("search.budget=10x,", "key search.budget", "a budget is bytes"),
        ("search.budget=7", "key search.budget", "string"),
        ("search.bits=[4,8]", "key search.bits", "falling, each once"),
        ("search.bits=[5]", "key search.bits", "bits are some of 0"),
        ("search.bits=[]", "key search.bits", "bits are some of 0"),
        ("search.price=0", "key search.price", "greater than 0"),
        ("search.proposals=0", "key search.proposals", "greater than or equal to 1"),
        ("search.alpha=0.3", "key search", 'alpha means nothing with method = "budget"'),
        ("embedding.combine=concat", "[embedding], field", "mult or add"),
        ("data.synthetic.rows.valid=1", "validation split", "one class"),
    ],
)
def test_a_wrong_search_is_refused(recipe: Path, tmp_path: Path, setting: str, where: str, told: str) -> None:
    arguments = ("--out", tmp_path / "plan", "--json", "--budget", BUDGET, "--set", setting, *HERE)
    done = quorem("search", recipe, *arguments, check=2)
    error = json.loads(done.stderr)
    assert list(error) == ["error", "rule", "found", "where", "remedy"]
    assert where in error["where"]
    assert told in " ".join(error.values())
    assert not (tmp_path / "plan").exists()


def test_a_budget_is_not_another_methods(recipe: Path, tmp_path: Path) -> None:
    arguments = ("search", recipe, "--out", tmp_path / "plan", *HERE)
    no_budget = quorem(*arguments, "--set", 'search={ method = "budget" }', check=2).stderr
    assert "needs `budget`" in no_budget
    assert "means nothing" in quorem(*arguments, "--set", "search.proposals=3", check=2).stderr
    assert not (tmp_path / "plan").exists()


PLANTED = """
[data]
source = "csv"
train = "train.csv"
valid = "valid.csv"
[features]
noise = { kind = "categorical", encoding = "id", size = 200 }
item = { kind = "categorical", encoding = "id", size = 200 }
user = { kind = "categorical", encoding = "id", size = 200 }
[embedding]
dim = 8
first_order = "none"
[model]
name = "fm"
unify = "pad"
[train]
batch = 200
lr = 0.02
[search]
method = "budget"
budget = "1000"
candidates = [1, 2, 4, 8]
epochs = 4
every = 1
lr = 0.03
warmup = 2
"""


def test_bytes_go_to_the_fields_that_matter(tmp_path: Path) -> None:
    """Two that make the label together, by vectors of two numbers, and one of as many ids that has no part in it."""
    (tmp_path / "planted.toml").write_text(PLANTED)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 200, 2))
    for name, count in (("train", 12_000), ("valid", 4000)):
        ids = rng.integers(0, 200, (count, 3))
        logits = 3 * (vectors[0, ids[:, 1]] * vectors[1, ids[:, 2]]).sum(1)
        labels = rng.random(count) < 1 / (1 + np.exp(-logits))
        rows = np.column_stack([ids, labels.astype(int)])
        np.savetxt(tmp_path / f"{name}.csv", rows, "%d", ",", header="noise,item,user,label", comments="")
    quorem("search", tmp_path / "planted.toml", "--out", tmp_path / "plan", "--quiet", *HERE)
    made, told = plan_directory.read_plan(tmp_path / "plan")
    taken = {field.feature: plan.table_bytes(field) for field in made.fields}
    assert told.valid_metrics["auc"] > 0.88
    assert min(taken["item"], taken["user"]) > 3 * taken["noise"], taken


@pytest.fixture(scope="module")
def teacher(recipe: Path) -> Path:
    """A run with full tables."""
    out = recipe.parent / "full"
    quorem("train", recipe, "--out", out, "--set", "embedding.scheme=full", "--set", "train.epochs=1", "--quiet", *HERE)
    return out


def test_a_teacher_is_learnt_from_and_named_again(
    recipe: Path, found: tuple[Path, str, str], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = ("--budget", BUDGET, "--teacher", teacher)
    done = quorem("search", recipe, "--out", tmp_path / "whole", *taught, *HERE)
    assert "search.json" in differing(found[0], tmp_path / "whole")
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[words.index("--teacher") + 1] == str(teacher)
    out = tmp_path / "plan"
    free = stop_at(monkeypatch, Learning, "train", 6)
    told = quorem("search", recipe, "--out", out, "--quiet", *taught, *HERE, check=130).stderr
    free()
    without = ("--out", out, "--budget", BUDGET, "--resume", *HERE)
    assert "another recipe" in quorem("search", recipe, *without, check=2).stderr
    quorem(*shlex.split(told.splitlines()[-1])[1:], "--quiet")
    assert differing(tmp_path / "whole", out, SAME[:2]) == []


def test_a_wrong_teacher_is_refused_before_anything_is_written(recipe: Path, teacher: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(recipe.read_text().replace('"C1..C6"', '"C1..C5"'))
    arguments = ("--out", tmp_path / "plan", "--teacher", teacher, *HERE)
    told = quorem("search", other, *arguments, "--budget", "2x", check=2).stderr
    assert "a teacher has the features of its student" in told
    missing = ("--out", tmp_path / "plan", "--teacher", tmp_path / "none", "--budget", BUDGET, *HERE)
    assert "manifest.json" in quorem("search", recipe, *missing, check=2).stderr
    assert "Say --budget" in quorem("search", recipe, *arguments, check=2).stderr, "AutoDim has none"
    assert not (tmp_path / "plan").exists()
