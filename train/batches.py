"""Batches: what a step learns from, and the order in which an epoch goes through the rows.

Legend: N rows of a source; B rows of a batch that this process has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MIXER = 1_000_003  # a prime: seeds and numbers that are near each other are far apart in a generator's seeds
WHOLE = (0, 1)  # the part of a batch that a process alone takes: all of it


@dataclass(frozen=True)
class Batch:
    """Rows of a step, on the source's device.

    ids: (B, T) int64, -1 = padding. numbers: (B, D) float32, NaN = missing. labels: (B,) float32.
    weights: (B,) float32 or None. rows: (B,) int64, their numbers in the source, from 0, for messages.
    total: rows of the whole batch, over all processes.
    """

    ids: Tensor
    numbers: Tensor
    labels: Tensor
    weights: Tensor | None
    rows: Tensor
    total: int


class Source(Protocol):
    """Rows to learn from, in memory or out of it."""

    def __len__(self) -> int:
        """N."""
        ...

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        ...

    def batches(
        self, seed: int, epoch: int, size: int, first: int = 0, part: tuple[int, int] = WHOLE
    ) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on: `batches_of(len(self), size)` less `first` of them.

        Their order and their rows are a function of seed, epoch and size. `part` is (rank, ranks): of every batch only
        the rows that `part_of` gives to that rank.
        """
        ...


def batches_of(rows: int, size: int) -> int:
    """How many batches rows make. A last one of one row joins that before it: batch normalisation needs a variance."""
    return max(1, -(-(rows - 1) // size))


def batch_of(order: Tensor, number: int, size: int) -> Tensor:
    """The rows of a batch, (B,), of those of an epoch in their order, (N,)."""
    end = len(order) if number == batches_of(len(order), size) - 1 else (number + 1) * size
    return order[number * size : end]


def part_of(rows: Tensor, part: tuple[int, int]) -> Tensor:
    """The rows of a batch that a rank takes, (B,), of all of them: a stretch, as long as the others' or one off."""
    rank, ranks = part
    return rows[len(rows) * rank // ranks : len(rows) * (rank + 1) // ranks]


def shuffled(rows: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in an epoch, (N,) int64: a function of seed and epoch, so that a resumed run knows it."""
    return torch.randperm(rows, generator=generator_of(seed, epoch))


def generator_of(seed: int, number: int) -> torch.Generator:
    """A fresh generator on the CPU, whose draws are a function of both."""
    return torch.Generator().manual_seed((seed * MIXER + number) % 2**63)
