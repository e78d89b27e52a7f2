"""Functions of path: a small network for each class of a later partition, applied to the vectors of its ids.

Source: Shi et al., KDD'20, section 4.1. Legend: F functions, one a row of the packed table; N vectors of width D; h
width of the hidden layer, 0 for linear functions; W weights of a function (plan.path_width), laid out as the
manifest's Combine.PATH says.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional


def apply_functions(functions: Tensor, rows: Tensor, vectors: Tensor, hidden: int) -> Tensor:
    """Each vector through the function of its row: (F, W), (B, S) int64 and (B, S, D) float32 -> (B, S, D).

    Vectors of one function are brought together in tiles, so that its weights are gathered once a tile: once a vector,
    they would take W numbers for every D. A tile holds as many vectors as a function has on average.
    """
    dim, count = vectors.shape[2], rows.numel()
    size = max(1, count // len(functions))
    place, owners = _tiles(rows.flatten(), len(functions), size)
    values = vectors.new_zeros(len(owners) * size, dim).index_copy(0, place, vectors.reshape(count, dim))
    values = values.view(len(owners), size, dim)
    for depth, (matrix, bias) in enumerate(layers_of(functional.embedding(owners, functions), dim, hidden)):
        values = torch.baddbmm(bias.unsqueeze(1), values.relu() if depth else values, matrix.transpose(1, 2))
    return values.view(-1, dim).index_select(0, place).view_as(vectors)


def _tiles(rows: Tensor, many: int, size: int) -> tuple[Tensor, Tensor]:
    """Where every vector goes, (N,) int64: its tile x `size` + its place there; and each tile's function, int64.

    There are as many tiles as N vectors of `many` functions need at most: their number waits for no device.
    """
    counts = torch.zeros(many, dtype=torch.int64, device=rows.device).scatter_add_(0, rows, torch.ones_like(rows))
    needed = (counts + size - 1) // size
    until = needed.cumsum(0)
    ordered, order = rows.sort()
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[ordered]
    place = torch.empty_like(rows).scatter_(0, order, (until - needed)[ordered] * size + rank)
    most = (len(rows) + min(many, len(rows)) * (size - 1)) // size
    owners = torch.searchsorted(until, torch.arange(most, device=rows.device), right=True)
    return place, owners.clamp_(max=many - 1)  # tiles that are left over have any function: nothing reads them


def layers_of(functions: Tensor, dim: int, hidden: int) -> list[tuple[Tensor, Tensor]]:
    """Matrices (F, outputs, inputs) and biases (F, outputs) of (F, W), as views: of one layer, or two around a ReLU."""
    widths, found, start = ([dim, hidden, dim] if hidden else [dim, dim]), list[tuple[Tensor, Tensor]](), 0
    for inputs, outputs in pairwise(widths):
        middle, end = start + inputs * outputs, start + inputs * outputs + outputs
        found.append((functions[:, start:middle].unflatten(1, (outputs, inputs)), functions[:, middle:end]))
        start = end
    return found


def draw_functions(functions: Tensor, dim: int, hidden: int, deviation: float, generator: torch.Generator) -> None:
    """Fresh functions, in place, that pass a vector on at about its size.

    Linear ones are the identity and N(0, deviation² / D) on it. Those with a hidden layer have He's variance, 2 / D,
    before the ReLU and 1 / h after it, where half of the signal is left. Biases are zero.
    """
    layers = layers_of(functions, dim, hidden)
    for _, bias in layers:
        bias.zero_()
    if not hidden:
        matrix = layers[0][0]
        matrix.normal_(0.0, deviation / math.sqrt(dim), generator=generator)
        matrix.diagonal(dim1=1, dim2=2).add_(1.0)
        return
    layers[0][0].normal_(0.0, math.sqrt(2 / dim), generator=generator)
    layers[1][0].normal_(0.0, 1 / math.sqrt(hidden), generator=generator)
