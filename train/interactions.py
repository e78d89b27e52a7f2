"""Interactions: products of all pairs of vectors, forward and back in the fewest passes; the bits are autograd's.

Legend: B rows; V vectors of width D; P = V (V - 1) / 2 pairs.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def sum_of_pairs(vectors: Tensor) -> Tensor:
    """Twice the sum over pairs of products of vectors, component by component: (B, V, D) -> (B, D)."""
    found = _SumOfPairs.apply(vectors)
    assert isinstance(found, Tensor)
    return found


def pairs(vectors: Tensor) -> Tensor:
    """The sum over pairs of dot products of vectors, half of `sum_of_pairs` over components: (B, V, D) -> (B, 1)."""
    found = _Pairs.apply(vectors)
    assert isinstance(found, Tensor)
    return found


def dots(vectors: Tensor) -> Tensor:
    """The dot product of each pair: (B, V, D) -> (B, P), row by row of the triangle below the diagonal."""
    found = _Dots.apply(vectors)
    assert isinstance(found, Tensor)
    return found


class _SumOfPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(1)
        ctx.save_for_backward(vectors, total)
        return total.square() - vectors.square().sum(1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        twice = grad_outputs[0] * 2
        own = vectors * twice.unsqueeze(1)
        return torch.sub((twice * total).unsqueeze(1), own, out=own)


class _Pairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(1)
        ctx.save_for_backward(vectors, total)
        return (total.square() - vectors.square().sum(1)).sum(1, keepdim=True) / 2

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        (gradient,) = grad_outputs
        own = vectors * gradient.unsqueeze(1)  # one number for all of a row's vectors
        return torch.sub((total * gradient).unsqueeze(1), own, out=own)


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        ctx.dtype, device = vectors.dtype, vectors.device.type
        if torch.is_autocast_enabled(device):
            vectors = vectors.to(torch.get_autocast_dtype(device))
        ctx.save_for_backward(vectors)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        below, _ = _triangle(vectors.shape[1], products.device)
        return products.flatten(1).index_select(1, below)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        (gradient,) = grad_outputs
        count = vectors.shape[1]
        _, places = _triangle(count, gradient.device)
        padded = torch.cat([gradient, gradient.new_zeros(len(gradient), 1)], dim=1)
        square = padded.index_select(1, places).view(-1, count, count)
        own = torch.bmm(square, vectors).to(ctx.dtype)
        own += torch.bmm(vectors.transpose(1, 2), square).transpose(1, 2)
        return own


@lru_cache(maxsize=16)
def _triangle(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places below the diagonal of a square, row by row, (P,); and of each place its pair, P elsewhere, (V * V,)."""
    below = torch.tril_indices(count, count, offset=-1, device=device)
    flat = below[0] * count + below[1]
    places = torch.full((count * count,), len(flat), device=device)
    places[flat] = torch.arange(len(flat), device=device)
    return flat, places
