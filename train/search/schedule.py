"""The schedule of a search: what happens at each batch of training (Zhao et al., WWW'21, sections 2.3 and 2.4).

Legend: t, batches of training since the warm-up; f = every.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .config import SearchConfig


@dataclass(frozen=True)
class Step:
    """One batch of training.

    number: from 0, over the whole search. epoch, batch: both from 0.
    tau: the temperature; None during the warm-up, when all candidates weigh the same.
    chooses: whether the probabilities learn from a validation batch before this batch trains the weights.
    """

    number: int
    epoch: int
    batch: int
    tau: float | None
    chooses: bool


def temperature(config: SearchConfig, t: int) -> float:
    """max(tau_min, 1 - tau_rate x t)."""
    return max(config.tau_min, 1.0 - config.tau_rate * t)


def steps(config: SearchConfig, batches: int, start: int = 0) -> Iterator[Step]:
    """All steps of a search whose epochs have so many batches, from number `start` on."""
    for number in range(start, (config.warmup + config.epochs) * batches):
        epoch, batch = divmod(number, batches)
        t = number - config.warmup * batches
        chooses = config.update == "bilevel" and t >= 0 and t % config.every == 0
        yield Step(number, epoch, batch, temperature(config, t) if t >= 0 else None, chooses)
