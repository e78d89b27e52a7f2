"""The model as one row-wise graph: raw64 ids and raw numbers in, logit and click probability out.

Legend: B rows; S slots; D columns.

ids    int64   [B, S]   raw64 slots, as protos/schema.py lays them out; absent where S = 0
dense  float32 [B, D]   raw numbers, NaN = missing; absent where D = 0
logit  float32 [B]
ctr    float32 [B]      sigmoid(logit)
"""

from dataclasses import dataclass

import numpy as np
import onnx

from ..protos import manifest_pb2 as pb
from ..protos.nets import DENSE as DENSE_INPUT
from ..protos.nets import EMBEDDINGS, FIRST_ORDER
from ..protos.schema import layout
from . import layers
from .dense import transform
from .graph import Graph, Packed, Read, Value, value_info
from .ids import DENSE, IDS, encode
from .lookup import look_up
from .rows import CLASSES, classes_of

LOGIT, CTR = "logit", "ctr"


@dataclass(frozen=True)
class Model:
    """A graph, the constants it finds in `tables.bin`, and where in it semantic fields have their classes."""

    proto: onnx.ModelProto
    packed: tuple[Packed, ...]
    class_arrays: tuple[pb.ClassArray, ...]


def build(manifest: pb.Manifest, read: Read) -> Model:
    """Build the graph of a checked manifest; `read` gives a tensor of its weights.

    An input of the net that no layer reads costs nothing; classes stand in `tables.bin` all the same, to be proved.
    """
    graph, schema, places = Graph(), manifest.schema, layout(manifest.schema)
    wanted = {name for layer in manifest.net.layers for name in layer.inputs}
    values, class_arrays = dict[str, Value](), list[pb.ClassArray]()
    classes = classes_of([*manifest.plan.fields, *manifest.plan.first_order])
    if classes.size:
        graph.table(CLASSES, "int32", (), classes.names, classes.size)
        class_bytes = np.dtype(np.int32).itemsize
        for (feature, table), start in classes.starts.items():
            offset = graph.packed[-1].offset + class_bytes * start
            class_arrays.append(pb.ClassArray(feature=feature, table=table, offset=offset))
    if wanted & {EMBEDDINGS, FIRST_ORDER}:
        ids = encode(graph, schema, manifest.plan.fields, read)
        if EMBEDDINGS in wanted:
            values[EMBEDDINGS] = look_up(graph, "embedding", schema, manifest.plan.fields, ids, classes)
        if FIRST_ORDER in wanted:
            values[FIRST_ORDER] = look_up(graph, "first_order", schema, manifest.plan.first_order, ids, classes)
    if DENSE_INPUT in wanted:
        values[DENSE_INPUT] = transform(graph, schema)
    last = layers.build(graph, manifest.net, values, read)
    logit = graph.node(LOGIT, "Squeeze", graph.flat(last), graph.integers(1))
    graph.node(CTR, "Sigmoid", logit)
    inputs = [value_info(IDS, "int64", places.slot_count)] if places.slot_count else []
    if places.dense_count:
        inputs.append(value_info(DENSE, "float32", places.dense_count))
    outputs = [value_info(LOGIT, "float32"), value_info(CTR, "float32")]
    return Model(graph.model(inputs, outputs), tuple(graph.packed), tuple(class_arrays))
