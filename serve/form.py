"""Form: a ModelInferRequest without its id and its raw numbers, read once for all requests that are otherwise equal.

Legend: B rows.
"""

from collections.abc import Sequence

import numpy as np

from ..protos import open_inference_pb2 as pb
from ..protos.encode import Encoded, Float32s
from .columns import FLOAT32
from .model import DENSE, IDS, Model
from .settings import Limits
from .tensors import CONTENTS, inputs_of, outputs_of, refuse_lengths

MOST, LONGEST = 256, 1024  # forms that are remembered: one for each number of rows; bytes
MOST_ALIKE = 8  # of one length: of models whose names are, and of their outputs


class Form:
    """What a request asks of a model, and how it is to be answered.

    rows: B.
    outputs: of the graph, in the order of the reply.
    size: bytes of a request of this form that has no id, as the protocol's clients serialize it.
    """

    def __init__(self, model: Model, asked: pb.ModelInferRequest, limits: Limits, *, raw: bool) -> None:
        """Read a request without its id, and without its raw numbers if it had any.

        Raises:
            UnknownColumn, WrongType, WrongLength, TooLarge, InputError: outputs or inputs that are not the model's.
            Unimplemented: an extension that this server does not have.
        """
        self.model, self.name, self.number = model, model.version.name, model.version.number
        self.outputs, self._tensors = outputs_of(asked), inputs_of(asked, model, limits, raw=raw)
        self.rows = self._tensors[0].shape[0]
        self._sizes = [tensor.size for tensor in self._tensors]
        sent = [tensor.name for tensor in self._tensors]
        self._order = [sent.index(name) for name in model.by_rows.names]
        self._plan(asked.SerializeToString())
        version, tensor = model.version, pb.ModelInferResponse.InferOutputTensor
        head = pb.ModelInferResponse(model_name=version.name, model_version=str(version.number))
        tail = [tensor(name=name, datatype="FP32", shape=[self.rows]) for name in self.outputs]
        nothing = bytes(self.rows * FLOAT32.itemsize)
        values = pb.ModelInferResponse(raw_output_contents=[nothing]).SerializeToString()
        self._head, self._tail = head.SerializeToString(), pb.ModelInferResponse(outputs=tail).SerializeToString()
        self._before_values = values.removesuffix(nothing)

    def cut(self, request: bytes) -> Sequence[bytes] | None:
        """The raw numbers of a request of this form, as `inputs`; None for any other, and for some of this form.

        A message is its records, one after the other: one that has the form's bytes, and then those that announce raw
        numbers where they must stand, says what the form says.
        """
        for mark, start in self._marks:
            if not request.startswith(mark, start):
                return None
        return [request[start:stop] for start, stop in self._spans]

    def inputs(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """The numbers of each input in the order of the graph, from those in the order of the request.

        Raises:
            WrongLength: others than announced.
        """
        if [len(each) for each in values] != self._sizes:
            refuse_lengths(self._tensors, values)
        return [values[place] for place in self._order]

    def typed(self, asked: pb.ModelInferRequest) -> list[bytes]:
        """The numbers in the `contents` of each input, as raw_input_contents would hold them."""
        return [
            np.array(getattr(sent.contents, CONTENTS[tensor.dtype]), tensor.dtype).tobytes()
            for tensor, sent in zip(self._tensors, asked.inputs, strict=True)
        ]

    def encoded(self, inputs: Sequence[bytes]) -> Encoded:
        """The same as arrays, of width 0 where the model has no such input."""
        arrays, nothing = self.model.by_rows.join([inputs]), np.empty((self.rows, 0))
        return Encoded(arrays.get(IDS, nothing), arrays.get(DENSE, nothing))

    def reply(self, request_id: str, values: Sequence[Float32s]) -> bytes:
        """The serialized ModelInferResponse, from the outputs, each (B,): its fields stand in the order of theirs."""
        own = pb.ModelInferResponse(id=request_id).SerializeToString() if request_id else b""
        parts = [self._head, own, self._tail]
        for value in values:
            parts += (self._before_values, value.tobytes())
        return b"".join(parts)

    def _plan(self, mark: bytes) -> None:
        """Work out what stands where in a request that begins with the form's bytes."""
        self._marks: list[tuple[bytes, int]] = []
        spans: list[tuple[int, int]] = []
        self.size = 0
        for size in self._sizes:
            nothing = bytes(size)
            mark += pb.ModelInferRequest(raw_input_contents=[nothing]).SerializeToString().removesuffix(nothing)
            self._marks.append((mark, self.size))
            spans.append((self.size + len(mark), self.size + len(mark) + size))
            mark, self.size = b"", spans[-1][1]
        self._spans = [spans[place] for place in self._order]


class Forms:
    """The forms of requests with raw numbers, remembered while what they ask of is served."""

    def __init__(self) -> None:
        self._by_bytes: dict[bytes, Form] = {}
        self._by_size: dict[int, list[Form]] = {}

    def cut(self, request: bytes) -> tuple[Form, Sequence[bytes]] | None:
        """The form and the numbers of a serialized request, if it need not be parsed."""
        for form in self._by_size.get(len(request), ()):
            if (inputs := form.cut(request)) is not None:
                return form, inputs
        return None

    def get(self, asked: bytes) -> Form | None:
        """The form with these bytes: a serialized request without its id and its raw numbers."""
        return self._by_bytes.get(asked)

    def keep(self, asked: bytes, form: Form) -> None:
        """Remember a form by its bytes; all others are forgotten when there are too many."""
        if len(asked) > LONGEST:
            return
        if len(self._by_bytes) >= MOST:
            self._by_bytes, self._by_size = {}, {}
        self._by_bytes[asked] = form
        alike = self._by_size.setdefault(form.size, [])
        if len(alike) < MOST_ALIKE:
            alike.append(form)
