"""Several budgets in one search: what pareto.json tells is verified, and a search ends with it, killed or not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import searched
from commands import quorem
from quorem.protos import manifest, pareto, plan_directory
from quorem.protos.errors import (
    ArtifactError,
    Malformed,
    MissingFile,
    NewerFormat,
    PlanError,
    QuoremError,
    UnsafePath,
    WrongDigest,
)

NAMES = ["2x", "10x"]
RECIPE = """
[data]
source = "synthetic"
[data.synthetic]
rows = { train = 900, valid = 300, test = 100 }
scale = 0.0005
dense = 1
[features]
I1 = { kind = "dense", transform = "standard" }
"C1..C4" = { kind = "categorical", encoding = "vocabulary", values = "integer" }
"C5..C6" = { kind = "categorical", encoding = "hash", values = "integer", buckets = 700 }
[embedding]
dim = 8
[model]
name = "deepfm"
mlp = [8]
[train]
batch = 300
lr = 0.01
[search]
candidates = [2, 4]
bits = [8, 2]
epochs = 2
every = 1
lr = 0.1
proposals = 2
proposal_epochs = 1
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    out = tmp_path / "plans"
    searched.write_budget(out / "2x", dict.fromkeys(searched.DIMS, 8), asked="2x")
    searched.write_budget(out / "10x")
    pareto.write(out, NAMES)
    return out


# ---------------------------------------------------------------- what is written is read


def test_what_is_written_is_read(directory: Path) -> None:
    found = pareto.read(directory)
    assert [path for path, _, _ in found] == [directory / name for name in NAMES]
    for path, made, search in found:
        assert (made, search) == plan_directory.read_plan(path)
    told = json.loads((directory / pareto.NAME).read_text())
    assert [each["budget"]["asked"] for each in told["plans"]] == NAMES
    assert told["plans"][1]["valid_metrics"] == {"auc": 0.75, "logloss": 0.5}
    first = (directory / pareto.NAME).read_bytes()
    pareto.write(directory, NAMES)
    assert (directory / pareto.NAME).read_bytes() == first


def test_it_is_inspected_as_its_plans_side_by_side(directory: Path) -> None:
    alone = json.loads(quorem("inspect", *(directory / name for name in NAMES), "--json").stdout)
    for path in (directory, directory / pareto.NAME):
        facts = json.loads(quorem("inspect", path, "--json").stdout)
        assert facts == {**alone, "kind": "pareto", "path": str(directory)}
    lines = quorem("inspect", directory).stdout.splitlines()
    assert lines[0] == f"2 plans of 7 fields, of one search: {directory}"
    assert ["2", str(directory / "10x"), "deepfm", "1", "10x", "9,536", "9,552", "10.0x", "0.75000", "0.50000"] in [
        line.split() for line in lines
    ]
    refused = json.loads(quorem("inspect", directory, directory / "10x", "--json", check=2).stderr)
    assert "one at a time" in refused["rule"]


def test_it_is_no_plan_to_train(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.partition("[search]")[0])
    given = ("--plan", directory, "--out", tmp_path / "run", "--json", "--device", "cpu")
    refused = json.loads(quorem("train", tmp_path / "recipe.toml", *given, check=2).stderr)
    assert (refused["rule"], refused["where"]) == ("--plan names one plan", str(directory))
    assert f"quorem inspect {directory}" in refused["remedy"]
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- hostile directories


def tell(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Edit pareto.json."""

    def edit(directory: Path) -> None:
        tree = json.loads((directory / pareto.NAME).read_text())
        change(tree)
        (directory / pareto.NAME).write_text(json.dumps(tree))

    return edit


def name(given: str) -> Callable[[Path], object]:
    return tell(lambda tree: tree["plans"][0].update(directory=given))


def link(directory: Path) -> None:
    (directory / "2x").rename(directory / "elsewhere")
    (directory / "2x").symlink_to(directory / "elsewhere")


def unbudgeted(directory: Path) -> None:
    """A plan of another method, and a pareto.json that agrees with it."""
    searched.write(directory / "10x")
    digest = manifest.sha256_of(directory / "10x" / plan_directory.SEARCH)
    tell(lambda tree: tree["plans"][1].update(search_sha256=digest, budget={}))(directory)


HOSTILE: dict[str, tuple[Callable[[Path], object], type[QuoremError], str]] = {
    "none": (lambda each: (each / pareto.NAME).unlink(), MissingFile, pareto.NAME),
    "empty": (lambda each: (each / pareto.NAME).write_bytes(b""), Malformed, "JSON form of quorem.v1.Pareto"),
    "an unknown key": (tell(lambda tree: tree.update(dimension=3)), Malformed, "dimension"),
    "no version": (tell(lambda tree: tree.pop("format_version")), Malformed, "format_version"),
    "a newer format": (tell(lambda tree: tree.update(format_version=2)), NewerFormat, "format 2"),
    "no plans": (tell(lambda tree: tree.pop("plans")), Malformed, "several budgets"),
    "one plan": (tell(lambda tree: tree["plans"].pop()), Malformed, "several budgets"),
    "a plan twice": (name("10x"), Malformed, "several budgets"),
    "another order": (tell(lambda tree: tree["plans"].reverse()), Malformed, "another order"),
    "a path that leaves": (name("../plans/2x"), UnsafePath, "../plans/2x"),
    "its parent": (name(".."), UnsafePath, "'..'"),
    "an absolute path": (name("/etc"), UnsafePath, "/etc"),
    "a name that no disk has": (name("x" * 5000), UnsafePath, "xxx"),
    "no name": (name(""), UnsafePath, "''"),
    "a symbolic link": (link, UnsafePath, "symbolic"),
    "no such plan": (name("3x"), MissingFile, "3x"),
    "another plan": (lambda each: searched.write_budget(each / "10x", asked="11x"), WrongDigest, "10x"),
    "a budget that is not its own": (
        tell(lambda tree: tree["plans"][1]["budget"].update(taken="9500")),
        Malformed,
        "'10x'",
    ),
    "metrics that are not its own": (
        tell(lambda tree: tree["plans"][1]["valid_metrics"].update(auc=0.99)),
        Malformed,
        "other metrics",
    ),
    "a plan without a budget": (unbudgeted, Malformed, "another budget"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_directory_is_refused_by_name(case: str, directory: Path) -> None:
    change, error, told = HOSTILE[case]
    change(directory)
    with pytest.raises(QuoremError) as refused:
        pareto.read(directory)
    assert type(refused.value) is error
    assert told in str(refused.value)
    assert str(directory) in refused.value.where
    assert len(str(refused.value)) < 1000


def test_a_metric_may_be_no_number(directory: Path) -> None:
    made, search = plan_directory.read_plan(directory / "10x")
    search.valid_metrics["auc"] = float("nan")
    plan_directory.write_plan(directory / "10x", made, search)
    pareto.write(directory, NAMES)
    assert len(pareto.read(directory)) == 2
    facts = json.loads(quorem("inspect", directory, "--json").stdout, parse_constant=pytest.fail)
    assert facts["plans"][1]["valid"]["auc"] is None


def test_any_byte_may_be_another(directory: Path) -> None:
    data, refused = (directory / pareto.NAME).read_bytes(), 0
    for place in range(0, len(data), 7):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 7
        (directory / pareto.NAME).write_bytes(bytes(broken))
        try:
            pareto.read(directory)
        except (ArtifactError, PlanError):
            refused += 1
    assert refused > len(data) / 7 * 0.6


# ---------------------------------------------------------------- a search


def test_a_search_for_several_budgets_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    out = tmp_path / "plans"
    command = ("search", tmp_path / "recipe.toml", "--pareto", "10x,6x")
    command = (*command, "--out", out, "--device", "cpu", "--quiet")

    def stop(*_: object) -> None:
        raise MissingFile("killed before the last file")

    with monkeypatch.context() as patch:
        patch.setattr(pareto, "write", stop)
        quorem(*command, check=2)
    assert not (out / pareto.NAME).exists()
    assert (out / "checkpoint.safetensors").exists()
    before = {path: path.read_bytes() for room in ("6x", "10x") for path in (out / room).iterdir()}
    told = json.loads(quorem(*command, "--resume", "--json").stdout)
    assert {path: path.read_bytes() for path in before} == before, "nothing was searched again"
    assert [each["plan"] for each in told["plans"]] == [str(out / "6x"), str(out / "10x")]
    assert not (out / "checkpoint.safetensors").exists()
    assert {path.name for path in (out / "6x").iterdir()} == {"plan.json", "search.json", "map.svg"}
    assert {pareto.NAME, "pareto.svg"} <= {path.name for path in out.iterdir()}
    facts = json.loads(quorem("inspect", out, "--json").stdout)
    assert [each["budget"]["bytes"] for each in facts["plans"]] == [each["bytes"] for each in told["plans"]]
    for resume in ((), ("--resume",)):
        refused = json.loads(quorem(*command, *resume, "--json", check=2).stderr)
        assert (refused["found"], refused["where"]) == (pareto.NAME, str(out))
    field = json.loads(quorem("inspect", out / "10x", "--json").stdout)["fields"][4]
    assert field["feature"] == "C5"
    assert field["budget"]["options"][field["budget"]["chosen"]]["loss"] == 0
    assert field["budget"]["next"]["bytes"] > field["budget"]["bytes"], "small as it is, C5 might have had more"
