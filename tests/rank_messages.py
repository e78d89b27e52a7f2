"""The messages of ranks, checked by each rank for itself: `python rank_messages.py`, as one of three."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from quorem.protos.errors import QuoremError
from quorem.train.batch_norm import BatchNorm
from quorem.train.distributed import Elsewhere, add_up, add_up_gradients, agree, exchange, gather, joined, rank, ranks
from quorem.train.distributed import share as share_out
from torch import Tensor, nn


def main() -> None:
    """All of them, on the ranks of gloo."""
    with joined(torch.device("cpu")):
        assert ranks() == 3
        rows_of_uneven_length()
        gradients_of_every_kind()
        normalisation()
        import_module("torch._dynamo")  # as every optimizer does
        tensors_and_notes()
        refusals()
    nothing_stays()


def rows_of_uneven_length() -> None:
    """Rank r touches r rows, of which rank 0 has none; all have all, in the order of the ranks."""
    for width in (1, 5):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            rows = torch.arange(rank()) + 2**40
            gradients = torch.full((rank(), width), float(rank()), dtype=dtype)
            found, values = exchange(rows, gradients)
            assert found.tolist() == [2**40, 2**40, 2**40 + 1]
            assert values.dtype == dtype
            assert values.tolist() == [[1.0] * width, [2.0] * width, [2.0] * width]
    found, values = exchange(torch.empty(0, dtype=torch.int64), torch.empty(0, 4))
    assert found.shape == (0,)
    assert values.shape == (0, 4)


def gradients_of_every_kind() -> None:
    """Small and large, of two types, transposed, sparse, and none: what one process would have added up."""
    weights = [
        torch.zeros(3),
        torch.zeros(2, 2, dtype=torch.float64),
        torch.zeros(4, 5),
        torch.zeros(9 << 20),
        torch.zeros(1),
    ]
    parameters = [nn.Parameter(weight) for weight in weights]
    for parameter in parameters[:-1]:
        parameter.grad = torch.full_like(parameter, float(rank() + 1))
    parameters[2].grad = torch.arange(20.0).view(5, 4).t() * (rank() + 1)
    table = nn.Embedding(10, 2, sparse=True)
    table(torch.tensor([rank(), 7, 7])).sum().backward()
    add_up_gradients([*parameters, *table.parameters()])
    for number in (0, 1, 3):
        gradient = parameters[number].grad
        assert gradient is not None
        assert bool((gradient == 6).all())
    assert parameters[2].grad is not None
    assert torch.equal(parameters[2].grad, torch.arange(20.0).view(5, 4).t() * 6)
    assert parameters[4].grad is None
    held = table.weight.grad
    assert held is not None
    assert held.is_coalesced()
    assert held.indices()[0].tolist() == [0, 1, 2, 7]
    assert held.values()[:, 0].tolist() == [1, 1, 1, 6]


def normalisation() -> None:
    """Of parts of 0, 3 and 8 rows: values, gradients and running statistics are torch's of all 11."""
    torch.manual_seed(5)
    values, aim = torch.randn(11, 4, dtype=torch.float64) * 3 + 1, torch.randn(11, 4, dtype=torch.float64)
    whole, own = nn.BatchNorm1d(4).double(), BatchNorm(4).double()
    mine = slice(*((0, 0), (0, 3), (3, 11))[rank()])
    for _ in range(3):
        inputs, part = values.clone().requires_grad_(), values[mine].clone().requires_grad_()
        whole.zero_grad()
        own.zero_grad()
        (whole(inputs) * aim).sum().backward()
        (own(part) * aim[mine]).sum().backward()
        add_up_gradients(own.parameters())
        assert isinstance(inputs.grad, Tensor)
        assert isinstance(part.grad, Tensor)
        assert torch.allclose(part.grad, inputs.grad[mine], rtol=1e-12, atol=1e-14)
    for one, other in zip(whole.parameters(), own.parameters(), strict=True):
        assert isinstance(one.grad, Tensor)
        assert isinstance(other.grad, Tensor)
        assert torch.allclose(one.grad, other.grad, rtol=1e-12, atol=1e-14)
    for name, held in whole.state_dict().items():
        assert torch.allclose(held, own.state_dict()[name], rtol=1e-12, atol=1e-14), name
    assert torch.equal(own.eval()(values[:1]), own(values)[:1])


def tensors_and_notes() -> None:
    """What rank 0 has, the others get: of every type that a checkpoint holds, empty ones and numbers too."""
    given = {
        "a": torch.arange(6).view(2, 3),
        "b": torch.tensor(2.5),
        "c": torch.empty(0, 7),
        "d": torch.ones(3, dtype=torch.bfloat16),
        "e": torch.arange(5, dtype=torch.uint8),
        "f": torch.ones(4, 2).t(),
    }
    found, note = share_out(given if rank() == 0 else {}, {"epoch": 3, "best": float("-inf")} if rank() == 0 else None)
    assert note == {"epoch": 3, "best": float("-inf")}
    assert list(found) == list(given)
    for name, value in given.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    assert [int(each) for each in gather(torch.tensor(rank()))] == [0, 1, 2]
    assert add_up(torch.tensor([1.0, rank()])).tolist() == [3.0, 3.0]


def refusals() -> None:
    """Where ranks 1 and 2 are refused, rank 1 says why and no rank goes on; then they are in step again."""

    def work() -> int:
        if rank():
            raise QuoremError("a rule", found=f"rank {rank()}")
        return 7

    with pytest.raises(QuoremError if rank() == 1 else Elsewhere, match="rank 1" if rank() == 1 else ""):
        agree(work)
    assert agree(rank) == rank()


def nothing_stays() -> None:
    """The group's threads are gone, whatever has been imported since: one that is left may abort the exit."""
    for path in Path("/proc/self/task").glob("*/comm"):
        assert "gloo" not in path.read_text()


if __name__ == "__main__":
    main()
