"""Requests: rows, serialized for the call of a target.

Legend: N rows of a request; S slots of `ids`; D columns of `dense`.
"""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from ...protos import encode, manifest_pb2
from ...protos import open_inference_pb2 as inference
from ...protos.encode import Column, Encoded
from ...protos.errors import WrongSchema
from ..exchange import request_of
from .target import DTYPES, Target

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def request(target: Target, schema: manifest_pb2.Schema, columns: Mapping[str, Column], rows: int) -> bytes:
    """A request of N rows; for Score, the context is that of the first row."""
    if target.protocol == "infer":
        return infer(target, arrays(target, encode.encode(schema, columns, rows, long_bags="refuse")))
    shared = {feature.name for feature in schema.features if feature.side == manifest_pb2.CONTEXT}
    context = {name: _first(column) for name, column in columns.items() if name in shared}
    candidates = {name: column for name, column in columns.items() if name not in shared}
    found = request_of(candidates, rows, context, model=target.model, version=int(target.version))
    return found.SerializeToString()


def infer(target: Target, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A ModelInferRequest of arrays."""
    tensor = inference.ModelInferRequest.InferInputTensor
    return inference.ModelInferRequest(
        model_name=target.model,
        model_version=target.version,
        inputs=[
            tensor(name=name, datatype=DATATYPES[array.dtype], shape=array.shape) for name, array in inputs.items()
        ],
        raw_input_contents=[array.tobytes() for array in inputs.values()],
    ).SerializeToString()


def arrays(target: Target, encoded: Encoded) -> dict[str, npt.NDArray[Any]]:
    """The inputs of an exported model, (N, S) and (N, D), those of no width left out.

    Raises:
        WrongSchema: the server tells of other inputs.
    """
    both: dict[str, npt.NDArray[Any]] = {"ids": encoded.ids, "dense": encoded.dense}
    found = {name: array for name, array in both.items() if array.shape[1]}
    told = {each.name: (each.datatype, each.shape[-1] if each.shape else 0) for each in target.tensors}
    expected = {name: (DATATYPES[array.dtype], array.shape[1]) for name, array in found.items()}
    fits = told.keys() == expected.keys() and all(
        told[name] in ((kind, width), (kind, -1)) for name, (kind, width) in expected.items()
    )
    if told and not fits:
        raise WrongSchema(
            f"the served model has the inputs of its schema, {expected}",
            found=str(told),
            where=f"{target.access.endpoint}, model {target.model!r}",
            remedy="Name the --model or the --bundle that belong together",
        )
    return found


def _first(column: Column) -> Column:
    """The first row of a column."""
    count = 1 if column.lengths is None else int(column.lengths[0])
    return Column(
        integers=None if column.integers is None else column.integers[:count],
        strings=None if column.strings is None else column.strings[:count],
        floats=None if column.floats is None else column.floats[:count],
        lengths=None if column.lengths is None else column.lengths[:1],
        missing=None if column.missing is None else column.missing[:count],
    )
