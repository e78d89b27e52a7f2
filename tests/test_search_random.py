"""Random search: what is drawn, that a trial is `quorem train --plan`, and that one stopped ends as one left alone."""

import contextlib
import functools
import io
import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import RECIPE, quorem
from google.protobuf import json_format
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, partitions, plan
from quorem.protos.errors import Malformed, QuoremError, RecipeError
from quorem.train.loop import Interrupted
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.search.config import SearchConfig
from quorem.train.search.derive import wide_plan, with_dims
from quorem.train.search.found import Found
from quorem.train.search.random_search import draw_trials, search_random

SEARCH = '[search]\nmethod = "random"\ncandidates = [2, 3, 5]\nfields = { C3 = [1, 7] }\ntrials = 3\n'


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recipe on made rows, with a random search."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE.replace("train = 4000", "train = 2000") + SEARCH)
    return path


@functools.cache
def rows_of(path: Path) -> Prepared:
    """The rows of a recipe; no setting of these tests changes them."""
    return prepare(*read_recipe(str(path)))


def search(path: Path, out: Path, *settings: str, resume: bool = False) -> Found:
    """Search as a recipe says."""
    recipe, base = read_recipe(str(path), settings)
    prepared = rows_of(path)
    wide = wide_plan(recipe, prepared.schema, prepared.semantics)
    out.mkdir(exist_ok=True)
    resolved, device = to_toml(recipe, base), torch.device("cpu")
    return search_random(recipe, resolved, prepared, wide, out, device, resume=resume, quiet=False)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> tuple[Found, bytes]:
    """What the search finds when it is left alone, and its trials.json."""
    found = search(recipe, recipe.parent / "undisturbed")
    return found, (recipe.parent / "undisturbed" / "trials.json").read_bytes()


def tables(counts: dict[str, int]) -> pb.Plan:
    """Full tables of so many ids."""
    fields = [
        plan.build_field(name, n, partitions.full(n), scheme=pb.FULL, combine=pb.ALONE, dim=32)
        for name, n in counts.items()
    ]
    return pb.Plan(fields=packing.pack(fields))


WIDE = tables({"a": 1000, "b": 50, "c": 400})


def test_a_trial_is_a_function_of_the_seed_and_its_number() -> None:
    few, many = SearchConfig(method="random", trials=2), SearchConfig(method="random", trials=40)
    assert draw_trials(few, WIDE, 1) == draw_trials(many, WIDE, 1)[:2]
    assert draw_trials(many, WIDE, 1) != draw_trials(many, WIDE, 2)
    assert [list(dims.values()) for dims in draw_trials(few, WIDE, 1)] == GOLDEN


GOLDEN = [[16, 8, 2], [8, 32, 2]]  # a, b, c of two trials of seed 1: no library's generator may move them


def test_every_candidate_of_a_field_is_alike_likely() -> None:
    config = SearchConfig(method="random", trials=1000, fields={"b": (1, 4)})
    drawn = draw_trials(config, WIDE, 3)
    for name, dims in {"a": (2, 8, 16, 24, 32), "b": (1, 4), "c": (2, 8, 16, 24, 32)}.items():
        counted = Counter(each[name] for each in drawn)
        assert set(counted) == set(dims)
        assert all(abs(count - 1000 / len(dims)) < 70 for count in counted.values())  # five deviations
    assert len({tuple(each.values()) for each in drawn}) == 50


def held(dims: dict[str, int]) -> int:
    return plan.parameters(with_dims(WIDE, dims, {}).fields)


def test_a_budget_holds_and_leaves_plans_alike_likely() -> None:
    free = draw_trials(SearchConfig(method="random", trials=1000), WIDE, 1)
    bound = draw_trials(SearchConfig(method="random", trials=1000, parameters=12_000), WIDE, 1)
    assert max(map(held, bound)) <= 12_000 < max(map(held, free))
    assert [dims for dims, other in zip(free, bound, strict=True) if held(dims) <= 12_000 and dims != other] == []
    fitting = {tuple(dims.values()) for dims in free if held(dims) <= 12_000}
    counted = Counter(tuple(dims.values()) for dims in bound)
    assert set(counted) == fitting
    assert max(counted.values()) < 3 * min(counted.values())


def test_a_budget_that_no_plan_fits_is_refused_with_the_smallest_size() -> None:
    smallest = 2 * (1000 + 50 + 400)
    assert draw_trials(SearchConfig(method="random", trials=1, parameters=smallest), WIDE, 1) == [
        dict.fromkeys(("a", "b", "c"), 2)
    ]
    with pytest.raises(RecipeError) as refused:
        draw_trials(SearchConfig(method="random", parameters=smallest - 1), WIDE, 1)
    assert "2,900" in refused.value.rule
    many = tables({f"f{number}": 100 for number in range(12)})  # of 5^12 plans one fits
    with pytest.raises(RecipeError) as refused:
        draw_trials(SearchConfig(method="random", parameters=2 * 12 * 100), many, 1)
    assert "2,400" in refused.value.found


def test_the_best_trial_wins_and_is_what_training_its_plan_gives(
    recipe: Path, undisturbed: tuple[Found, bytes], tmp_path: Path
) -> None:
    found, written = undisturbed
    trials = json.loads(written)["trials"]
    assert len(trials) == 3
    best = max(trials, key=lambda trial: trial["valid"]["auc"])
    assert (found.dims, found.valid_metrics, found.test_metrics) == (best["dims"], best["valid"], best["test"])
    assert [path.name for path in (recipe.parent / "undisturbed").iterdir()] == ["trials.json"]
    config, _ = read_recipe(str(recipe))
    prepared = rows_of(recipe)
    wide = wide_plan(config, prepared.schema, prepared.semantics)
    for number, trial in enumerate(trials[:2]):
        made = with_dims(wide, trial["dims"], prepared.semantics)
        (tmp_path / "plan.json").write_text(json_format.MessageToJson(made, preserving_proto_field_name=True))
        run = ("--out", tmp_path / f"run-{number}", "--plan", tmp_path / "plan.json", "--device", "cpu")
        told = json.loads(quorem("train", recipe, *run, "--quiet", "--json").stdout)
        assert (told["valid"], told["test"]) == (trial["valid"], trial["test"])


class Killed(BaseException):
    """As good as SIGKILL for what is on the disk."""


class Stopper(io.StringIO):
    """A terminal's place that presses Ctrl-C, or worse, when it reads a text for the n-th time."""

    def __init__(self, text: str, times: int, stop: Callable[[], None]) -> None:
        super().__init__()
        self.text, self.times, self.stop = text, times, stop

    def write(self, text: str) -> int:
        self.times -= self.text in text
        if self.times == 0:
            self.times = -1
            self.stop()
        return super().write(text)


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    ("text", "times", "stop", "raised"),
    [
        ("epoch   1", 1, lambda: signal.raise_signal(signal.SIGINT), Interrupted),
        ("epoch   2", 2, lambda: signal.raise_signal(signal.SIGTERM), Interrupted),
        ("epoch   2", 3, kill, Killed),
        ("trial 2 of 3", 1, kill, Killed),
        ("epoch   3", 2, kill, Killed),
    ],
)
def test_stopped_and_resumed_equals_undisturbed(
    recipe: Path,
    undisturbed: tuple[Found, bytes],
    tmp_path: Path,
    text: str,
    times: int,
    stop: Callable[[], None],
    raised: type[BaseException],
) -> None:
    out, err = tmp_path / "stopped", Stopper(text, times, stop)
    with contextlib.redirect_stderr(err), pytest.raises(raised):
        search(recipe, out)
    before = json.loads((out / "trials.json").read_text())["trials"]
    assert len(before) < 3
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        assert search(recipe, out, resume=True) == undisturbed[0]
    assert "trial 1 of 3" not in told.getvalue() or not before
    assert (out / "trials.json").read_bytes() == undisturbed[1]
    assert [path.name for path in out.iterdir()] == ["trials.json"]
    assert search(recipe, out, resume=True) == undisturbed[0]  # nothing is left to do


def test_a_search_goes_on_only_with_what_it_was_started_with(
    recipe: Path, undisturbed: tuple[Found, bytes], tmp_path: Path
) -> None:
    (tmp_path / "trials.json").write_bytes(undisturbed[1])
    with pytest.raises(RecipeError, match="another recipe, seed or data"):
        search(recipe, tmp_path, "train.seed=2", resume=True)
    assert (tmp_path / "trials.json").read_bytes() == undisturbed[1]
    for broken in (undisturbed[1][:-20], undisturbed[1].replace(b'"identity"', b'"identify"'), b"\xff"):
        (tmp_path / "trials.json").write_bytes(broken)
        with pytest.raises(Malformed):
            search(recipe, tmp_path, resume=True)


def test_a_plan_that_is_drawn_again_is_not_trained_again(tmp_path: Path) -> None:
    path, rows = tmp_path / "one.toml", [f"{number % 7},{number % 3 % 2}" for number in range(600)]
    (tmp_path / "one.csv").write_text("\n".join(["C1,label", *rows]))
    path.write_text(
        '[data]\nsource = "csv"\npath = "one.csv"\nsplit = { by = "share", valid = 0.4, test = 0 }\n'
        '[features]\nC1 = { kind = "categorical", encoding = "vocabulary", values = "integer" }\n'
        '[model]\nname = "dnn"\nmlp = [4]\n[train]\nepochs = 1\n'
        '[search]\nmethod = "random"\ncandidates = [1, 2]\ntrials = 6\n'
    )
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        found = search(path, tmp_path / "out")
    trials = json.loads((tmp_path / "out" / "trials.json").read_text())["trials"]
    assert len(trials) == 6
    distinct = {json.dumps(trial, sort_keys=True) for trial in trials}
    assert told.getvalue().count("epoch   1") == len(distinct) == 2
    assert (found.test_metrics, [trial["test"] for trial in trials]) == ({}, [{}] * 6)


def test_a_trial_that_diverges_is_named(recipe: Path, tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()), pytest.raises(QuoremError) as refused:
        search(recipe, tmp_path / "out", "train.lr=1e30")
    assert refused.value.where.startswith("trial-1, epoch 1")
