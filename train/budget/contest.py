"""The contest: proposals are trained on, each from the same supernet; the best on validation rows wins.

Options that are drawn with all others learn in company; a few epochs alone, at a rate that falls to nothing, show
what they can do. From fresh weights, coarse and wide tables would be behind fine and narrow ones for as long.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..batches import batch_of, batches_of, shuffled
from ..loop import Interrupted, evaluate_rows
from . import standing as standings
from .learning import Learning
from .standing import Proposal, Standing, Trial

LATER = 1_000_000  # epochs of the contest are shuffled by numbers of their own


def contest(
    learning: Learning,
    standing: Standing,
    path: Path,
    stopping: Callable[[], int],
    told: Callable[[str], None],
) -> Standing:
    """Try the proposals that were not yet; the standing, whose file at `path` comes to hold every trial.

    The supernet is left as it was.

    Raises:
        Interrupted: what was tried is kept.
    """
    before = learning.snapshot()
    for number, proposal in enumerate(standing.proposals):
        if standing.tried(number) is None:
            try:
                trial = _alike(learning, number, proposal, stopping)
            finally:
                learning.restore(before)
            standing = standing.with_trial(trial)
            standings.write(path, standing)
            told(f"tried {proposal.name}: validation auc {trial.auc:.5f}, logloss {trial.logloss:.5f}")
    return standing


def _alike(learning: Learning, number: int, proposal: Proposal, stopping: Callable[[], int]) -> Trial:
    """Try it with the random numbers that any other is tried with; those of the search go on after it as before."""
    device = learning.rows.labels.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(learning.training.seed)
        return _try(learning, number, proposal, stopping)


def _try(learning: Learning, number: int, proposal: Proposal, stopping: Callable[[], int]) -> Trial:
    training, epochs = learning.training, learning.config.proposal_epochs
    drawn, rows = learning.net.choice.fixed(list(proposal.options)), learning.rows
    batches = batches_of(len(rows), training.batch)
    for epoch in range(epochs):
        order = shuffled(len(rows), training.seed, LATER + epoch).to(rows.labels.device)
        for batch in range(batches):
            learning.pace(training.lr * (1 - (epoch * batches + batch) / (epochs * batches)))
            learning.train(batch_of(order, batch, training.batch), drawn)
            if stopping():
                raise Interrupted(stopping())
    learning.net.follow(drawn)
    metrics = evaluate_rows(learning.net.model, learning.valid)
    learning.net.model.train()
    return Trial(proposal=number, auc=metrics["auc"], logloss=metrics["logloss"])
