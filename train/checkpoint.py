"""The checkpoint: everything from which an interrupted run goes on as if nothing had happened. One file, no pickles."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from ..protos.errors import Malformed, RecipeError
from ..protos.manifest import write_atomically
from .optimizer import load_state_tensors, state_tensors

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a run has come.

    epoch: the epoch under way, from 0. batch: batches of it that are done, and loss_sum: of their mean losses.
    stale: epochs since the best one.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    best_auc: float = float("-inf")
    best_epoch: int = 0
    stale: int = 0
    lr: float = 0.0


def save_checkpoint(
    directory: Path, model: nn.Module, optimizer: Optimizer, best: dict[str, Tensor], progress: Progress, identity: str
) -> None:
    """Write the checkpoint whole or not at all; `identity` says what it is a checkpoint of."""
    tensors = prefixed("model", model.state_dict()) | prefixed("best", best)
    tensors |= prefixed("optimizer", state_tensors(optimizer))
    save_tensors(directory, tensors, dataclasses.asdict(progress), identity)


def load_checkpoint(
    directory: Path, model: nn.Module, optimizer: Optimizer, identity: str
) -> tuple[Progress, dict[str, Tensor]]:
    """Put model, optimizer and random state back.

    Returns:
        The progress, and the weights of the best epoch so far.

    Raises:
        Malformed: not a checkpoint of this program. RecipeError: of another recipe, plan or data.
    """
    with checkpoint_tensors(directory, identity) as (tensors, told):
        progress = Progress(**told)
        model.load_state_dict(part(tensors, "model"))
        load_state_tensors(optimizer, part(tensors, "optimizer"), progress.lr)
    return progress, part(tensors, "best")


def save_tensors(directory: Path, tensors: Mapping[str, Tensor], progress: dict[str, Any], identity: str) -> None:
    """Write tensors, random state and how far it has come, whole or not at all."""
    held = {**tensors, "rng": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        held["cuda_rng"] = torch.cuda.get_rng_state()
    metadata = {"progress": json.dumps(progress), "identity": identity}
    whole = {name: value.detach().cpu().contiguous() for name, value in held.items()}
    write_atomically(directory / NAME, save(whole, metadata))


@contextmanager
def checkpoint_tensors(directory: Path, identity: str) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The tensors and the progress of a checkpoint, to be put back inside; then the random state is.

    Raises:
        Malformed: not a checkpoint of this program, found here or while it is put back. RecipeError: of another
            recipe, plan or data.
    """
    path = directory / NAME
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if metadata["identity"] != identity:
            raise RecipeError(
                "a run goes on with the recipe, plan and data it was started with",
                found="another recipe, seed, plan or data",
                where=str(directory),
                remedy=f"Compare with {directory / 'recipe.toml'}, or train into another directory",
            )
        yield tensors, json.loads(metadata["progress"])
        torch.set_rng_state(tensors["rng"])
        if torch.cuda.is_initialized() and "cuda_rng" in tensors:
            torch.cuda.set_rng_state(tensors["cuda_rng"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Malformed(
            "a checkpoint is a whole safetensors file with its progress",
            found=str(error)[:200],
            where=str(path),
            remedy="Delete the directory and train again",
        ) from None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `<prefix>.<name>`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those under a prefix, by their names without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
