"""Layers: one torch function per layer kind, and the modules of those kinds that have weights or state.

Legend: B rows; W the width of a layer's value [B, W].
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..protos import manifest_pb2 as pb
from .dropout import Dropout

ROLES = {"running_mean": "mean", "running_var": "variance"}  # torch's names, where the manifest has others


class Cross(nn.Module):
    """y = x0 (x . w) + b + x (DCN: Wang et al., ADKDD'17, section 2.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))

    def forward(self, first: Tensor, value: Tensor) -> Tensor:
        """x0 and x, (B, W) each -> (B, W)."""
        return first * (value @ self.weight).unsqueeze(1) + self.bias + value


class CrossMatrix(nn.Module):
    """y = x0 * (M x + b) + x (DCN-v2: Wang et al., WWW'21, section 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(width, width)), nn.Parameter(torch.empty(width))

    def forward(self, first: Tensor, value: Tensor) -> Tensor:
        """x0 and x, (B, W) each -> (B, W)."""
        return first * functional.linear(value, self.weight, self.bias) + value


class LowRankCross(nn.Module):
    """The same where M = U V^T."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.empty(width, rank)), nn.Parameter(torch.empty(width, rank))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, first: Tensor, value: Tensor) -> Tensor:
        """x0 and x, (B, W) each -> (B, W)."""
        return first * functional.linear(value @ self.v, self.u, self.bias) + value


def make_module(layer: pb.Layer) -> nn.Module | None:
    """The torch module of a kind that has weights or state."""
    kind = layer.WhichOneof("kind")
    if kind == "linear":
        return nn.Linear(layer.linear.inputs, layer.linear.outputs)
    if kind == "batchnorm":
        return nn.BatchNorm1d(layer.batchnorm.width, eps=layer.batchnorm.epsilon)
    if kind == "dropout":
        return Dropout(layer.dropout.probability)
    if kind == "cross":
        return Cross(layer.cross.width)
    if kind == "cross_matrix":
        width, rank = layer.cross_matrix.width, layer.cross_matrix.rank
        return LowRankCross(width, rank) if rank else CrossMatrix(width)
    return None


@torch.no_grad()
def reset_module(module: nn.Module, generator: torch.Generator) -> None:
    """Draw fresh weights: of Xavier's normal distribution; biases are zero, and a batchnorm does nothing yet."""
    if isinstance(module, nn.BatchNorm1d):
        module.reset_parameters()
        return
    for name, weight in module.named_parameters():
        if name == "bias":
            weight.zero_()
        else:
            nn.init.xavier_normal_(weight if weight.dim() > 1 else weight.unsqueeze(0), generator=generator)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The weights by their roles in the manifest."""
    return {ROLES.get(name, name): held for name, held in module.state_dict().items() if held.is_floating_point()}


def _apply(_: pb.Layer, module: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    assert module is not None
    return module(*inputs)


def _activation(layer: pb.Layer, _: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    return torch.relu(inputs[0]) if layer.activation.function == pb.RELU else torch.sigmoid(inputs[0])


def _fm(layer: pb.Layer, _: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    vectors = inputs[0].view(-1, layer.fm.vectors, layer.fm.dim)
    return (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True) / 2


def _dot(layer: pb.Layer, _: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    count = layer.dot.vectors
    vectors = torch.cat(list(inputs), dim=1).view(-1, count, layer.dot.dim)
    products = torch.bmm(vectors, vectors.transpose(1, 2))
    below = torch.tril_indices(count, count, offset=-1, device=vectors.device)
    return products[:, below[0], below[1]]


KINDS: dict[str, Callable[[pb.Layer, nn.Module | None, Sequence[Tensor]], Tensor]] = {
    "concat": lambda _, __, inputs: torch.cat(list(inputs), dim=1),
    "sum": lambda _, __, inputs: reduce(torch.add, inputs),
    "row_sum": lambda _, __, inputs: inputs[0].sum(1, keepdim=True),
    "linear": _apply,
    "batchnorm": _apply,
    "activation": _activation,
    "dropout": _apply,
    "fm": _fm,
    "dot": _dot,
    "cross": _apply,
    "cross_matrix": _apply,
}
