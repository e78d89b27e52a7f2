"""ModelInfer: the Open Inference Protocol's tensors in, tensors out; bytes become work whose end is bytes."""

from ..protos import open_inference_pb2 as pb
from .call import Call
from .form import Form, Forms
from .messages import parse
from .repository import Repository
from .work import Rows, Work


def prepare_infer(repository: Repository, request: bytes, call: Call) -> Work:
    """Read a serialized ModelInferRequest, to be answered with a serialized ModelInferResponse.

    Raises:
        InputError: a request that is none, or tensors that the model cannot take.
        NotFound: not served.
        Unimplemented: an extension that this server does not have.
    """
    forms, request_id = repository.forms, ""
    if cut := forms.cut(request):
        form, inputs = cut
        call.model, call.version = form.name, form.number
    else:
        asked = parse(pb.ModelInferRequest, "inference.ModelInferRequest", request)
        request_id, raw = asked.id, asked.raw_input_contents[:]
        asked.ClearField("id")
        asked.ClearField("raw_input_contents")
        form = _form(repository, forms, asked, call, raw=bool(raw))
        inputs = form.inputs(raw or form.typed(asked))
    call.rows = form.rows
    rows = Rows(form.model.by_rows, inputs, lambda: form.encoded(inputs))
    return Work(
        form.model,
        form.rows,
        form.outputs,
        lambda: rows,
        lambda values: form.reply(request_id, values),
        form.model.check,
    )


def _form(repository: Repository, forms: Forms, asked: pb.ModelInferRequest, call: Call, *, raw: bool) -> Form:
    """The form of a request that has neither its id nor its raw numbers any more."""
    key = asked.SerializeToString() if raw else b""
    if raw and (known := forms.get(key)):
        call.model, call.version = known.name, known.number
        return known
    model = repository.model_of_text(asked.model_name, asked.model_version)
    call.model, call.version = model.version.name, model.version.number
    form = Form(model, asked, repository.limits, raw=raw)
    if raw:
        forms.keep(key, form)
    return form
