"""Tensors: what a ModelInferRequest says of its outputs and inputs, and whether it suits the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..protos import open_inference_pb2 as pb
from ..protos.errors import InputError, Unimplemented, UnknownColumn, WrongLength, WrongType
from .columns import FLOAT32, INT64
from .graph import CTR, LOGIT
from .model import Model
from .settings import Limits

DATATYPES = {"int64": "INT64", "float32": "FP32"}
NAMES = {np.dtype(name): datatype for name, datatype in DATATYPES.items()}
CONTENTS = {INT64: "int64_contents", FLOAT32: "fp32_contents"}
REFUSED_PARAMETERS = ("classification", "shared_memory_region")  # extensions that would change the answer


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input as a request announces it: (B, width) numbers."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def where(self) -> str:
        """How an error calls it."""
        return f"input {self.name!r}"


def outputs_of(asked: pb.ModelInferRequest) -> tuple[str, ...]:
    """The outputs that are asked for, in that order; both by default.

    Raises:
        UnknownColumn: others than the model's.
        Unimplemented: an extension that this server does not have.
    """
    names = tuple(output.name for output in asked.outputs)
    for name in names:
        if name not in (LOGIT, CTR) or names.count(name) > 1:
            raise UnknownColumn(
                f"the outputs are {LOGIT!r} and {CTR!r}, each asked for once",
                found=repr(name[:64]),
                where="outputs",
                remedy="Leave the list empty for both",
            )
    for tensor in (*asked.outputs, *asked.inputs):
        for parameter in tensor.parameters:
            if parameter in REFUSED_PARAMETERS:
                raise Unimplemented(
                    "this server has none of the protocol's extensions",
                    found=f"parameter {parameter!r}",
                    where=f"tensor {tensor.name[:64]!r}",
                    remedy="Send and take tensors in the messages themselves",
                )
    return names or (LOGIT, CTR)


def inputs_of(asked: pb.ModelInferRequest, model: Model, limits: Limits, *, raw: bool) -> list[Tensor]:
    """Every input of the model, in the order of the request; numbers stand in raw_input_contents, or in the inputs.

    Raises:
        UnknownColumn, WrongType, WrongLength, TooLarge, InputError: not the model's inputs, or misplaced numbers.
    """
    expected, found = model.inputs, dict[str, Tensor]()
    for sent in asked.inputs:
        name = sent.name
        if name not in expected or name in found:
            raise UnknownColumn(
                f"the inputs are {list(expected)}, each sent once",
                found=repr(name[:64]),
                where="inputs",
                remedy="Read the names with ModelMetadata",
            )
        found[name] = _tensor(sent, *expected[name])
        model.check_rows(found[name].shape[0], limits, f"{found[name].where}, shape")
        _check_place(sent, found[name], raw=raw)
    for name in expected:
        if name not in found:
            raise InputError(
                "every input of the model is sent", found=f"no input {name!r}", where="inputs", remedy="Send it"
            )
    if len({tensor.shape[0] for tensor in found.values()}) > 1:
        raise WrongLength(
            "all inputs have the same number of rows",
            found=str({name: tensor.shape[0] for name, tensor in found.items()}),
            where="inputs",
            remedy="Send one batch per request",
        )
    return list(found.values())


def _tensor(sent: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[Any], width: int) -> Tensor:
    name, where = sent.name, f"input {sent.name!r}"
    if sent.datatype != (datatype := NAMES[dtype]):
        raise WrongType(
            f"{name!r} has datatype {datatype}",
            found=repr(sent.datatype[:64]),
            where=where,
            remedy="Convert the values before sending",
        )
    shape = list(sent.shape)
    if len(shape) != 2 or shape[1] != width:
        raise WrongLength(
            f"{name!r} has the shape [rows, {width}]", found=str(shape[:8]), where=where, remedy="Reshape it"
        )
    return Tensor(name, dtype, (shape[0], width))


def _check_place(sent: pb.ModelInferRequest.InferInputTensor, tensor: Tensor, *, raw: bool) -> None:
    """Numbers are raw or typed, but not both."""
    wanted = CONTENTS[tensor.dtype]
    filled = [descriptor.name for descriptor, _ in sent.contents.ListFields()]
    if any(name != wanted for name in filled) or (raw and filled):
        raise WrongType(
            f"values stand in raw_input_contents, or in `{wanted}`",
            found=f"values in {filled}{' beside raw ones' if raw else ''}",
            where=tensor.where,
            remedy="Use one of the two",
        )


def refuse_lengths(tensors: Sequence[Tensor], values: Sequence[bytes]) -> NoReturn:
    """Tell which numbers are others than announced.

    Raises:
        WrongLength.
    """
    if len(values) != len(tensors):
        raise WrongLength(
            "raw_input_contents has one entry per input, or none at all",
            found=f"{len(values)} entries for {len(tensors)} inputs",
            where="raw_input_contents",
            remedy="Send all inputs raw, or none",
        )
    tensor, found = next(
        (tensor, len(each)) for tensor, each in zip(tensors, values, strict=True) if len(each) != tensor.size
    )
    rows, width = tensor.shape
    raise WrongLength(
        f"a tensor of shape {[rows, width]} holds {rows * width} values of {tensor.dtype.itemsize} bytes",
        found=f"{found} bytes",
        where=tensor.where,
        remedy="Send as many values as the shape says",
    )
