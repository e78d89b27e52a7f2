"""The model as graphs: raw64 ids and raw numbers in, logit and click probability out.

model.onnx, row-wise:              rank.onnx, one context and N candidates:
ids    int64   [B, S]              context_ids, candidate_ids      int64   [1, Sc], [N, Sk]
dense  float32 [B, D]              context_dense, candidate_dense  float32 [1, Dc], [N, Dk]
logit  float32 [B]                 logit  float32 [N]
ctr    float32 [B]                 ctr    float32 [N]              sigmoid(logit)

Slots and columns stand as protos/schema.py lays out the features, or those of a side; an input of width 0 is absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..protos import manifest_pb2 as pb
from ..protos.nets import DENSE, EMBEDDINGS, FIRST_ORDER
from ..protos.plan import CLASS_BYTES
from . import layers
from .codes import FLOATS, Codes
from .dense import transform
from .graph import Graph, Packed, Read, Store, value_info
from .ids import encode
from .int8 import FLOAT_LAYERS, Calibrated
from .lookup import in_order, look_up
from .rows import CLASSES, classes_of, dtype_of
from .side import Side, context_and_candidates, whole_rows
from .values import Value, whole
from .vocabulary import Vocabularies, vocabularies

LOGIT, CTR = "logit", "ctr"


@dataclass(frozen=True)
class Model:
    """Graphs over one `tables.bin`.

    row_wise: model.onnx.
    ranking: rank.onnx, or None for the reason `no_ranking`.
    packed: the constants of tables.bin.
    class_arrays: where in it semantic fields have their classes.
    values: the net's values in each of the graphs, by name.
    """

    row_wise: onnx.ModelProto
    ranking: onnx.ModelProto | None
    no_ranking: str
    packed: tuple[Packed, ...]
    class_arrays: tuple[pb.ClassArray, ...]
    values: tuple[Mapping[str, Value], ...]


class Blueprint:
    """What the graphs of a manifest are built from, whatever their precision and their sides."""

    def __init__(self, manifest: pb.Manifest, read: Read) -> None:
        """Of a checked manifest; `read` gives a tensor of its weights."""
        self.manifest, self._read = manifest, read
        self._classes = classes_of([*manifest.plan.fields, *manifest.plan.first_order])
        self._vocabularies: Vocabularies = vocabularies(manifest.schema, read)

    def build(self, codes: Codes = FLOATS, calibrated: Calibrated = FLOAT_LAYERS) -> Model:
        """Both graphs: tables as `codes` says, layers in int8 as `calibrated` does."""
        store, why, schema = Store(), no_ranking(self.manifest), self.manifest.schema
        forms = [whole_rows(schema), *([] if why else [context_and_candidates(schema)])]
        built = [(sides, *self.graph(store, sides, codes, calibrated)) for sides in forms]
        if not why and built[1][2][self.manifest.net.layers[-1].name].once:
            why, built = "no layer reads what the candidates have: all of them score the same", built[:1]
        row_wise, *ranking = (self._model(graph, values, sides) for sides, graph, values in built)
        tables, values = tuple(store.packed.values()), tuple(values for _, _, values in built)
        return Model(row_wise, ranking[0] if ranking else None, why, tables, self._class_arrays(store), values)

    def graph(
        self, store: Store, sides: Sequence[Side], codes: Codes, calibrated: Calibrated
    ) -> tuple[Graph, dict[str, Value]]:
        """A graph up to its last layer, and the net's values by name.

        An input of the net that no layer reads costs nothing; classes stand in `tables.bin` all the same, to be proved.
        """
        graph, manifest = Graph(store), self.manifest
        wanted = {name for layer in manifest.net.layers for name in layer.inputs}
        if self._classes.size:
            graph.table(CLASSES, "int32", (), self._classes.names, self._classes.size)
        values = dict[str, Value]()
        fields = in_order(manifest.plan.fields)
        dtype = dtype_of([*manifest.plan.fields, *manifest.plan.first_order], self._classes)
        ids = [(side, encode(graph, side, fields, self._vocabularies, dtype)) for side in sides]
        ids = [(side, each) for side, each in ids if each.columns]
        for name, prefix, fields in (
            (EMBEDDINGS, "embedding", manifest.plan.fields),
            (FIRST_ORDER, "first_order", manifest.plan.first_order),
        ):
            if name in wanted:
                found = [look_up(graph, prefix, side, fields, each, self._classes, codes) for side, each in ids]
                values[name] = Value(tuple(piece for pieces in found for piece in pieces))
        if DENSE in wanted:
            values[DENSE] = transform(graph, manifest.schema, sides)
        return graph, layers.build(graph, manifest.net, values, self._read, calibrated)

    def _model(self, graph: Graph, values: dict[str, Value], sides: Sequence[Side]) -> onnx.ModelProto:
        last = whole(graph, LOGIT, values[self.manifest.net.layers[-1].name])
        logit = graph.node(LOGIT, "Squeeze", last, graph.integers(1))
        graph.node(CTR, "Sigmoid", logit)
        inputs = [each for side in sides for each in side.inputs]
        return graph.model(inputs, [value_info(LOGIT, "float32"), value_info(CTR, "float32")])

    def _class_arrays(self, store: Store) -> tuple[pb.ClassArray, ...]:
        packed = store.packed
        return tuple(
            pb.ClassArray(feature=feature, table=table, offset=packed[CLASSES].offset + CLASS_BYTES * start)
            for (feature, table), start in self._classes.starts.items()
        )


def no_ranking(manifest: pb.Manifest) -> str:
    """Why a model has no ranking graph; empty if it has one."""
    sides = {feature.side for feature in manifest.schema.features}
    if sides != {pb.CONTEXT, pb.CANDIDATE}:
        return "features stand on one side alone: nothing is shared by the candidates of a request"
    if any(layer.HasField("attention") for layer in manifest.net.layers):
        return "candidates attend to the context and the context to them: nothing of it is the same for all of them"
    return ""
