"""Passes: joins and interactions, forward and back, have the bits of autograd's own; freed memory stays."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from quorem.train.interactions import dots, pairs, sum_of_pairs
from quorem.train.join import Kind, join
from torch import Tensor

DRAW = torch.Generator().manual_seed(1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=DRAW, requires_grad=True)


def same(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The values and gradients of both, bit for bit; and the slopes in float64."""
    results = list[tuple[Tensor, ...]]()
    for evaluate in (ours, plain):
        value = evaluate(*inputs)
        weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
        results.append((value, *torch.autograd.grad((value * weight).sum(), inputs)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    exact = [each.detach()[:2].double().requires_grad_() for each in inputs]
    assert torch.autograd.gradcheck(ours, exact)


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("kind", ["add", "mult", "deviation"])
def test_joins(kind: Kind, count: int) -> None:
    def plain(vectors: Tensor, part: Tensor) -> Tensor:
        head = vectors[:, :count]
        joined = {"add": head + part, "mult": head * part, "deviation": torch.addcmul(head, head, part)}
        head = joined[kind]
        return torch.cat([head, vectors[:, count:]], dim=1)

    same(lambda vectors, part: join(vectors, part, kind), plain, drawn(300, 5, 4), drawn(300, count, 4))


def test_sum_of_pairs() -> None:
    same(sum_of_pairs, lambda v: v.sum(1).square() - v.square().sum(1), drawn(300, 7, 6))


def test_pairs() -> None:
    same(pairs, lambda v: (v.sum(1).square() - v.square().sum(1)).sum(1, keepdim=True) / 2, drawn(300, 7, 6))


@pytest.mark.parametrize("count", [2, 3, 27])
def test_dots(count: int) -> None:
    def plain(vectors: Tensor) -> Tensor:
        below = torch.tril_indices(count, count, offset=-1)
        return torch.bmm(vectors, vectors.transpose(1, 2))[:, below[0], below[1]]

    same(dots, plain, drawn(200, count, 16))


FAULTS = """
import resource, sys, torch
from quorem.train.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
def work():
    held = [torch.ones(4096, 26, 16) for _ in range(8)]
    return sum(float(each[0, 0, 0]) for each in held)
for _ in range(3): work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is told to the allocator is glibc's")
def test_freed_memory_is_not_asked_for_again() -> None:
    faults, eager = dict[str, int](), {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    eager.pop("MALLOC_TRIM_THRESHOLD_", None)
    for how in ("keep", "leave"):
        command = [sys.executable, "-c", FAULTS, how]
        faults[how] = int(subprocess.run(command, capture_output=True, text=True, check=True, env=eager).stdout)
    assert faults["keep"] < 200
    assert faults["leave"] > 10 * 8  # a block of 6.8 MB each is a page at the least
