"""The search loop: whose gradient moves what, in which turn; and that it is a function of recipe, rows and seed."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quorem.train.batches import shuffled
from quorem.train.checkpoint import NAME as CHECKPOINT
from quorem.train.features import Rows
from quorem.train.loop import Place
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe import Recipe
from quorem.train.recipe_file import read_recipe
from quorem.train.search.derive import wide_plan
from quorem.train.search.loop import learn_choice
from quorem.train.search.supernet import Supernet, make_supernet
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Adam

RECIPE = """
[data]
source = "synthetic"
[data.synthetic]
rows = { train = 600, valid = 300, test = 50 }
scale = 0.0003
dense = 1
bag = 2
[features]
I1 = { kind = "dense", transform = "standard" }
"C1..C3" = { kind = "categorical", encoding = "vocabulary", values = "integer" }
B1 = { kind = "bag", encoding = "vocabulary", values = "integer", max_length = 2 }
[embedding]
scheme = "qr"
spread = 0.3
[model]
name = "deepfm"
mlp = [6]
dropout = 0.1
[train]
batch = 200
l2 = 1e-3
[search]
candidates = [1, 2, 4]
fields = { C2 = [2, 6] }
warmup = 1
epochs = 2
every = 2
lr = 0.05
tau_rate = 0.1
"""
BATCHES = 3
DEVICE = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small recipe on made rows."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@functools.cache
def rows_of(path: Path) -> Prepared:
    """The rows of a recipe; no setting of these tests changes them."""
    return prepare(*read_recipe(str(path)))


def fresh(path: Path, *settings: str) -> tuple[Recipe, Supernet, Rows, Rows]:
    """A recipe, its supernet, and training and validation rows."""
    found, _ = read_recipe(str(path), settings)
    prepared = rows_of(path)
    net = make_supernet(found, prepared, wide_plan(found, prepared.schema, prepared.semantics), DEVICE)
    return found, net, prepared.train, prepared.valid


class Watch:
    """Keeps what a search tells, and its logits then."""

    def __init__(self, net: Supernet) -> None:
        self.net, self.facts, self.logits, self.epochs = net, list[dict[str, Any]](), list[Tensor](), list[Any]()

    def resumed(self, step: int) -> None:
        """Not in these tests."""
        raise AssertionError(step)

    def epoch(self, number: int, batches: int, done: int, *, warmup: bool) -> None:
        """Keep it."""
        self.epochs.append((number, batches, done, warmup))

    def record(self, facts: dict[str, Any], batches: int, rows: int) -> None:
        """Keep it."""
        assert (batches, rows) == (1, 200), "so few steps are all recorded"
        self.facts.append(facts)
        self.logits.append(self.net.choice.logits.detach().clone())


def learn(path: Path, out: Path, *settings: str) -> tuple[Supernet, Watch]:
    """Search; the supernet as it ends, and what was told."""
    found, net, train, valid = fresh(path, *settings)
    watch = Watch(net)
    learn_choice(net, train, valid, found, Place(out, "a search", resume=False), watch)
    return net, watch


def states(net: Supernet) -> dict[str, Tensor]:
    """Every tensor of model and choice."""
    return {**net.model.state_dict(), "logits": net.choice.logits.detach()}


@pytest.mark.parametrize("choice", ["soft", "gumbel"])
@pytest.mark.parametrize(
    "model",
    [
        'model={name="fm"}',
        'model={name="wide_deep",mlp=[5],dropout=0,batchnorm=true}',
        'model={name="deepfm",mlp=[5,4],dropout=0,batchnorm=true}',
        'model={name="deepfm",mlp=[5,4],dropout=0,batchnorm=false}',
    ],
)
def test_the_gradient_of_the_choice_is_a_finite_difference(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, model: str, choice: str
) -> None:
    """Of the validation loss and the penalty, in float64 throughout, batch statistics and noise included."""
    _, net, _, valid = fresh(recipe, model)
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # what the layers keep in full precision
    net.model.double()
    net.choice.double()
    net.model.train()
    with torch.no_grad():
        net.choice.logits.normal_(generator=torch.Generator().manual_seed(2))
        for each in net.model.parameters():
            each.add_(torch.randn(each.shape, generator=torch.Generator().manual_seed(3)) * 0.2)
    rows = dataclasses.replace(valid, numbers=valid.numbers.double(), labels=valid.labels.double())
    logits, taken = net.choice.logits, torch.arange(100)

    def aim() -> Tensor:
        weights = net.choice.probabilities() if choice == "soft" else net.choice.gumbel(0.7, 1, 4)
        return net.loss(rows, taken, weights, mixed=False)[0] + 0.3 * net.choice.share()

    (gradient,) = torch.autograd.grad(aim(), logits)
    differences, h = torch.zeros_like(logits), 1e-5
    with torch.no_grad():
        for place in range(logits.numel()):
            moved = []
            for step in (h, -2 * h):
                logits.view(-1)[place] += step
                moved.append(aim())
            logits.view(-1)[place] += h
            differences.view(-1)[place] = (moved[0] - moved[1]) / (2 * h)
    assert gradient.dtype == torch.float64
    assert (gradient[net.choice.allowed].abs() > 1e-6).all(), "every candidate matters"
    torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("update", "choice"), [("bilevel", "gumbel"), ("bilevel", "soft"), ("joint", "gumbel")])
def test_the_loop_takes_that_gradient_from_the_right_rows(
    recipe: Path, tmp_path: Path, update: str, choice: str
) -> None:
    """One step: Adam's first moment is a tenth of the gradient that it was given."""
    settings = [f"search.update={update}", f"search.choice={choice}", "search.warmup=0", "search.epochs=1"]
    settings += ["search.penalty=0.5", "train.batch=1000", "model.dropout=0"]
    found, net, train, valid = fresh(recipe, *settings)
    rows = train if update == "joint" else valid
    order = shuffled(len(rows), found.train.seed + (update == "bilevel"), 0)
    draw = 1 if update == "joint" else 0
    weights = net.choice.probabilities() if choice == "soft" else net.choice.gumbel(1.0, found.train.seed, draw)
    aim = net.loss(rows, order, weights, mixed=False)[0] + 0.5 * net.choice.share()
    (expected,) = torch.autograd.grad(aim, net.choice.logits)
    found, net, train, valid = fresh(recipe, *settings)
    watch = Plain()
    learn_choice(net, train, valid, found, Place(tmp_path, "a search", resume=False), watch)
    moment = load_file(tmp_path / CHECKPOINT)["learner.0.exp_avg"]
    torch.testing.assert_close(moment * 10, expected.float(), rtol=1e-4, atol=1e-7)
    assert moment.abs().max() > 1e-5
    assert watch.recorded == 1


class Plain:
    """Counts what a search tells."""

    recorded = 0

    def resumed(self, step: int) -> None:
        """Not in these tests."""

    def epoch(self, number: int, batches: int, done: int, *, warmup: bool) -> None:
        """Nothing."""

    def record(self, facts: dict[str, Any], batches: int, rows: int) -> None:
        """Count."""
        self.recorded += 1


def by_hand(path: Path, *settings: str) -> Supernet:
    """Algorithm 1 of the paper, with warm-up, noise and L2, written down once more."""
    found, net, train, valid = fresh(path, *settings)
    config, training, logits = found.search, found.train, net.choice.logits
    learner = Adam([logits], lr=config.lr)
    optimizer = Adam([each for each in net.model.parameters() if each.requires_grad], lr=training.lr, fused=True)
    net.model.train()
    net.model.penalise = True
    torch.manual_seed(training.seed)
    turns = iter([part for again in range(99) for part in shuffled(len(valid), training.seed + 1, again).split(200)])
    number = t = 0
    for epoch in range(config.warmup + config.epochs):
        for batch in shuffled(len(train), training.seed, epoch).split(200):
            tau = max(config.tau_min, 1 - config.tau_rate * t)

            def p(which: int, *, warm: bool = epoch < config.warmup, tau: float = tau, number: int = number) -> Tensor:
                if warm:
                    return net.choice.equal()
                if config.choice == "soft":
                    return net.choice.probabilities()
                return net.choice.gumbel(tau, training.seed, 2 * number + which)

            if config.update == "bilevel" and epoch >= config.warmup and t % config.every == 0:
                aim = net.loss(valid, next(turns), p(0), mixed=False)[0] + config.penalty * net.choice.share()
                logits.grad = torch.autograd.grad(aim, logits)[0]
                learner.step()
            weights = p(1) if config.update == "joint" else p(1).detach()
            loss, norm = net.loss(train, batch, weights, mixed=False)
            aim = loss + training.l2 * norm
            if config.update == "joint" and epoch >= config.warmup:
                aim = aim + config.penalty * net.choice.share()
            optimizer.zero_grad()
            logits.grad = None
            aim.backward()
            optimizer.step()
            if config.update == "joint" and epoch >= config.warmup:
                learner.step()
            number, t = number + 1, t + (epoch >= config.warmup)
    return net


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("search.penalty=0.2", "search.every=1"),
        ("search.choice=soft", "search.unify=pad", "search.base=7"),
        ("search.update=joint", "search.penalty=0.2", "search.lookup=separate"),
        ("search.normalise=false", "search.warmup=2", "search.every=5", "train.seed=4"),
    ],
)
def test_every_tensor_ends_where_algorithm_1_ends(recipe: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    expected = states(by_hand(recipe, *settings))
    found = states(learn(recipe, tmp_path, *settings)[0])
    assert {name for name in found if not torch.equal(found[name], expected[name])} == set()
    begun = states(fresh(recipe, *settings)[1])
    still = {name for name in found if torch.equal(found[name], begun[name])}
    assert still == ({"embedding.maps"} if "search.unify=pad" in settings else set()) | (
        {"embedding.mean", "embedding.covariance"} if "search.normalise=false" in settings else set()
    )
    checkpoint = load_file(tmp_path / CHECKPOINT)
    assert torch.equal(checkpoint["choice.logits"], found["logits"])


NOTHING = "1e-300"  # a rate that moves no float32


def test_a_validation_step_moves_no_weight_and_a_training_step_no_logit(recipe: Path, tmp_path: Path) -> None:
    begun = states(fresh(recipe)[1])
    net, _ = learn(recipe, tmp_path, f"train.lr={NOTHING}", "search.every=1")
    found, moments = states(net), ("mean", "covariance", "running_mean", "running_var", "num_batches_tracked")
    moved = {name for name in found if not torch.equal(found[name], begun[name])}
    assert {name for name in moved if not name.endswith(moments)} == {"logits"}
    net, _ = learn(recipe, tmp_path, f"search.lr={NOTHING}")
    found = states(net)
    moved = {name for name in found if not torch.equal(found[name], begun[name])}
    assert moved == set(found) - {"logits"}
    net, _ = learn(recipe, tmp_path, "search.update=joint")
    found = states(net)
    assert {name for name in found if not torch.equal(found[name], begun[name])} == set(found)


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ((), lambda t: t >= 0 and t % 2 == 0),
        (("search.every=4",), lambda t: t >= 0 and t % 4 == 0),
        (("search.update=joint",), lambda t: t >= 0),
        (("search.update=joint", "search.every=4"), lambda t: t >= 0),
    ],
)
def test_the_choice_learns_in_its_turns_and_never_in_the_warm_up(
    recipe: Path, tmp_path: Path, settings: tuple[str, ...], moves: Callable[[int], bool]
) -> None:
    _, watch = learn(recipe, tmp_path, *settings)
    assert watch.epochs == [(1, BATCHES, 0, True), (2, BATCHES, 0, False), (3, BATCHES, 0, False)]
    assert [facts["step"] for facts in watch.facts] == list(range(1, 3 * BATCHES + 1))
    before = torch.zeros_like(watch.logits[0])
    for number, (facts, logits) in enumerate(zip(watch.facts, watch.logits, strict=True)):
        t = number - BATCHES
        assert torch.equal(logits, before) != moves(t), number
        assert facts["tau"] == pytest.approx(max(0.01, 1 - 0.1 * max(t, 0)))
        assert (facts["valid_loss"] is None) == (t < 0 or "search.update=joint" in settings)
        before = logits


def test_a_search_is_a_function_of_its_seed(recipe: Path, tmp_path: Path) -> None:
    first, again, other = (learn(recipe, tmp_path, f"train.seed={seed}") for seed in (1, 1, 2))
    assert first[1].facts == again[1].facts
    assert all(torch.equal(*pair) for pair in zip(states(first[0]).values(), states(again[0]).values(), strict=True))
    assert first[1].facts != other[1].facts
    maps = [fresh(recipe, f"train.seed={seed}")[1].mixture.maps for seed in (1, 2)]
    assert not torch.equal(*maps), "drawn by it as well"
    assert not torch.equal(first[0].choice.logits, other[0].choice.logits)
