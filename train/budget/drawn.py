"""What was drawn: the scheme, dim and bits of every field at the moment, which its tables and vectors follow.

Legend: F fields; S schemes of a field at most; N dims; K numbers of bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Drawn:
    """One option of every field; all tables of a supernet look at the same one.

    schemes: of each field, the number of its scheme among its own.
    dims: (F, N) float32, ones where a field's dim is. bits: (F,) int64, numbers of candidates.
    scheme_weights, bit_weights: (F, S) and (F, K), ones where the field's option is, with the gradient of the choice;
        None where the choice does not learn. `dims` has that gradient where it does.
    """

    schemes: list[int]
    dims: Tensor
    bits: Tensor
    scheme_weights: Tensor | None = None
    bit_weights: Tensor | None = None


def nothing(fields: int, dims: int) -> Drawn:
    """The first scheme and bits of every field, and its last dim."""
    weights = torch.zeros(fields, dims)
    weights[:, -1] = 1
    return Drawn([0] * fields, weights, torch.zeros(fields, dtype=torch.int64))
