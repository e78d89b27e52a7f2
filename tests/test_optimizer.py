"""Row-wise Adagrad = its formula and, at dimension one, Adagrad; every optimizer's state survives a checkpoint."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from quorem.train.optimizer import load_state_tensors, make_optimizer, state_tensors
from quorem.train.recipe import TrainConfig
from torch import Tensor, nn

OPTIMIZERS = ("adam", "amsgrad", "adagrad", "rowwise_adagrad")
STEPS = 5


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]


def gradient(weight: Tensor, step: int) -> Tensor:
    """Of a step; the rows of one parity have none."""
    found = torch.randn(weight.shape, generator=torch.Generator().manual_seed(100 * step + len(weight)))
    found[step % 2 :: 2] = 0
    return found


def take(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], steps: range) -> None:
    for step in steps:
        for weight in parameters:
            weight.grad = gradient(weight, step)
        optimizer.step()


def reference(weight: Tensor, lr: float, decay: float, *, rowwise: bool) -> npt.NDArray[np.float64]:
    """Adagrad in float64, row by row or weight by weight."""
    found = weight.detach().double().numpy().copy()
    total = np.zeros(len(found) if rowwise else found.shape)
    for step in range(STEPS):
        g = gradient(weight, step).double().numpy() + decay * found
        total += (g**2).mean(axis=1) if rowwise else g**2
        found -= lr * g / (np.sqrt(total[:, None] if rowwise else total) + 1e-10)
    return found


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rowwise_adagrad_is_its_formula(decay: float) -> None:
    table, matrix, bias = parameters = weights((6, 4), (5, 3), (7,))
    expected = [
        reference(table, 0.1, decay, rowwise=True),
        *(reference(each, 0.1, 0.0, rowwise=False) for each in (matrix, bias)),
    ]
    config = TrainConfig(optimizer="rowwise_adagrad", lr=0.1, l2=decay, l2_rows="all")
    optimizer = make_optimizer(config, [table], [matrix, bias])
    take(optimizer, parameters, range(STEPS))
    for found, wanted in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert [each.numel() for each in state_tensors(optimizer).values()] == [6, 15, 7]


def test_rowwise_adagrad_at_dimension_one_is_adagrad() -> None:
    results = list[list[Tensor]]()
    for name in ("adagrad", "rowwise_adagrad"):
        table, matrix = parameters = weights((6, 1), (5, 3))
        config = TrainConfig.model_validate({"optimizer": name, "lr": 0.1, "l2": 0.2, "l2_rows": "all"})
        take(make_optimizer(config, [table], [matrix]), parameters, range(STEPS))
        results.append([each.detach() for each in parameters])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_rows_without_a_gradient_stay() -> None:
    (table,) = weights((6, 4))
    before = table.detach().clone()
    optimizer = make_optimizer(TrainConfig(optimizer="rowwise_adagrad"), [table], [])
    table.grad = torch.zeros_like(table)
    table.grad[2] = 1.0
    optimizer.step()
    changed = (table.detach() != before).any(1)
    assert changed.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_and_learning_rate_survive_a_checkpoint(name: str) -> None:
    config = TrainConfig.model_validate({"optimizer": name, "lr": 0.1, "l2": 0.2, "l2_rows": "all"})
    whole = weights((6, 4), (5, 3), (7,))
    optimizer = make_optimizer(config, whole[:1], whole[1:])
    take(optimizer, whole, range(2))
    kept = {key: value.clone() for key, value in state_tensors(optimizer).items()}
    parted = [nn.Parameter(each.detach().clone()) for each in whole]
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    take(optimizer, whole, range(2, STEPS))

    resumed = make_optimizer(config, parted[:1], parted[1:])
    load_state_tensors(resumed, kept, 0.05)
    take(resumed, parted, range(2, STEPS))
    assert all((found == expected).all() for found, expected in zip(parted, whole, strict=True))
    assert all((state_tensors(resumed)[key] == value).all() for key, value in state_tensors(optimizer).items())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rows", ["batch", "all"])
def test_weights_decay_in_tables_alone_and_only_if_whole_tables_do(name: str, rows: str) -> None:
    config = TrainConfig.model_validate({"optimizer": name, "lr": 0.1, "l2": 0.2, "l2_rows": rows})
    table, matrix = parameters = weights((6, 4), (5, 3))
    optimizer = make_optimizer(config, [table], [matrix])
    before = [each.detach().clone() for each in parameters]
    for weight in parameters:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    changed = [bool((now.detach() != then).any()) for now, then in zip(parameters, before, strict=True)]
    assert changed == [rows == "all", False]
