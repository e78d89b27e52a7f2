"""The tape: a calculation in float64, walked backwards for gradients, with what float32 would round at every step.

Each rounding in float32 changes a number x by at most UNIT |x|. The model: those errors are independent, of mean zero,
and bounded (Higham and Mary, SIAM J. Sci. Comput. 2019), so that a step keeps the sum of the squares of the widths of
its errors' ranges, 2 UNIT |x| each. A sum S of n terms t, of whose order nothing is known, has n - 1 partial sums; the
last is S, and for the others' mean square, S^2 / 3 + Q / 6 with Q = sum of t^2 where the order is random, S^2 + Q is
taken: that holds in any order for terms of one sign. A sum of products rounds every product too: Q.

Legend: R rows; N items of rows, of which a row has none, one or several; a value's first axis is R or N.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

UNIT = 2.0**-24
EVALUATIONS = 2  # the trained model's logits were rounded too
ROUNDING = EVALUATIONS * (2 * UNIT) ** 2
FUNCTION = 4  # exp, log and the logistic function are trusted to as many units


@dataclass(eq=False)
class Node:
    """A value of the calculation.

    squares: of the ranges of the errors that arise in this step, element by element; those of its sources are theirs.
    owners: the row of each item, rising; None where the first axis is that of the rows.
    pulls: sources, each with how a gradient of this value becomes one of the source.
    """

    value: Float64s
    squares: Float64s | float
    owners: Int64s | None
    pulls: Sequence[tuple["Node", Callable[[Float64s], Float64s]]] = field(repr=False)


Term = Node | Float64s  # a constant has no gradient
Gradients = dict[Node, Float64s]


class Tape:
    """Steps in order of evaluation."""

    def __init__(self) -> None:
        self.nodes = list[Node]()

    def leaf(self, value: Float64s, squares: Float64s | float = 0.0, owners: Int64s | None = None) -> Node:
        """A number that the calculation begins with, off by errors of ranges whose squares are given."""
        return self._step(value, squares, owners)

    def product(self, spec: str, a: Node, b: Term, squares: Float64s | float = 0.0) -> Node:
        """`np.einsum(spec, a, b)`: products, added along the axes that the result lacks.

        `squares` are those of the ranges of what errors of b do to the result.
        """
        reads, out = spec.split("->")
        left, right = reads.split(",")
        other = _value(b)
        sizes = dict(zip(left + right, a.value.shape + other.shape, strict=True))
        terms = math.prod(size for axis, size in sizes.items() if axis not in out)
        value, products = _einsum(spec, a.value, other), _einsum(spec, a.value**2, other**2)
        pulls = [(a, lambda g: _einsum(f"{out},{right}->{left}", g, other))]
        if isinstance(b, Node):
            pulls.append((b, lambda g: _einsum(f"{out},{left}->{right}", g, a.value)))
        rounded = ROUNDING * (products + _additions(terms, value, products))
        return self._step(value, rounded + squares, a.owners, *pulls)

    def total(self, first: Node, *others: Term) -> Node:
        """Values of one shape, added; a constant may be broadcast."""
        terms = [first, *others]
        value = sum((_value(term) for term in others), first.value)
        squares = sum((_value(term) ** 2 for term in others), first.value**2)
        pulls = [(term, lambda g: g) for term in terms if isinstance(term, Node)]
        return self._step(value, ROUNDING * _additions(len(terms), value, squares), first.owners, *pulls)

    def add_up(self, a: Node, axis: int) -> Node:
        """The sum along an axis that is not the first."""
        value, shape = a.value.sum(axis=axis), a.value.shape
        squares = (a.value**2).sum(axis=axis)
        pull = (a, lambda g: np.broadcast_to(np.expand_dims(g, axis), shape))
        return self._step(value, ROUNDING * _additions(shape[axis], value, squares), a.owners, pull)

    def times(self, a: Node, power: float) -> Node:
        """A product by a power of two, or by -1: exact."""
        return self._step(a.value * power, 0.0, a.owners, (a, lambda g: g * power))

    def quantise(self, a: Node, step: float, low: float, high: float, places: Int64s) -> Node:
        """Some places of the last axis in whole steps between two limits; 0 is one of the steps, so it stays."""
        value, squares, slope = a.value.copy(), np.zeros(a.value.shape), np.ones(a.value.shape)
        value[:, places] = np.clip(a.value[:, places], low, high)
        squares[:, places] = step**2 * (a.value[:, places] != 0)
        slope[:, places] = value[:, places] == a.value[:, places]
        return self._step(value, squares, a.owners, (a, lambda g: g * slope))

    def relu(self, a: Node) -> Node:
        """max(x, 0): exact."""
        return self._step(np.maximum(a.value, 0), 0.0, a.owners, (a, lambda g: g * (a.value > 0)))

    def sigmoid(self, a: Node) -> Node:
        """The logistic function; far from 0 it is as exact as a number near 1."""
        value = 0.5 * (1 + np.tanh(a.value / 2))
        return self._step(value, ROUNDING * FUNCTION**2, a.owners, (a, lambda g: g * value * (1 - value)))

    def softmax(self, a: Node) -> Node:
        """Shares along the last axis: exp, its sum, and a quotient."""
        a = self.total(a, -a.value.max(axis=-1, keepdims=True))
        raised = np.exp(a.value)
        value = raised / raised.sum(axis=-1, keepdims=True)
        squares = ROUNDING * value**2 * (2 * FUNCTION**2 + value.shape[-1])
        pull = (a, lambda g: value * (g - (g * value).sum(axis=-1, keepdims=True)))
        return self._step(value, squares, a.owners, pull)

    def reshape(self, a: Node, *shape: int) -> Node:
        """The same numbers in another shape; the first axis stays."""
        before = a.value.shape
        return self._step(a.value.reshape(len(a.value), *shape), 0.0, a.owners, (a, lambda g: g.reshape(before)))

    def columns(self, a: Node, places: slice | Int64s) -> Node:
        """Some places of the last axis, each at most once."""

        def pull(g: Float64s) -> Float64s:
            whole = np.zeros(a.value.shape)
            whole[..., places] = g
            return whole

        return self._step(a.value[..., places], 0.0, a.owners, (a, pull))

    def concat(self, parts: Sequence[Node], axis: int = 1) -> Node:
        """Values side by side; the node itself where there is one."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([part.value.shape[axis] for part in parts])
        pulls = [(part, lambda g, k=k: np.split(g, ends[:-1], axis=axis)[k]) for k, part in enumerate(parts)]
        return self._step(np.concatenate([part.value for part in parts], axis=axis), 0.0, parts[0].owners, *pulls)

    def gather(self, a: Node, places: Int64s, owners: Int64s) -> Node:
        """The items at some places of the first axis: as many as places."""
        order = np.argsort(places, kind="stable")
        count = len(a.value)
        pull = (a, lambda g: add_by(g[order], places[order], count))
        return self._step(a.value[places], 0.0, owners, pull)

    def pool(self, a: Node, owners: Int64s, shares: Float64s, rows: int) -> Node:
        """Items [N, D] times their shares [N], added row by row: [R, D]; zeros where a row has none."""
        taken = a.value * shares[:, None]
        value, squares = add_by(taken, owners, rows), add_by(taken**2, owners, rows)
        terms = np.bincount(owners, minlength=rows)[:, None]
        pull = (a, lambda g: g[owners] * shares[:, None])
        return self._step(value, ROUNDING * (2 * squares + _additions(terms, value, squares)), None, pull)

    def gradients(self, last: Node) -> Gradients:
        """d last / d every node that it depends on; `last` is [R, 1]."""
        found: Gradients = {last: np.ones_like(last.value)}
        for node in reversed(self.nodes):
            if node in found:
                for source, pull in node.pulls:
                    pulled = pull(found[node])
                    found[source] = found[source] + pulled if source in found else pulled
        return found

    def variation(self, gradients: Gradients, rows: int) -> Float64s:
        """The squares of the ranges of all errors of the tape, as they reach the last value, added; float64 [R]."""
        found = np.zeros(rows)
        for node, gradient in gradients.items():
            if isinstance(node.squares, float) and not node.squares:
                continue
            effects = (node.squares * gradient**2).reshape(len(gradient), -1).sum(axis=1)
            found += effects if node.owners is None else add_by(effects, node.owners, rows)
        return found

    def _step(self, value: Float64s, squares: Float64s | float, owners: Int64s | None, *pulls: Any) -> Node:
        self.nodes.append(Node(value, squares, owners, pulls))
        return self.nodes[-1]


def add_by(values: Float64s, groups: Int64s, count: int) -> Float64s:
    """Values [N, ...] added by group, of which there are `count`; `groups` [N] rise."""
    found = np.zeros((count, *values.shape[1:]))
    present, starts = np.unique(groups, return_index=True)
    if len(present):
        found[present] = np.add.reduceat(values, starts, axis=0)
    return found


def _value(term: Term) -> Float64s:
    return term.value if isinstance(term, Node) else term


def _einsum(spec: str, a: Float64s, b: Float64s) -> Float64s:
    return np.einsum(spec, a, b, optimize=True)


def _additions(terms: int | Int64s, value: Float64s, squares: Float64s) -> Float64s:
    """The partial sums' squares, added: the last is the value, the others as the first lines of this file say."""
    last, others = np.minimum(np.maximum(terms - 1, 0), 1), np.maximum(terms - 2, 0)
    return last * value**2 + others * (value**2 + squares)
