"""Distributed: the ranks that train one model together, and what they tell one another.

Alone, nothing here does anything. `torchrun` starts the ranks and says which each is (RANK, WORLD_SIZE, LOCAL_RANK).
Each holds the whole model and takes its part of every batch; gradients are added up, so that all of them make the step
that one process would.

Legend: R ranks; n rows of a table that a rank touched, D their width.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ..protos.errors import QuoremError, Unavailable

PATIENCE = timedelta(minutes=10)  # for a rank that says nothing; one that has ended is known at once
POLL_SECONDS = 0.02
BUCKET = 8 << 20  # weights whose gradients go together: one message costs as much as many small numbers
RANK_SEEDS = 7_368_787  # a prime: ranks draw their dropout far from one another

Made = TypeVar("Made")


class Elsewhere(Exception):
    """Another rank was refused, and says why; this one ends with it."""


def rank() -> int:
    """The number of this process among the ranks, from 0; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many there are; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def restarted() -> bool:
    """Whether torchrun has started the ranks again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """The ranks of torchrun, joined while this lasts; gives the device of this one. Without torchrun: nothing.

    Raises:
        QuoremError: more ranks on this machine than GPUs. Unavailable: the others do not answer.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= there:
            raise QuoremError(
                "every rank on a machine has a GPU of its own",
                found=f"rank {own} of this machine, which has {there}",
                where="--nproc-per-node",
                remedy=f"Start {there} ranks on this machine, or use --device cpu",
            )
        device = torch.device("cuda", own)
        torch.cuda.set_device(device)
    import_module("torch.distributed.nn.functional")  # its defaults would keep a group, whose threads abort the exit
    with told():
        store, own, count = next(rendezvous("env://", timeout=PATIENCE))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_meet(store, own, count), rank=own, world_size=count, timeout=PATIENCE)
    ended = False
    try:
        yield device
        ended = True
    finally:
        if ended or device.type == "cpu":  # where a rank is gone NCCL would wait for it
            dist.destroy_process_group()


def _meet(store: Store, own: int, count: int) -> Store:
    """A store that only the ranks of this start share. In torchrun's is what ranks of earlier starts have left.

    Every process draws a ticket. Rank 0 answers whatever ticket it finds of another rank, until that rank is there.
    """
    ticket, deadline = store.add("ticket", 1), time.monotonic() + PATIENCE.total_seconds()
    store.set(f"ticket of {own}", str(ticket))
    if own > 0:
        met = store.get(f"start of {ticket}").decode()
        store.set(f"{own} is at {met}", "")
        return PrefixStore(f"start {met}", store)
    missing = set(range(1, count))
    while missing:
        for other in sorted(missing):
            if store.check([f"{other} is at {ticket}"]):
                missing.remove(other)
            elif store.check([f"ticket of {other}"]):
                store.set(f"start of {store.get(f'ticket of {other}').decode()}", str(ticket))
        if time.monotonic() > deadline:
            raise RuntimeError(f"ranks {', '.join(map(str, sorted(missing)))} have not come")
        time.sleep(POLL_SECONDS)
    return PrefixStore(f"start {ticket}", store)


@contextmanager
def told() -> Iterator[None]:
    """Say in words that a rank is gone, where torch says it in its own.

    Raises:
        Unavailable.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Unavailable(
            "every rank answers while the run lasts",
            found=str(error).splitlines()[0][:200],
            where=f"rank {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}",
            remedy="Look for what the lost rank said; then start again with --resume, which goes on from the last "
            "checkpoint (torchrun --max-restarts does so by itself)",
        ) from None


def agree(work: Callable[[], Made]) -> Made:
    """Do the work on every rank; where one is refused, none goes on.

    Raises:
        QuoremError, OSError: of this rank, where it is the first that was refused. Elsewhere: where it is another.
    """
    if ranks() == 1:
        return work()
    made, refused = list[Made](), None
    try:
        made.append(work())
    except (QuoremError, OSError) as error:
        refused = error
    outcomes = add_up(torch.eye(ranks(), dtype=torch.int64)[rank()] * (refused is not None)).tolist()
    if refused is not None and outcomes.index(1) == rank():
        raise refused
    if any(outcomes):
        raise Elsewhere
    return made[0]


def refuse(error: QuoremError) -> NoReturn:
    """Raise what all ranks have found alike, once.

    Raises:
        QuoremError: on rank 0. Elsewhere: on the others.
    """
    if rank() > 0:
        raise Elsewhere
    raise error


def add_up(values: Tensor) -> Tensor:
    """The values, of any shape, added up over the ranks, in their place."""
    if ranks() > 1:
        with told():
            dist.all_reduce(values)
    return values


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add every gradient up over the ranks: dense ones in buckets, sparse ones (COO) as the rows that they have."""
    if ranks() == 1:
        return
    dense = list[Tensor]()
    for parameter in parameters:
        if (gradient := parameter.grad) is None:
            continue
        if gradient.is_sparse:
            rows, values = exchange(gradient._indices()[0], gradient._values())
            whole = torch.sparse_coo_tensor(rows.unsqueeze(0), values, gradient.shape, check_invariants=False)
            parameter.grad = whole if rows.is_cuda else whole.coalesce()  # on a GPU that would wait for the device
        else:
            dense.append(gradient)
    with told():
        for bucket in _buckets(dense):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                dist.all_reduce(bucket[0])
                continue
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, up to BUCKET numbers together; a larger one alone."""
    bucket, held = list[Tensor](), 0
    for gradient in gradients:
        if bucket and (held + gradient.numel() > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(gradient)
        held += gradient.numel()
    if bucket:
        yield bucket


def exchange(rows: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a table that any rank touched, with their gradients, to be added up by who takes them.

    Args:
        rows: (n,) int64; n differs from rank to rank and may be 0.
        gradients: (n, D), of any float dtype.

    Returns:
        Those of rank 0, then of rank 1 and so on, the same on every rank: (sum of n,) and (sum of n, D). A row that
        several ranks touched is there several times.
    """
    if ranks() == 1:
        return rows, gradients
    with told():
        counts = torch.zeros(ranks(), dtype=torch.int64, device=rows.device)
        counts[rank()] = len(rows)
        dist.all_reduce(counts)
        lengths = counts.tolist()
        longest = max(lengths)
        found = list[Tensor]()
        for mine in (rows, gradients):
            padded = mine.new_zeros((longest, *mine.shape[1:]))
            padded[: len(mine)] = mine
            parts = [torch.empty_like(padded) for _ in lengths]
            dist.all_gather(parts, padded)
            found.append(torch.cat([part[:count] for part, count in zip(parts, lengths, strict=True)]))
    return found[0], found[1]


def share(tensors: Mapping[str, Tensor], note: Any = None) -> tuple[dict[str, Tensor], Any]:
    """What rank 0 gives, on every rank: tensors on the CPU by name, and a note, JSON; what others give is ignored."""
    if ranks() == 1:
        return dict(tensors), note
    mine = rank() == 0
    given = [(name, str(each.dtype).removeprefix("torch."), each.shape) for name, each in tensors.items()]
    written = torch.frombuffer(bytearray(json.dumps([note, given]).encode()), dtype=torch.uint8)
    length = torch.tensor(len(written))
    with told():
        dist.broadcast(length, 0)
        head = written if mine else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(head, 0)
        note, shapes = json.loads(bytes(head.numpy()))
        found = dict[str, Tensor]()
        for name, kind, shape in shapes:
            fresh = torch.empty(0 if mine else shape, dtype=getattr(torch, kind))
            found[name] = tensors[name].detach().cpu().contiguous() if mine else fresh
            dist.broadcast(found[name], 0)
    return found, note


def spread(tensors: Mapping[str, Tensor]) -> None:
    """Give every rank the numbers of rank 0, in the place of its own: of tensors that are named and shaped alike."""
    if ranks() > 1:
        with told():
            for each in tensors.values():
                dist.broadcast(each, 0)


def gather(values: Tensor) -> list[Tensor]:
    """The values of every rank, of one shape and type, on the CPU, in the order of the ranks."""
    if ranks() == 1:
        return [values]
    found = [torch.empty_like(values) for _ in range(ranks())]
    with told():
        dist.all_gather(found, values)
    return found


def check_alike(identity: str) -> None:
    """Refuse ranks that were given different rows, recipes or plans.

    Raises:
        QuoremError: on the first that differs. Elsewhere: on the others.
    """
    _, first = share({}, identity)

    def check() -> None:
        if first != identity:
            raise QuoremError(
                "all ranks train with one recipe, plan and data",
                found="others than those of rank 0",
                where=f"rank {rank()} of {ranks()}",
                remedy="Give every machine the same files",
            )

    agree(check)


def seed_rank(seed: int) -> None:
    """Seed what torch draws at random: by the recipe's seed on rank 0, and far from it on the others."""
    torch.manual_seed((seed + rank() * RANK_SEEDS) % 2**63)
