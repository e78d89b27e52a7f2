"""Saved: what a search's checkpoint holds: weights, choice, what moves both, and how far validation rows were read."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint import checkpoint_tensors, is_finite, part, prefixed, save_tensors
from ..loop import Place, no_number
from ..optimizer import load_state_tensors, state_tensors


def save(
    place: Place,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    progress: Mapping[str, Any],
    where: str,
) -> None:
    """Write a checkpoint of modules and optimizers, by name, and of how far they are.

    Raises:
        QuoremError: a weight that is no number; the checkpoint that is there stays.
    """
    whole = dict[str, Tensor]()
    for name, module in modules.items():
        whole |= prefixed(name, module.state_dict())
    for name, optimizer in optimizers.items():
        whole |= prefixed(name, state_tensors(optimizer))
    if not all(map(is_finite, whole.values())):
        raise no_number("weight", where)
    save_tensors(place.directory, whole, dict(progress), place.identity)


def load(
    place: Place, modules: Mapping[str, nn.Module], optimizers: Mapping[str, tuple[Optimizer, float]]
) -> Mapping[str, Any]:
    """Put a checkpoint back into modules and, with their learning rates, optimizers; how far they are."""
    with checkpoint_tensors(place.directory, place.identity) as (tensors, told):
        for name, module in modules.items():
            module.load_state_dict(part(tensors, name))
        for name, (optimizer, lr) in optimizers.items():
            load_state_tensors(optimizer, part(tensors, name), lr)
        return told
