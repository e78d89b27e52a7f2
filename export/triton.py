"""Triton's model configuration: `config.pbtxt`, above the versions of a model and common to them.

It is text because it is all that is needed: https://github.com/triton-inference-server/server, model_configuration.md.
It bears no model name, so that the directory may be renamed.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..protos import manifest_pb2 as pb
from ..protos.errors import WrongSchema
from ..protos.manifest import write_atomically
from ..protos.schema import fingerprint, layout

NAME = "config.pbtxt"
MAX_BATCH_ROWS = 4096
PREFERRED_BATCH_ROWS = (32, 128)
FINGERPRINT = re.compile(r'key\s*:\s*"schema_fingerprint"\s*value\s*:?\s*{\s*string_value\s*:\s*"([^"]*)"')


def text(schema: pb.Schema, batches: Sequence[int] = PREFERRED_BATCH_ROWS) -> str:
    """The configuration of a model of this schema, which batches requests up to `batches` rows.

    Its parameters hold the schema's fingerprint and, as JSON, where each feature stands: {"ids": {feature: [first slot,
    slots]}, "dense": {feature: column}}.
    """
    places = layout(schema)
    inputs = [("ids", "TYPE_INT64", places.slot_count), ("dense", "TYPE_FP32", places.dense_count)]
    slots = {"ids": {name: list(each) for name, each in places.slots.items()}, "dense": places.dense}
    lines = ['backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH_ROWS}"]
    for name, dtype, width in inputs:
        if width:
            lines += ["input {", f'  name: "{name}"', f"  data_type: {dtype}", f"  dims: [ {width} ]", "}"]
    for name in ("logit", "ctr"):
        # The graph's outputs are [B]; Triton has no outputs without a dimension beside the batch.
        lines += ["output {", f'  name: "{name}"', "  data_type: TYPE_FP32", "  dims: [ 1 ]"]
        lines += ["  reshape { shape: [ ] }", "}"]
    preferred = ", ".join(map(str, batches))
    lines += ["dynamic_batching {", f"  preferred_batch_size: [ {preferred} ]", "}"]
    for key, value in (("schema_fingerprint", fingerprint(schema)), ("slots", json.dumps(slots))):
        lines += ["parameters {", f'  key: "{key}"', f"  value {{ string_value: {json.dumps(value)} }}", "}"]
    return "\n".join(lines) + "\n"


def check(model: Path, schema: pb.Schema) -> None:
    """Refuse a schema that is not the one of the model's configuration, if it has one.

    Raises:
        WrongSchema.
    """
    path = model / NAME
    if not path.is_file():
        return
    found = FINGERPRINT.search(path.read_text(encoding="utf-8", errors="replace"))
    if not found or found[1] != fingerprint(schema):
        raise WrongSchema(
            "all versions of a model take the same inputs",
            found=f"a run of schema {fingerprint(schema)} for a model of {found[1] if found else 'no known schema'}",
            where=str(path),
            remedy="Export to a directory of another name: a new schema is a new model",
        )


def write(model: Path, schema: pb.Schema, batches: Sequence[int] = PREFERRED_BATCH_ROWS) -> None:
    """Write the configuration if there is none: one that stands may have been tuned by hand.

    Raises:
        WrongSchema: another export has just written one of another schema.
    """
    temporary = model / f".{NAME}.{os.getpid()}"
    write_atomically(temporary, text(schema, batches).encode())
    try:
        os.link(temporary, model / NAME)  # unlike a rename, it fails where the file is there
    except FileExistsError:
        check(model, schema)
    finally:
        temporary.unlink()
