"""Values of a net: what a layer yields, as pieces of its columns, each computed once a request or for every row.

In a row-wise graph every piece has the batch's rows. In a ranking graph a piece of the context has one row, and layers
keep it apart for as long as they can. Pieces need not stand in the order of the columns: whoever reads a value permutes
weights, which costs nothing, not numbers.
Legend: B rows of the graph (N candidates); W width of a value; V vectors of width D in a piece [B, V, D].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .graph import Array, Graph
from .side import CONTEXT

Positions = npt.NDArray[np.int64]
U8_STEPS = 255  # between the least and the greatest number of a uint8


@dataclass(frozen=True)
class Range:
    """The least and the greatest number of each column of a value over the calibration rows, float64 [W] each."""

    low: Array
    high: Array

    def scale(self, columns: Positions) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of some columns together: number = (code - zero) * scale; zero is a code."""
        low, high = min(0.0, float(self.low[columns].min())), max(0.0, float(self.high[columns].max()))
        scale = np.float32((high - low) / U8_STEPS) or np.float32(1)
        return scale, np.uint8(np.clip(round(-low / float(scale)), 0, U8_STEPS))


@dataclass(frozen=True)
class Piece:
    """Some columns of a value in one tensor.

    tensor: [rows, *shape], 1 row where `once`; "" where `deferred`.
    shape: (W,) or (V, D).
    columns: which columns of the value the tensor's are, int64 [W] or [V * D].
    deferred: None, or what the columns are, until a reader asks for them: a linear layer need not.
    code: None, or the tensor is uint8: number = tensor * code.
    """

    tensor: str
    shape: tuple[int, ...]
    columns: Positions
    once: bool = False
    deferred: "Scaled | Crossed | None" = None
    code: float | None = None

    @property
    def width(self) -> int:
        """W, or V * D."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Scaled:
    """first * times + plus: `times` float32 [rows, 1], `plus` float64 [W]."""

    first: "Value"
    times: str
    plus: Array


@dataclass(frozen=True)
class Crossed:
    """first * (matrix source + bias) + source, component by component: DCN-v2's layer; float64 [W, W] and [W].

    int8: the range of `first`, if the product is to be in int8.
    """

    first: "Value"
    source: "Value"
    matrix: Array
    bias: Array
    int8: "Range | None"


@dataclass(frozen=True)
class Value:
    """Pieces that hold every column of a value once."""

    pieces: tuple[Piece, ...]

    @property
    def width(self) -> int:
        """W."""
        return sum(piece.width for piece in self.pieces)

    @property
    def once(self) -> bool:
        """Whether the whole value is the same for all rows."""
        return all(piece.once for piece in self.pieces)

    def side(self, *, once: bool) -> tuple[Piece, ...]:
        """The pieces of one side."""
        return tuple(piece for piece in self.pieces if piece.once == once)


def at(once: bool) -> str:
    """What the names of nodes of a side begin with."""
    return CONTEXT if once else ""


def piece(tensor: str, width: int, *, once: bool = False) -> Piece:
    """A piece that is a whole value, its columns in order."""
    return Piece(tensor, (width,), np.arange(width), once)


def beside(values: Sequence[Value]) -> Value:
    """Values side by side; no node."""
    found, start = list[Piece](), 0
    for value in values:
        found.extend(replace(each, columns=each.columns + start) for each in value.pieces)
        start += value.width
    return Value(tuple(found))


def flat(graph: Graph, each: Piece) -> str:
    """A piece's numbers, [rows, W]."""
    if isinstance(each.deferred, Scaled):
        plus = graph.constant(f"scaled.plus/{each.deferred.times}", each.deferred.plus.astype(np.float32))
        first = whole(graph, f"scaled/{each.deferred.times}", each.deferred.first)
        product = graph.node(f"{at(each.once)}scaled.product/{each.deferred.times}", "Mul", first, each.deferred.times)
        return graph.node(f"{at(each.once)}scaled/{each.deferred.times}", "Add", product, plus)
    assert each.deferred is None, "a cross layer is deferred for a linear layer alone"
    return (
        graph.node(f"{at(each.once)}flat/{each.tensor}", "Flatten", each.tensor)
        if len(each.shape) == 2
        else each.tensor
    )


def cube(graph: Graph, each: Piece, dim: int) -> str:
    """A piece of whole vectors as [rows, W / dim, dim]."""
    if each.shape[1:] == (dim,) and not each.deferred:
        return each.tensor
    tensor = flat(graph, each)
    return graph.node(
        f"{at(each.once)}cube.{dim}/{tensor}", "Reshape", tensor, graph.integers(0, each.width // dim, dim)
    )


def joined(graph: Graph, name: str, value: Value, *, once: bool) -> Piece | None:
    """All of a side's pieces in one tensor [rows, W]; None where there are none."""
    pieces = value.side(once=once)
    if not pieces:
        return None
    if len(pieces) == 1 and pieces[0].code is not None:
        return pieces[0]
    columns = np.concatenate([each.columns for each in pieces])
    tensor = graph.concat(f"{at(once)}joined/{name}", [flat(graph, each) for each in pieces])
    return Piece(tensor, (len(columns),), columns, once)


def in_vectors(graph: Graph, name: str, value: Value, dims: Sequence[int]) -> Value:
    """A value of vectors of these dims in pieces of whole ones; itself where it comes in such.

    A vector of which both sides hold columns is every row's, and so are all others then.
    """
    starts, owner = np.cumsum([0, *dims])[:-1], np.repeat(np.arange(len(dims)), dims)

    def is_whole(each: Piece) -> bool:
        """Whether the columns are those of whole vectors, one vector after the other."""
        numbers = owner[each.columns]
        firsts = each.columns == starts[numbers]
        ends = np.flatnonzero(np.r_[firsts, True])
        follow = firsts[1:] | (each.columns[1:] == each.columns[:-1] + 1)
        return bool(firsts[0] and follow.all() and (np.diff(ends) == np.array(dims)[numbers[firsts]]).all())

    if all(is_whole(each) for each in value.pieces):
        return value
    shared, own = (
        np.concatenate([np.zeros(0, np.int64), *(owner[each.columns] for each in value.side(once=once))])
        for once in (True, False)
    )
    if np.intersect1d(shared, own).size:
        return Value((piece(whole(graph, name, value), value.width),))
    found = [one for once in (True, False) if (one := joined(graph, name, value, once=once))]
    return Value(tuple(Piece(_sorted(graph, name, one), (one.width,), np.sort(one.columns), one.once) for one in found))


def vectors(graph: Graph, name: str, value: Value, dim: int, *, once: bool) -> tuple[str, Positions] | None:
    """All of a side's vectors as [rows, V, dim], and which of the value's they are; None where there are none.

    The value comes in pieces of whole vectors: see `in_vectors`.
    """
    pieces = value.side(once=once)
    if not pieces:
        return None
    tensor = graph.concat(f"{at(once)}vectors/{name}", [cube(graph, each, dim) for each in pieces])
    return tensor, np.concatenate([each.columns for each in pieces])[::dim] // dim


def whole(graph: Graph, name: str, value: Value) -> str:
    """A value as [rows, W], its columns in order; the context's numbers stand in every row if there are others."""
    each, shared = joined(graph, name, value, once=False), joined(graph, name, value, once=True)
    if shared is None or each is None:
        one = each or shared
        assert one is not None
        return _sorted(graph, name, one)
    tensor = graph.concat(f"whole/{name}", [repeated(graph, shared, each.tensor), each.tensor])
    return _sorted(graph, name, Piece(tensor, (value.width,), np.concatenate([shared.columns, each.columns])))


def repeated(graph: Graph, shared: Piece, like: str) -> str:
    """The context's numbers in as many rows as `like` has, [B, W]."""
    rows = graph.node(f"rows/{like}", "Shape", like, start=0, end=1)
    shape = graph.node(f"rows.shape/{like}", "Concat", rows, graph.integers(1), axis=0)
    tensor = flat(graph, shared)
    return graph.node(f"repeated/{tensor}/{like}", "Expand", tensor, shape)


def mapped(value: Value, function: Callable[[Piece], str]) -> Value:
    """Every piece through a function that gives a tensor [rows, W] of the same columns."""
    return Value(tuple(Piece(function(each), (each.width,), each.columns, each.once) for each in value.pieces))


def _sorted(graph: Graph, name: str, each: Piece) -> str:
    tensor, order = flat(graph, each), np.argsort(each.columns, kind="stable")
    return graph.pick(f"{at(each.once)}sorted/{name}", tensor, order.tolist(), each.width)
