"""Layers: one torch function per layer kind, and the modules of those kinds that have weights or state.

Legend: B rows; W the width of a layer's value [B, W]; V vectors of width D.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..protos import manifest_pb2 as pb
from .batch_norm import BatchNorm
from .dropout import Dropout
from .interactions import dots, pairs, sum_of_pairs

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


class Unify(nn.ModuleDict):
    """Vectors of several dims made as wide as the widest: y = W x + b, shared by those of a dim, or zeros behind x.

    In fp32 always, as what composes vectors. Source: AutoDim (Zhao et al., WWW'21, section 2.2).
    """

    def __init__(self, dims: Sequence[int], dim: int, *, pad: bool) -> None:
        super().__init__({} if pad else {str(own): nn.Linear(own, dim) for own in sorted(set(dims))})
        self.dim = dim
        self.runs = [(own, len(list(same))) for own, same in groupby(dims)]

    @torch.no_grad()
    def reset(self) -> None:
        """Begin as zeros behind x."""
        for name, weight in self.named_parameters():
            if name.endswith(".bias"):
                weight.zero_()
            else:
                nn.init.eye_(weight)

    def forward(self, value: Tensor) -> Tensor:
        """(B, sum of dims) -> (B, V * D) float32."""
        parts, unified = value.float().split([own * count for own, count in self.runs], dim=1), list[Tensor]()
        with torch.autocast(value.device.type, enabled=False):
            for part, (own, count) in zip(parts, self.runs, strict=True):
                unified.append(self._widen(part.reshape(-1, own)).view(len(value), count * self.dim))
        return torch.cat(unified, dim=1)

    def _widen(self, vectors: Tensor) -> Tensor:
        """(n, d) -> (n, D)."""
        own = vectors.shape[1]
        return self[str(own)](vectors) if str(own) in self else functional.pad(vectors, (0, self.dim - own))


class Bias(nn.Module):
    """y = x + b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, value: Tensor) -> Tensor:
        """(B, W) -> (B, W)."""
        return value + self.bias


class Attention(nn.Module):
    """relu(softmax(Q K^T) V + R x) of each head, the heads side by side (AutoInt: Song et al., CIKM'19, section 4)."""

    def __init__(self, vectors: int, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.vectors, self.dim, self.heads = vectors, dim, heads
        self.query, self.key, self.value, self.residual = (
            nn.Parameter(torch.empty(heads * width, dim)) for _ in range(4)
        )

    def forward(self, value: Tensor) -> Tensor:
        """(B, V * D) -> (B, V * heads * width)."""
        vectors = value.unflatten(1, (self.vectors, self.dim))
        query, key, own, residual = (
            functional.linear(vectors, weight).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, V, width)
            for weight in (self.query, self.key, self.value, self.residual)
        )
        shares = torch.softmax(query @ key.transpose(2, 3), dim=3, dtype=torch.float32)  # (B, heads, V, V)
        return torch.relu(shares @ own + residual).transpose(1, 2).flatten(1)


def make_module(layer: pb.Layer) -> nn.Module | None:
    """The torch module of a kind that has weights or state."""
    kind = layer.WhichOneof("kind")
    if kind == "linear":
        return nn.Linear(layer.linear.inputs, layer.linear.outputs)
    if kind == "batchnorm":
        return BatchNorm(layer.batchnorm.width, eps=layer.batchnorm.epsilon)
    if kind == "dropout":
        return Dropout(layer.dropout.probability)
    if kind == "cross":
        return Cross(layer.cross.width)
    if kind == "cross_matrix":
        width, rank = layer.cross_matrix.width, layer.cross_matrix.rank
        return LowRankCross(width, rank) if rank else CrossMatrix(width)
    if kind == "unify":
        return Unify(layer.unify.dims, layer.unify.dim, pad=layer.unify.pad)
    if kind == "bias":
        return Bias(layer.bias.width)
    if kind == "attention":
        attention = layer.attention
        return Attention(attention.vectors, attention.dim, attention.heads, attention.width)
    return None


@torch.no_grad()
def reset_module(module: nn.Module, generator: torch.Generator) -> None:
    """Draw fresh weights: of Xavier's normal distribution; biases are zero, a batchnorm or unify adds nothing yet."""
    if isinstance(module, nn.BatchNorm1d):
        module.reset_parameters()
        return
    if isinstance(module, Unify):
        module.reset()
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


def _vectors(value: Tensor, dim: int) -> Tensor:
    """(B, V * D) -> (B, V, D) float32: in fp32 always, the squares that pairs are taken from are large beside them."""
    return value.float().unflatten(1, (-1, dim))


def _fm(layer: pb.Layer, _: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    return pairs(_vectors(inputs[0], layer.fm.dim))


def _bi_interaction(layer: pb.Layer, _: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    return sum_of_pairs(_vectors(inputs[0], layer.bi_interaction.dim)) / 2


def _dot(layer: pb.Layer, _: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
    count = layer.dot.vectors
    vectors = torch.cat(list(inputs), dim=1).view(-1, count, layer.dot.dim)
    return dots(vectors)


KINDS: dict[str, Callable[[pb.Layer, nn.Module | None, Sequence[Tensor]], Tensor]] = {
    "concat": lambda _, __, inputs: torch.cat(list(inputs), dim=1),
    "sum": lambda _, __, inputs: reduce(torch.add, inputs),
    "row_sum": lambda _, __, inputs: inputs[0].sum(1, keepdim=True),
    "linear": _apply,
    "batchnorm": _apply,
    "activation": _activation,
    "dropout": _apply,
    "fm": _fm,
    "bi_interaction": _bi_interaction,
    "dot": _dot,
    "cross": _apply,
    "cross_matrix": _apply,
    "unify": _apply,
    "bias": _apply,
    "attention": _apply,
}
