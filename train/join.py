"""The join of two tables' vectors, by product or sum, in one pass each way.

Autograd's own goes over a group's vectors once for every slice: half of what compressed tables cost a step.
Legend: B rows; S slots of a group, of which the first C have the later table; D dim.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["add", "mult", "deviation"]  # deviation: the later vector is kept as its difference from one


def join(vectors: Tensor, part: Tensor, kind: Kind) -> Tensor:
    """(B, S, D) and (B, C, D) -> (B, S, D): joined in the first C slots, as it is in the others."""
    joined = _Join.apply(vectors, part, kind)
    assert isinstance(joined, Tensor)
    return joined


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, part: Tensor, kind: Kind) -> Tensor:
        ctx.kind, ctx.count = kind, part.shape[1]
        if kind != "add":
            ctx.save_for_backward(vectors, part)
        joined = torch.empty_like(vectors)
        head, into = vectors[:, : ctx.count], joined[:, : ctx.count]
        if kind == "add":
            torch.add(head, part, out=into)
        elif kind == "mult":
            torch.mul(head, part, out=into)
        else:
            torch.addcmul(head, head, part, out=into)
        joined[:, ctx.count :] = vectors[:, ctx.count :]
        return joined

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = grad_outputs
        head = gradient[:, : ctx.count]
        if ctx.kind == "add":
            return gradient, head, None
        vectors, part = ctx.saved_tensors
        own = later = None
        if ctx.needs_input_grad[0]:
            own = torch.empty_like(gradient)
            into = own[:, : ctx.count]
            torch.mul(head, part, out=into)
            if ctx.kind == "deviation":
                into += head
            own[:, ctx.count :] = gradient[:, ctx.count :]
        if ctx.needs_input_grad[1]:
            later = head * vectors[:, : ctx.count]
        return own, later, None
