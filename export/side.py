"""A side of a request: the graph's inputs that carry it, and the features that stand in them.

A row-wise graph has one side, of B rows. A ranking graph has two: the context, of one row, and the candidates, of N.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from ..protos import manifest_pb2 as pb
from ..protos.schema import layout
from .graph import value_info

CONTEXT = "context."  # before the names of nodes that run once a request


@dataclass(frozen=True)
class Side:
    """Inputs `ids` int64 [rows, slots] and `dense` float32 [rows, columns] of the features of `schema`, in its order.

    once: one row, whatever the number of candidates.
    """

    ids: str
    dense: str
    schema: pb.Schema
    once: bool

    @property
    def prefix(self) -> str:
        """What the names of the side's nodes begin with."""
        return CONTEXT if self.once else ""

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The side's inputs; none of width 0."""
        places = layout(self.schema)
        found = list[onnx.ValueInfoProto]()
        if places.slot_count:
            found.append(value_info(self.ids, "int64", places.slot_count, once=self.once))
        if places.dense_count:
            found.append(value_info(self.dense, "float32", places.dense_count, once=self.once))
        return found


def whole_rows(schema: pb.Schema) -> list[Side]:
    """The side of a row-wise graph: ids [B, S], dense [B, D]."""
    return [Side("ids", "dense", schema, once=False)]


def context_and_candidates(schema: pb.Schema) -> list[Side]:
    """The sides of a ranking graph: context_ids [1, Sc], context_dense [1, Dc]; candidate_ids [N, Sk] and so on."""
    return [
        Side("context_ids", "context_dense", _features(schema.features, pb.CONTEXT), once=True),
        Side("candidate_ids", "candidate_dense", _features(schema.features, pb.CANDIDATE), once=False),
    ]


def _features(features: Sequence[pb.Feature], side: pb.Side) -> pb.Schema:
    return pb.Schema(features=[feature for feature in features if feature.side == side])
