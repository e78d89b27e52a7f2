"""The choice and its schedule: probabilities over a field's own candidates, Gumbel's noise, temperature, turns."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, plan
from quorem.train.search.budget import supernet_parameters
from quorem.train.search.choice import Choice
from quorem.train.search.config import SearchConfig
from quorem.train.search.derive import with_dims
from quorem.train.search.schedule import steps
from runs import categorical, field

WIDE = pb.Plan(
    fields=packing.pack(
        [
            field(categorical("alone", "hash", 50), "full", pb.ALONE, 8),
            field(categorical("mult", "hash", 400), "qr", pb.MULT, 9),
            field(categorical("concat", "hash", 900), "mixed_radix", pb.CONCAT, 8),
            field(categorical("feature", "hash", 300), "qr", pb.FEATURE, 8),
        ]
    )
)
CONFIG = SearchConfig(candidates=(3, 5, 8), fields={"mult": (1, 9), "alone": (2, 3, 5, 8)})
NAMES = [each.feature for each in WIDE.fields]
COLUMNS = [1, 2, 3, 5, 8, 9]


def drawn(seed: int = 0, spread: float = 1.5) -> Choice:
    """A choice of random logits."""
    choice = Choice(CONFIG, WIDE.fields)
    with torch.no_grad():
        choice.logits.normal_(0, spread, generator=torch.Generator().manual_seed(seed))
    return choice


def own(name: str) -> list[int]:
    """The columns of a field's candidates."""
    return [COLUMNS.index(dim) for dim in CONFIG.candidates_of(name)]


def others(name: str) -> list[int]:
    """The columns of dims that are no candidate of it."""
    return [column for column in range(len(COLUMNS)) if column not in own(name)]


searches = st.builds(
    SearchConfig,
    warmup=st.integers(0, 3),
    epochs=st.integers(1, 4),
    every=st.integers(1, 7),
    update=st.sampled_from(["bilevel", "joint"]),
    tau_min=st.sampled_from([0.01, 0.3, 1.0]),
    tau_rate=st.sampled_from([0.0, 5e-5, 0.1, 3.0]),
)


@given(searches, st.integers(1, 9), st.data())
def test_the_temperature_falls_and_turns_are_taken_as_the_formula_says(
    config: SearchConfig, batches: int, data: st.DataObject
) -> None:
    expected, t = list[tuple[int, int, float | None, bool]](), 0
    for epoch, batch in itertools.product(range(config.warmup + config.epochs), range(batches)):
        if epoch < config.warmup:
            expected.append((epoch, batch, None, False))
            continue
        turn = config.update == "bilevel" and t % config.every == 0
        expected.append((epoch, batch, max(config.tau_min, 1 - config.tau_rate * t), turn))
        t += 1
    whole = list(steps(config, batches))
    assert [(each.epoch, each.batch, each.tau, each.chooses) for each in whole] == expected
    assert [each.number for each in whole] == list(range(len(expected)))
    start = data.draw(st.integers(0, len(whole)))
    assert list(steps(config, batches, start)) == whole[start:], "what follows is a function of the step alone"


def test_a_fresh_choice_is_equal_and_a_learnt_one_sums_to_one_over_its_own_candidates() -> None:
    fresh, learnt = Choice(CONFIG, WIDE.fields), drawn()
    assert fresh.candidates == learnt.candidates == COLUMNS
    for weights in (fresh.probabilities(), fresh.equal(), learnt.equal()):
        for row, name in enumerate(NAMES):
            assert weights[row, own(name)].tolist() == pytest.approx([1 / len(own(name))] * len(own(name)))
    for weights in (learnt.probabilities(), learnt.equal(), learnt.gumbel(1.0, 1, 2), learnt.gumbel(0.01, 1, 2)):
        assert weights.sum(1).tolist() == pytest.approx([1.0] * len(NAMES), abs=1e-6)
        assert all((weights[row, others(name)] == 0).all() for row, name in enumerate(NAMES)), "exactly"
    told = learnt.told()
    assert list(told) == NAMES
    for row, name in enumerate(NAMES):
        weights = learnt.logits[row, own(name)].double().exp()
        assert told[name] == pytest.approx((weights / weights.sum()).tolist(), rel=1e-5)


def test_no_dim_that_is_not_a_candidate_ever_learns() -> None:
    for weights in (lambda choice: choice.probabilities(), lambda choice: choice.gumbel(0.5, 1, 2)):
        choice = drawn()
        (weights(choice) * torch.arange(1.0, 1.0 + len(COLUMNS))).square().sum().backward()
        assert choice.logits.grad is not None
        for row, name in enumerate(NAMES):
            assert (choice.logits.grad[row, others(name)] == 0).all()
            assert (choice.logits.grad[row, own(name)] != 0).all()


def test_noise_is_a_function_of_seed_and_draw_alone() -> None:
    choice = drawn()
    first = choice.gumbel(0.5, 3, 17)
    torch.manual_seed(99)
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(choice.gumbel(0.5, 3, 17), first)
    assert torch.equal(torch.get_rng_state(), state), "and the global generator is left alone"
    assert not torch.equal(choice.gumbel(0.5, 4, 17), first)
    assert not torch.equal(choice.gumbel(0.5, 3, 18), first)
    choice.gumbel(0.5, 2**63 - 1, 2**40)  # seeds are wrapped, not refused


def test_temperature_only_hardens_the_same_noisy_logits() -> None:
    choice, name = drawn(), "concat"
    row = NAMES.index(name)
    logs = {tau: tau * choice.gumbel(tau, 1, 5)[row, own(name)].double().log() for tau in (1.0, 0.5, 0.3)}
    for other in (0.5, 0.3):  # tau log p is log alpha + g, but for a constant
        assert torch.allclose(logs[1.0].diff(), logs[other].diff(), atol=1e-4)


DRAWS = 4000


@pytest.mark.parametrize("tau", [1.0, 0.01])
def test_the_largest_noisy_logit_is_as_frequent_as_the_choice_is_probable(tau: float) -> None:
    """Gumbel's trick, by chi-square; at a low temperature that one has all the weight, at a high one it is shared."""
    choice = drawn(seed=4, spread=1.0)
    with torch.no_grad():
        found = torch.stack([choice.gumbel(tau, 7, draw) for draw in range(DRAWS)])  # (draws, F, N)
        expected = DRAWS * choice.probabilities().double()
    best = found.argmax(2)
    for row, name in enumerate(NAMES):
        counted = torch.bincount(best[:, row], minlength=len(COLUMNS)).double()
        assert (counted[others(name)] == 0).all()
        distance = float(((counted - expected[row]).square() / expected[row])[own(name)].sum())
        assert distance < 20, f"{name}: chi-square of at most 3 degrees of freedom; 20 is passed once in 5,000"
    hard = (found.amax(2) > 0.999).double().mean()
    assert hard > 0.95 if tau < 1 else hard < 0.05


def test_expected_parameters_share_and_entropy_are_those_of_all_plans_counted() -> None:
    """Every plan that these candidates allow, built and counted, weighted with its probability."""
    choice = drawn()
    chances = {name: dict(zip(CONFIG.candidates_of(name), told, strict=True)) for name, told in choice.told().items()}
    expected = 0.0
    for dims in itertools.product(*(CONFIG.candidates_of(name) for name in NAMES)):
        made = with_dims(WIDE, dict(zip(NAMES, dims, strict=True)), {})
        chance = math.prod(chances[name][dim] for name, dim in zip(NAMES, dims, strict=True))
        expected += chance * plan.parameters(made.fields)
    widest = plan.parameters(with_dims(WIDE, {name: CONFIG.width_of(name) for name in NAMES}, {}).fields)
    assert choice.parameters_expected() == pytest.approx(expected, rel=1e-6)
    assert choice.share().item() == pytest.approx(expected / widest, rel=1e-6)
    nats = [-sum(chance * math.log(chance) for chance in of.values()) for of in chances.values()]
    assert choice.entropy() == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_a_choice_that_is_made_has_no_entropy_and_its_plans_size() -> None:
    choice, dims = drawn(), {"alone": 2, "mult": 9, "concat": 5, "feature": 3}
    with torch.no_grad():
        for row, name in enumerate(NAMES):
            choice.logits[row, COLUMNS.index(dims[name])] = 1000.0
    assert choice.dims() == dims
    assert choice.entropy() == 0
    assert choice.parameters_expected() == plan.parameters(with_dims(WIDE, dims, {}).fields)


def test_the_most_probable_candidate_is_chosen_and_the_smallest_of_equals() -> None:
    assert Choice(CONFIG, WIDE.fields).dims() == {name: CONFIG.candidates_of(name)[0] for name in NAMES}
    choice = drawn()
    told = choice.told()
    best = {name: CONFIG.candidates_of(name)[told[name].index(max(told[name]))] for name in NAMES}
    assert choice.dims() == best
    with torch.no_grad():
        choice.logits[:, COLUMNS.index(1)] = 50.0  # a candidate of mult alone
    assert choice.dims() == best | {"mult": 1}


def test_the_supernet_holds_the_widest_tables_or_those_of_all_candidates() -> None:
    sizes = {
        name: [plan.parameters(_one(with_dims(WIDE, _dims(name, dim), {}), name)) for dim in CONFIG.candidates_of(name)]
        for name in NAMES
    }
    assert supernet_parameters(CONFIG, WIDE.fields) == sum(max(each) for each in sizes.values())
    separate = CONFIG.model_copy(update={"lookup": "separate"})
    assert supernet_parameters(separate, WIDE.fields) == sum(sum(each) for each in sizes.values())


def _dims(name: str, dim: int) -> dict[str, int]:
    return {each: dim if each == name else CONFIG.width_of(each) for each in NAMES}


def _one(made: pb.Plan, name: str) -> list[pb.Field]:
    return [each for each in made.fields if each.feature == name]
