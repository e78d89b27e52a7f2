"""PlainNumbers: the numbers of one type that stand in a request as they are, column by column, become a graph's inputs.

Legend: R rows of an input; C columns.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter, mul

import numpy as np

from ..protos.ids import MISSING, Int64s, UInt64s, offsets
from .columns import FLOAT32, INT64
from .graph import Graph
from .model import CANDIDATE_DENSE, CANDIDATE_IDS, CONTEXT_DENSE, CONTEXT_IDS, DENSE, IDS, Inputs, Model, are_finite

EMPTY = -1  # the place of a part without values


@dataclass(frozen=True, slots=True)
class _Filled:
    """An input, (R, C), whose values begin at a byte.

    bounded, firsts, sizes: its columns whose ids are refused out of range, and, (…, 1), where those ranges begin and
        how many ids they hold.
    """

    name: str
    shape: tuple[int, int]
    start: int
    bounded: Int64s
    firsts: Int64s
    sizes: UInt64s


class PlainNumbers:
    """Ids, or dense numbers."""

    def __init__(
        self, model: Model, graph: Graph, places: Mapping[str, int], context: Collection[str], rows: int, *, ids: bool
    ) -> None:
        """Plan for requests of one form.

        Args:
            model: whose features are all plain numbers.
            graph: of the model.
            places: of the columns among the parts of a request, by feature.
            context: the features that have one value.
            rows: that the others have, and the graph's inputs.
            ids: whether these are the ids.
        """
        self._dtype = INT64 if ids else FLOAT32
        columns, times = [EMPTY], [1]  # the place of each, and how often its values are taken; one that is always there
        self._inputs: list[_Filled] = []
        ranges = {name: each for name, _, _, each in model.bounded}
        start = 0
        for name in (IDS, CONTEXT_IDS, CANDIDATE_IDS) if ids else (DENSE, CONTEXT_DENSE, CANDIDATE_DENSE):
            if name not in graph.names:
                continue
            shared, own = name in (CONTEXT_IDS, CONTEXT_DENSE), name in (CANDIDATE_IDS, CANDIDATE_DENSE)
            held = [
                each
                for each in (model.layout.slots if ids else model.layout.dense)
                if (each in context or not shared) and (each not in context or not own)
            ]
            count = 1 if shared else rows
            columns += [places[each] for each in held]
            times += [count if each in context else 1 for each in held]
            bounded = [each for each in held if each in ranges]
            within = np.array([held.index(each) for each in bounded], np.int64)
            firsts = np.array([[ranges[each].first] for each in bounded], np.int64)
            sizes = np.array([[ranges[each].size] for each in bounded], np.uint64)
            self._inputs.append(_Filled(name, (len(held), count), start, within, firsts, sizes))
            start += len(held) * count * self._dtype.itemsize
        self._count = start // self._dtype.itemsize
        self._values_of, self._times = itemgetter(*columns), times if max(times) > 1 else None

    def inputs(self, parts: Sequence[bytes], found: Inputs) -> bool:
        """Add the inputs, (R, C) each, to those that were found; False where a value is to be refused."""
        values = self._values_of(parts)
        data = b"".join(map(mul, values, self._times) if self._times else values)
        if self._dtype is FLOAT32 and not are_finite(np.ndarray((self._count,), FLOAT32, data)):
            return False
        for each in self._inputs:
            array = np.ndarray(each.shape, self._dtype, data, each.start)
            if len(each.bounded):
                ids = array[each.bounded]
                if np.count_nonzero((offsets(ids, each.firsts) >= each.sizes) & (ids != MISSING)):
                    return False
            found[each.name] = array.T.copy()
        return True
