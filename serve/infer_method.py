"""ModelInfer: the Open Inference Protocol's tensors in, tensors out; a function from bytes to bytes.

Legend: B rows; S slots of `ids`; D columns of `dense`.
"""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from ..protos import open_inference_pb2 as pb
from ..protos.encode import Encoded
from ..protos.errors import InputError, OutOfRange, Unimplemented, UnknownColumn, WrongLength, WrongType
from ..protos.ids import MISSING
from .call import Call
from .columns import FLOAT32, INT64
from .graph import CTR, LOGIT
from .messages import parse
from .metadata_methods import DATATYPES
from .model import DENSE, IDS, Model
from .repository import Repository
from .score_method import check_rows
from .settings import Limits

Tensor = pb.ModelInferRequest.InferInputTensor
NAMES = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}
CONTENTS = {INT64: "int64_contents", FLOAT32: "fp32_contents"}
REFUSED_PARAMETERS = ("classification", "shared_memory_region")  # extensions that would change the answer


def model_infer(repository: Repository, request: bytes, call: Call) -> bytes:
    """Answer a serialized ModelInferRequest with a serialized ModelInferResponse.

    Raises:
        InputError: a request that is none, or tensors that the model cannot take.
        NotFound: not served.
        Unimplemented: an extension that this server does not have.
        Overloaded, TooLate, Gone: no time for it.
    """
    started = perf_counter_ns()
    call.begin()
    asked = parse(pb.ModelInferRequest, "inference.ModelInferRequest", request)
    model = repository.model_of_text(asked.model_name, asked.model_version)
    call.model, call.version = model.version.name, model.version.number
    outputs = _outputs(asked)
    arrays = _inputs(asked, model, repository.limits)
    rows = call.rows = len(next(iter(arrays.values())))
    _check_ids(model, arrays.get(IDS))
    _check_dense(arrays.get(DENSE))
    empty = np.empty((rows, 0))
    encoded = Encoded(arrays.get(IDS, empty), arrays.get(DENSE, empty))
    with repository.admission.enter(rows, call):
        ready = perf_counter_ns()
        values = repository.compute(*model.pick(encoded), outputs, call)
        computed = perf_counter_ns()
    call.encode_ns, call.compute_ns = ready - started, computed - ready
    repository.statistics.observe(model, encoded, values[0], logits=outputs[0] == LOGIT)
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=model.version.name,
        model_version=str(model.version.number),
        id=asked.id,
        outputs=[tensor(name=name, datatype="FP32", shape=[rows]) for name in outputs],
        raw_output_contents=[value.astype(FLOAT32, copy=False).tobytes() for value in values],
    ).SerializeToString()


def _outputs(call: pb.ModelInferRequest) -> list[str]:
    """The outputs that are asked for, in that order; both by default."""
    names = [output.name for output in call.outputs]
    for name in names:
        if name not in (LOGIT, CTR) or names.count(name) > 1:
            raise UnknownColumn(
                f"the outputs are {LOGIT!r} and {CTR!r}, each asked for once",
                found=repr(name[:64]),
                where="outputs",
                remedy="Leave the list empty for both",
            )
    for tensor in (*call.outputs, *call.inputs):
        for parameter in tensor.parameters:
            if parameter in REFUSED_PARAMETERS:
                raise Unimplemented(
                    "this server has none of the protocol's extensions",
                    found=f"parameter {parameter!r}",
                    where=f"tensor {tensor.name[:64]!r}",
                    remedy="Send and take tensors in the messages themselves",
                )
    return names or [LOGIT, CTR]


def _inputs(call: pb.ModelInferRequest, model: Model, limits: Limits) -> dict[str, npt.NDArray[Any]]:
    """Every input of the model, [B, width], of one B."""
    expected, raw = model.inputs, call.raw_input_contents
    if raw and len(raw) != len(call.inputs):
        raise WrongLength(
            "raw_input_contents has one entry per input, or none at all",
            found=f"{len(raw)} entries for {len(call.inputs)} inputs",
            where="raw_input_contents",
            remedy="Send all inputs raw, or none",
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for position, tensor in enumerate(call.inputs):
        name = tensor.name
        where = f"input {name[:64]!r}"
        if name not in expected or name in arrays:
            raise UnknownColumn(
                f"the inputs are {list(expected)}, each sent once",
                found=repr(name[:64]),
                where="inputs",
                remedy="Read the names with ModelMetadata",
            )
        dtype, width = expected[name]
        if tensor.datatype != (datatype := NAMES[dtype]):
            raise WrongType(
                f"{name!r} has datatype {datatype}",
                found=repr(tensor.datatype[:64]),
                where=where,
                remedy="Convert the values before sending",
            )
        shape = list(tensor.shape)
        if len(shape) != 2 or shape[1] != width:
            raise WrongLength(
                f"{name!r} has the shape [rows, {width}]", found=str(shape[:8]), where=where, remedy="Reshape it"
            )
        check_rows(shape[0], model, limits, f"{where}, shape")
        arrays[name] = _values(tensor, raw[position] if raw else None, dtype, shape, where)
    for name in expected:
        if name not in arrays:
            raise InputError(
                "every input of the model is sent", found=f"no input {name!r}", where="inputs", remedy="Send it"
            )
    if len({len(array) for array in arrays.values()}) > 1:
        raise WrongLength(
            "all inputs have the same number of rows",
            found=str({name: len(array) for name, array in arrays.items()}),
            where="inputs",
            remedy="Send one batch per request",
        )
    return arrays


def _values(
    tensor: Tensor, raw: bytes | None, dtype: np.dtype[Any], shape: Sequence[int], where: str
) -> npt.NDArray[Any]:
    """A tensor's values, raw or typed, but not both."""
    contents, name = tensor.contents, CONTENTS[dtype]
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if any(each != name for each in filled) or (raw is not None and filled):
        raise WrongType(
            f"values stand in raw_input_contents, or in `{name}`",
            found=f"values in {filled}{' beside raw ones' if raw is not None else ''}",
            where=where,
            remedy="Use one of the two",
        )
    count = shape[0] * shape[1]
    found = len(raw) if raw is not None else len(getattr(contents, name)) * dtype.itemsize
    if found != count * dtype.itemsize:
        raise WrongLength(
            f"a tensor of shape {list(shape)} holds {count} values of {dtype.itemsize} bytes",
            found=f"{found} bytes",
            where=where,
            remedy="Send as many values as the shape says",
        )
    values = np.frombuffer(raw, dtype) if raw is not None else np.array(getattr(contents, name), dtype)
    return values.reshape(shape)


def _check_ids(model: Model, ids: npt.NDArray[np.int64] | None) -> None:
    """Ids that the schema wants refused: a graph cannot raise, so both edges do."""
    for name, start, length, size in model.bounded if ids is not None else ():
        raw = ids[:, start : start + length]  # pyright: ignore[reportOptionalSubscript]  # not None in this loop
        outside = ((raw < 0) | (raw >= size)) & (raw != MISSING)
        if outside.any():
            row, slot = (int(each) for each in np.argwhere(outside)[0])
            raise OutOfRange(
                f"an id of feature {name!r} lies in [0, {size})",
                found=str(raw[row, slot]),
                where=f"input {IDS!r}, row {row}, slot {start + slot}",
                remedy=f"Send {MISSING} for an id that is not known",
            )


def _check_dense(dense: npt.NDArray[np.float32] | None) -> None:
    if dense is not None and np.isinf(dense).any():
        row, column = (int(each) for each in np.argwhere(np.isinf(dense))[0])
        raise OutOfRange(
            "a number is finite, or NaN for missing",
            found=str(dense[row, column]),
            where=f"input {DENSE!r}, row {row}, column {column}",
            remedy="Send NaN where the value is not known",
        )
