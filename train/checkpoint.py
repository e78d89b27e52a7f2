"""The checkpoint: everything from which an interrupted run goes on as if nothing had happened. One file, no pickles."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from ..protos.errors import Malformed, RecipeError
from ..protos.manifest import sync_directory
from .distributed import agree, gather, rank, seed_rank, share
from .optimizer import load_state_tensors

NAME = "checkpoint.safetensors"
BEST = "best"  # the prefix of the weights of the best epoch so far
KINDS = {  # safetensors' names of dtypes
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


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

    def place(self) -> str:
        """The last step that is done, for messages."""
        return f"epoch {self.epoch + 1}, batch {self.batch}" if self.batch else f"the end of epoch {self.epoch}"


def load_checkpoint(directory: Path, model: nn.Module, optimizer: Optimizer, identity: str) -> Progress:
    """Put model, optimizer and random state back.

    Returns:
        The progress.

    Raises:
        Malformed: not a checkpoint of this program. RecipeError: of another recipe, plan or data.
    """
    with checkpoint_tensors(directory, identity) as (tensors, told):
        progress = Progress(**told)
        model.load_state_dict(part(tensors, "model"))
        load_state_tensors(optimizer, part(tensors, "optimizer"), progress.lr)
    return progress


def best_weights(directory: Path) -> dict[str, Tensor]:
    """The weights of the best epoch that a checkpoint has, on rank 0: pages of its file, which take no memory.

    They are what they are when another checkpoint takes its place.
    """
    if rank() > 0:
        return {}
    with _malformed(directory / NAME), safe_open(directory / NAME, "pt") as file:
        named = [name for name in file.keys() if name.startswith(f"{BEST}.")]  # noqa: SIM118  # no mapping
        weights = part({name: file.get_tensor(name) for name in named}, BEST)
    # Windows replaces no file that is mapped.
    return {name: value.clone() for name, value in weights.items()} if os.name == "nt" else weights


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds finite numbers alone: no memory is needed to know."""
    if not value.is_floating_point() or not value.numel():
        return True
    least, most = value.aminmax()  # not a number, where there is one
    return bool(least.isfinite() & most.isfinite())


def save_tensors(directory: Path, tensors: Mapping[str, Tensor], progress: dict[str, Any], identity: str) -> None:
    """Write tensors, the random state of every rank and how far it has come, whole or not at all; rank 0 does."""
    held = dict(tensors)
    for number, state in enumerate(gather(torch.get_rng_state())):
        held[_numbered("rng", number)] = state
    if torch.cuda.is_initialized():
        for number, state in enumerate(gather(torch.cuda.get_rng_state())):
            held[_numbered("cuda_rng", number)] = state
    if rank() == 0:
        write_tensors(directory / NAME, held, {"progress": json.dumps(progress), "identity": identity})


def clear_remains(directory: Path) -> None:
    """Delete what a killed process left of a checkpoint that it was writing."""
    for path in directory.glob(f".{NAME}.*"):
        path.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file tensor by tensor, so that there is no second copy of them all in memory.

    Under a temporary name beside it, flushed to the disk, then renamed.
    """
    head, end = dict[str, Any]({"__metadata__": dict(metadata)} if metadata else {}), 0
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that all are aligned
    for name in ordered:
        value = tensors[name]
        start, end = end, end + value.numel() * value.element_size()
        head[name] = {"dtype": KINDS[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    written = json.dumps(head).encode()
    written += b" " * (-len(written) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(written).to_bytes(8, "little") + written)
            for name in ordered:
                value = tensors[name].detach().cpu().contiguous()
                file.write(value.reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def checkpoint_tensors(directory: Path, identity: str) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """The tensors and the progress of a checkpoint, to be put back inside; then the random state is.

    Rank 0 reads them, all but those of `best_weights`. A rank that there was not when they were written draws afresh.

    Raises:
        Malformed: not a checkpoint of this program, found here or while it is put back. RecipeError: of another
            recipe, plan or data.
    """
    path = directory / NAME
    with _malformed(path):
        read = agree(lambda: _read(path, identity) if rank() == 0 else None)
        tensors, progress = share(*(read or ({}, None)))
        yield tensors, progress
        if (state := tensors.get(_numbered("rng", rank()))) is not None:
            torch.set_rng_state(state)
        else:
            seed_rank(int(tensors["rng"].sum()))
        if torch.cuda.is_initialized() and (state := tensors.get(_numbered("cuda_rng", rank()))) is not None:
            torch.cuda.set_rng_state(state)


def _read(path: Path, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with _malformed(path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            named = [name for name in file.keys() if not name.startswith(f"{BEST}.")]  # noqa: SIM118  # no mapping
            tensors = {name: file.get_tensor(name) for name in named}
        if metadata["identity"] != identity:
            raise RecipeError(
                "a run goes on with the recipe, plan, data and teacher it was started with",
                found="another recipe, seed, plan, teacher or data",
                where=str(path.parent),
                remedy=f"Compare with {path.parent / 'recipe.toml'}, or train into another directory",
            )
        return tensors, json.loads(metadata["progress"])


@contextmanager
def _malformed(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Malformed(
            "a checkpoint is a whole safetensors file with its progress",
            found=str(error)[:200],
            where=str(path),
            remedy="Delete the directory and train again",
        ) from None


def _numbered(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `<prefix>.<name>`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those under a prefix, by their names without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
