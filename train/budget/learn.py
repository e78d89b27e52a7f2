"""The loop of a budget search: weights learn from training batches, the choice from validation batches and from bytes.

Each batch sees one option of every field, so that a step costs about what one of the retraining does.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..batches import batch_of, batches_of, shuffled
from ..features import Rows
from ..loop import Interrupted, Place, no_number, stop_signals
from ..recipe import Recipe
from ..search.loop import RECORDS, Watcher
from .learning import Learning
from .schedule import ended, epochs_of, steps
from .supernet import Supernet


def learn(
    net: Supernet,
    train: Rows,
    valid: Rows,
    recipe: Recipe,
    budgets: Sequence[int],
    place: Place,
    watcher: Watcher,
    reached: Callable[[int, Learning, Callable[[], int]], None],
    taught: Tensor | None = None,
) -> None:
    """Search: `reached` is told the number of each budget once the choice has learnt it, and whether to stop.

    `budgets` are what tables may take. What `reached` did not end is begun again when the search is gone on with.

    With a teacher's logits of the training rows as `taught`, (N,), weights learn from those too: see `distil`.

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint holds everything up to the last whole batch.
        QuoremError: a loss or a weight that is no number any more; the last good checkpoint stays.
    """
    config, training, device = recipe.search, recipe.train, train.labels.device
    learning, start = Learning(net, train, valid, recipe, taught), 0
    net.model.train()
    torch.manual_seed(training.seed)
    if place.resume:
        start = learning.load(place)
        watcher.resumed(start)
    batches = batches_of(len(train), training.batch)
    epochs = config.warmup + sum(epochs_of(config, budgets))
    every = max(1, epochs * batches // RECORDS)
    order, total, looked, rows = torch.empty(0, dtype=torch.int64), torch.zeros((), device=device), 0, 0
    with stop_signals() as stopping:
        if (phase := ended(config, budgets, batches, start)) is not None:
            reached(phase, learning, stopping)
        for step in steps(config, budgets, batches, start):
            if step.batch == 0 or step.number == start:
                order = shuffled(len(train), training.seed, step.epoch).to(device)
                watcher.epoch(step.epoch + 1, batches, step.batch, warmup=step.phase is None)
            if step.number == config.warmup * batches:
                net.tables.settle()
            if step.first and step.phase is not None:
                net.choice.lean(budgets[step.phase])
            if step.chooses and step.phase is not None:
                learning.choose(step, budgets[step.phase])
            chosen = batch_of(order, step.batch, training.batch)
            total, looked, rows = total + learning.train(chosen, learning.draw(step)), looked + 1, rows + len(chosen)
            stop, last, done = stopping(), step.batch == batches - 1, step.number + 1
            where = f"search, epoch {step.epoch + 1}, batches up to {step.batch + 1}"
            if done % every == 0 or last or stop:
                facts = learning.facts(step, float(total) / looked)
                if not all(math.isfinite(facts[name] or 0.0) for name in ("train_loss", "valid_loss", "entropy")):
                    raise no_number("loss", where)
                watcher.record(facts, looked, rows)
                total, looked, rows = torch.zeros((), device=device), 0, 0
            if last or stop:
                learning.save(place, done, where)
            if stop:
                raise Interrupted(stop)
            if step.last and step.phase is not None:
                reached(step.phase, learning, stopping)
