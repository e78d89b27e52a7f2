"""The keeper of a run's checkpoint: knows when one is due, writes it, and which is the last good one."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from ..protos.errors import QuoremError
from .checkpoint import BEST, NAME, Progress, best_weights, is_finite, load_checkpoint, prefixed, save_tensors
from .distributed import Elsewhere, agree, rank, refuse
from .optimizer import state_tensors


class Keeper:
    """The checkpoint of a run, as long as it lasts."""

    def __init__(self, directory: Path, identity: str, minutes: float, warn: Callable[[str], None]) -> None:
        """`warn` is told what went wrong where the run goes on all the same."""
        self.directory, self.identity, self.minutes, self.warn = directory, identity, minutes, warn
        self.since, self.good = time.monotonic(), ""

    def due(self) -> bool:
        """Whether it is time for one."""
        return time.monotonic() - self.since >= 60 * self.minutes

    def last(self) -> str:
        """Which checkpoint is the last good one, for messages."""
        return (
            f"the last good checkpoint is {self.directory / NAME} ({self.good})" if self.good else "no checkpoint yet"
        )

    def load(self, model: nn.Module, optimizer: Optimizer) -> tuple[Progress, dict[str, Tensor]]:
        """Put the checkpoint back; see load_checkpoint and best_weights."""
        progress = load_checkpoint(self.directory, model, optimizer, self.identity)
        self.good = progress.place()
        return progress, best_weights(self.directory)

    def save(
        self, model: nn.Module, optimizer: Optimizer, best: dict[str, Tensor], progress: Progress, *, leaving: bool
    ) -> dict[str, Tensor]:
        """Write one. A disk that is full leaves the one before it whole, and the run goes on unless it is `leaving`.

        Returns:
            `best`, as the checkpoint has it on the disk; a copy in memory where it could not be written.

        Raises:
            QuoremError: a weight that is not finite; or leaving, and nothing could be written.
        """
        whole = prefixed("model", model.state_dict())
        if not all(map(is_finite, whole.values())):
            refuse(self.broken("weight", progress.place()))
        whole |= prefixed(BEST, best) | prefixed("optimizer", state_tensors(optimizer))
        self.since = time.monotonic()
        try:
            agree(lambda: self._write(whole, progress))
        except Elsewhere:  # rank 0 tells
            if leaving:
                raise
        except OSError as error:
            if leaving:
                raise no_room(error, self.directory, progress.place(), self.last()) from None
            full = no_room(error, self.directory, progress.place(), self.last())
            self.warn(f"{full.rule}: found {full.found} ({full.where}). Make room: training goes on; {self.last()}")
        else:
            self.good = progress.place()
            return best_weights(self.directory)
        return {name: value.clone() for name, value in best.items()} if rank() == 0 else {}

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Where something else of the run cannot be written, say from where it can go on.

        Raises:
            QuoremError.
        """
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise no_room(error, self.directory, error.filename or "metrics and progress", self.last()) from None

    def _write(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        save_tensors(self.directory, tensors, dataclasses.asdict(progress), self.identity)

    def broken(self, what: str, where: str, found: str = "one that is not") -> QuoremError:
        """The error of a loss, a weight or a logit that is not finite any more."""
        return QuoremError(
            f"every {what} is a finite number",
            found=found,
            where=where,
            remedy="Look at those rows, or lower train.lr, and begin again in another directory; " + self.last(),
        )


def no_room(error: OSError, directory: Path, where: str, last: str) -> QuoremError:
    """The error of what could not be written in a run's directory; `last`: from where it goes on."""
    return QuoremError(
        "what a run keeps is written whole or not at all",
        found=f"{error.strerror or error}; {_free(directory)}",
        where=f"{directory}, {where}",
        remedy=f"Make room, then --resume; {last}",
    )


def _free(directory: Path) -> str:
    """The room left where a directory is, for messages."""
    if not hasattr(os, "statvfs"):
        return "room left unknown"
    told = os.statvfs(directory)
    return f"{told.f_bavail * told.f_frsize / 1e6:,.0f} MB free"
