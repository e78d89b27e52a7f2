"""The schedule of a budget search: a warm-up, and then a phase for each budget, from the largest to the smallest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..search.config import SearchConfig


@dataclass(frozen=True)
class Step:
    """One batch of training.

    number: from 0, over the whole search. epoch, batch: both from 0.
    phase: the number of the budget; None in the warm-up, when all options are as likely as each other.
    tau: the temperature of the choice's gradient.
    chooses: whether the choice learns from a validation batch before this batch trains the weights.
    first, last: whether the phase begins, or ends, with this batch.
    """

    number: int
    epoch: int
    batch: int
    phase: int | None
    tau: float
    chooses: bool
    first: bool
    last: bool


def epochs_of(config: SearchConfig, budgets: Sequence[int]) -> list[int]:
    """The epochs of each phase: a next budget goes on from the one before, and takes half of them."""
    return [config.epochs, *[max(1, config.epochs // 2)] * (len(budgets) - 1)]


def proposals_of(config: SearchConfig, phase: int) -> int:
    """How many proposals of a budget are tried: of a next one, whose are like those before, a quarter fewer."""
    return config.proposals if phase == 0 else max(1, config.proposals - config.proposals // 4)


def steps(config: SearchConfig, budgets: Sequence[int], batches: int, start: int = 0) -> Iterator[Step]:
    """All steps of a search whose epochs have so many batches, from number `start` on."""
    phases: list[int | None] = [None] * config.warmup
    for phase, epochs in enumerate(epochs_of(config, budgets)):
        phases += [phase] * epochs
    for number in range(start, len(phases) * batches):
        epoch, batch = divmod(number, batches)
        phase, ends = phases[epoch], batch == batches - 1 and phases[epoch] not in phases[epoch + 1 :]
        t = (epoch - config.warmup) * batches + batch
        tau = max(config.tau_min, 1.0 - config.tau_rate * max(t, 0))
        chooses = phase is not None and t % config.every == 0
        begins = batch == 0 and phase is not None and phase not in phases[:epoch]
        yield Step(number, epoch, batch, phase, tau, chooses, begins, ends and phase is not None)


def ended(config: SearchConfig, budgets: Sequence[int], batches: int, done: int) -> int | None:
    """The number of the budget whose phase ends with so many steps; None where none does."""
    last = next(steps(config, budgets, batches, done - 1)) if done else None
    return last.phase if last is not None and last.last else None
