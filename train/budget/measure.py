"""Measure: what each option of each field does to the validation loss of a supernet, all other fields as they are.

Batch normalisation takes the moments of the rows that are measured: those that it met while options were drawn are of
no single choice (as for slimmable networks, Yu and Huang, ICCV'19, section 3).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ...protos.nets import EMBEDDINGS
from ..batches import shuffled
from ..features import Rows
from .options import Option, Options
from .supernet import Supernet

ROWS = 8192  # of the validation rows, at most
MOST = 24  # options of a field that are measured, besides its own


class Judge:
    """Tells the loss of options on the same validation rows each time."""

    def __init__(self, net: Supernet, valid: Rows, seed: int, *, mixed: bool) -> None:
        self.net, self.mixed = net, mixed
        chosen = shuffled(len(valid), seed, 0)[:ROWS].to(valid.labels.device)
        self.ids, self.numbers, self.labels = valid.ids[chosen], valid.numbers[chosen], valid.labels[chosen]
        self.weights = None if valid.weights is None else valid.weights[chosen]

    @torch.no_grad()
    def losses(self, reference: list[Option], wanted: Sequence[Sequence[Option]]) -> list[dict[Option, float]]:
        """Mean cross entropy with each wanted option of each field, the others as in the reference.

        The vectors of every field's k-th option are made together, so that an option costs no more than the net.
        """
        with _measuring(self.net.model):
            inputs, found = self._inputs(reference), [dict[Option, float]() for _ in wanted]
            own = inputs[EMBEDDINGS].view(len(self.ids), len(wanted), -1)
            for k in range(max(map(len, wanted))):
                options = [each[k] if k < len(each) else each[0] for each in wanted]
                others = self._inputs(options)[EMBEDDINGS].view_as(own)
                for field, option in enumerate(options):
                    if option not in found[field]:
                        vectors = own.clone()
                        vectors[:, field] = others[:, field]
                        found[field][option] = self._loss(inputs | {EMBEDDINGS: vectors.flatten(1)})
        return found

    def _inputs(self, options: list[Option]) -> dict[str, Tensor]:
        self.net.follow(self.net.choice.fixed(options))
        return self.net.model.inputs(self.ids, self.numbers)[0]

    def _loss(self, inputs: Mapping[str, Tensor]) -> float:
        with torch.autocast(self.ids.device.type, torch.bfloat16, enabled=self.mixed):
            logits = self.net.model.score(inputs).float()
        return float(binary_cross_entropy_with_logits(logits, self.labels, self.weights))


def worth_measuring(
    options: Options, chances: np.ndarray, plans: Sequence[Sequence[Option]], budget: int
) -> list[list[Option]]:
    """The options of each field that may be chosen: those of the plans, the likeliest that fit, the smallest one.

    `budget`: what all tables may take.
    """
    slack = budget - options.smallest()
    found = list[list[Option]]()
    for field in range(len(options.features)):
        sizes = {option: int(options.sizes[field, *option]) for option in options.of(field)}
        least = min(sizes, key=lambda option: sizes[option])
        fits = [option for option, size in sizes.items() if size <= sizes[least] + slack]
        likely = sorted(fits, key=lambda option: -chances[field, *option])[:MOST]
        found.append(sorted({*likely, *(plan[field] for plan in plans), least}))
    return found


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    was = model.training
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    kept: Mapping[nn.BatchNorm1d, tuple[float | None, int]] = {
        module: (module.momentum, int(module.num_batches_tracked or 0)) for module in norms
    }
    model.eval()
    for module in norms:
        module.train()
        module.momentum = 0.0
    try:
        yield
    finally:
        model.train(was)
        for module, (momentum, count) in kept.items():
            module.momentum = momentum
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.fill_(count)
