"""The plain design that most code has: one nn.Embedding a field, default Adam. Imports nothing but torch."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .shapes import BOTTOM, DIM, FIELDS, LR, MLP, NUMBERS, TOP, Step


def mlp(widths: Sequence[int], *, last: bool) -> nn.Sequential:
    """Linear layers with ReLU between them, and after the last one unless it gives the logit."""
    parts = list[nn.Module]()
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*(parts[:-1] if last else parts))


class DeepFM(nn.Module):
    """First order, factorization machine and MLP over vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp([FIELDS * DIM, *MLP, 1], last=True)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, vectors: Tensor, first: Tensor | None, _: Tensor) -> Tensor:
        """(B, 26, 16), (B, 26) and numbers -> logits (B,)."""
        assert first is not None
        pairs = (vectors.sum(1).square() - vectors.square().sum(1)).sum(1) / 2
        return first.sum(1) + pairs + self.mlp(vectors.flatten(1)).squeeze(1) + self.bias


class DLRM(nn.Module):
    """Dots of all pairs of vectors and of the numbers' vector, under an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = mlp([NUMBERS, *BOTTOM, DIM], last=False)
        self.top = mlp([DIM + (FIELDS + 1) * FIELDS // 2, *TOP, 1], last=True)
        self.register_buffer("below", torch.tril_indices(FIELDS + 1, FIELDS + 1, offset=-1))

    def forward(self, vectors: Tensor, _: Tensor | None, numbers: Tensor) -> Tensor:
        """(B, 26, 16) and numbers (B, 13) -> logits (B,)."""
        beside = self.bottom(numbers)
        stacked = torch.cat([beside.unsqueeze(1), vectors], dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        below = self.get_buffer("below")
        return self.top(torch.cat([beside, products[:, below[0], below[1]]], dim=1)).squeeze(1)


DESIGNS = {"deepfm": DeepFM, "dlrm": DLRM}


def make_step(design: str, sizes: Sequence[int], *, frozen: bool = False) -> Step:
    """A step over one nn.Embedding a field; with `frozen` tables only the layers learn."""
    torch.manual_seed(1)
    tables = nn.ModuleList(nn.Embedding(n, DIM) for n in sizes)
    linear = nn.ModuleList(nn.Embedding(n, 1) for n in sizes) if design == "deepfm" else nn.ModuleList()
    for each in [*tables, *linear]:
        for weight in each.parameters():
            nn.init.normal_(weight, 0, 1e-4)
            weight.requires_grad_(not frozen)
    layers = DESIGNS[design]()
    whole = nn.ModuleList([tables, linear, layers])
    optimizer = torch.optim.Adam([each for each in whole.parameters() if each.requires_grad], lr=LR)

    def step(ids: Tensor, numbers: Tensor, labels: Tensor) -> None:
        vectors = torch.stack([table(ids[:, k]) for k, table in enumerate(tables)], dim=1)
        first = torch.cat([table(ids[:, k]) for k, table in enumerate(linear)], dim=1) if len(linear) else None
        loss = binary_cross_entropy_with_logits(layers(vectors, first, numbers), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
