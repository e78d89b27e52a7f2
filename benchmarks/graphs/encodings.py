"""What the stage of ids costs, apart from the lookup: 26 columns of raw values become ids, by each encoding.

Legend: B rows of a call.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from quorem.export import tables
from quorem.export.graph import TABLES, Array, Graph, value_info
from quorem.export.ids import encode
from quorem.export.side import whole_rows
from quorem.export.tensors import Tensors
from quorem.export.vocabulary import vocabularies
from quorem.protos import manifest_pb2 as pb

from .clock import Prepare, calls_for, race
from .ends import OUTPUT

BATCHES = (1, 16, 128, 1024)
COLUMNS, VALUES = 26, 100_000  # kept values of each column; a quarter of the drawn ones are unseen
ENCODINGS = ("none", "id", "hash", "vocabulary")


def measure(work: Path, rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    """All cells, and notes; `work` gets 24 MB."""
    rng, sessions, notes = np.random.default_rng(0), dict[str, onnxruntime.InferenceSession](), list[str]()
    kept = [np.unique(rng.integers(-(2**62), 2**62, VALUES)) for _ in range(COLUMNS)]
    for name in ENCODINGS:
        features, weights = [_feature(name, k, len(kept[k])) for k in range(COLUMNS)], dict[str, Array]()
        for feature, values in zip(features, kept, strict=True):
            weights[f"vocabulary.{feature.name}.values"] = values
            weights[f"vocabulary.{feature.name}.ids"] = np.arange(1, len(values) + 1, dtype=np.int32)
        schema, graph = pb.Schema(features=features), Graph()
        ids = "ids"
        if name != "none":
            fields = [pb.Field(feature=feature.name) for feature in features]
            known = vocabularies(schema, weights.__getitem__)
            ids = encode(graph, whole_rows(schema)[0], fields, known, "int32").tensor
            if len(known.entries):
                share = (known.entries.nbytes + known.displacements.nbytes) / sum(map(len, kept))
                notes.append(f"A vocabulary takes {share:.2f} bytes a value; {len(graph.nodes)} nodes for all columns.")
        graph.node(OUTPUT, "Identity", ids)
        output = onnx.helper.make_tensor_value_info(
            OUTPUT, onnx.TensorProto.INT64 if name == "none" else onnx.TensorProto.INT32, None
        )
        here = work / name
        here.mkdir(exist_ok=True)
        onnx.save(graph.model([value_info("ids", "int64", COLUMNS)], [output]), str(here / "ids.onnx"))
        tables.write(here / TABLES, tuple(graph.store.packed.values()), _Nothing())
        sessions[name] = _session(here / "ids.onnx")
    cells = list[dict[str, Any]]()
    for rows in BATCHES:
        variants = {name: _variant(session, kept, rows, rng) for name, session in sessions.items()}
        for timed in race(variants, rounds, calls_for(rows)):
            cells.append({"rows": rows, **timed.as_json()})
            print(f"{rows:5} rows  {timed.variant:12} {timed.us} us", flush=True)
    return cells, notes


class _Nothing(Tensors):
    """No run stands behind these tables: all their parts are arrays."""

    def __init__(self) -> None:
        pass


def _feature(encoding: str, k: int, size: int) -> pb.Feature:
    feature = pb.Feature(name=f"C{k}", side=pb.CANDIDATE, values=pb.INTEGER)
    if encoding == "hash":
        feature.hash.CopyFrom(pb.Hash(buckets=size, seed=k))
    elif encoding == "vocabulary":
        feature.vocabulary.CopyFrom(pb.Vocabulary(size=size, min_count=1))
    else:
        feature.id.CopyFrom(pb.IdRange(size=size, out_of_range=pb.RARE))
    return feature


def _variant(session: onnxruntime.InferenceSession, kept: list[Array], rows: int, rng: np.random.Generator) -> Prepare:
    def prepare() -> partial[object]:
        raw = np.stack([rng.choice(values, rows) for values in kept], axis=1)
        raw += rng.random(raw.shape) < 0.25
        return partial(session.run, [OUTPUT], {"ids": raw})

    return prepare


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
