"""Stages of a graph: raw values become ids, ids vectors, vectors a logit; how many nodes and bytes each takes."""

import onnx

from ..protos import manifest_pb2 as pb
from .graph import TABLES
from .side import CONTEXT

# What the names of a stage's nodes begin with; the net's layers have every other beginning.
STAGES = {
    "ids": ("ids", "id", "hash", "vocabulary", "bucket"),
    "lookup": ("embedding", "first_order", "bag"),
    "dense": ("dense",),
    "output": ("logit", "ctr"),
}
NET = "net"


def stages(file: str, model: onnx.ModelProto) -> pb.GraphFacts:
    """Nodes and bytes of constants by stage; those that run once a request are stages of their own: `context.ids`.

    A constant belongs to the first stage that reads it; constants of `tables.bin` to none.
    """
    found, owners = dict[str, pb.Stage](), dict[str, str]()
    for node in model.graph.node:
        name = _stage(node.name)
        found.setdefault(name, pb.Stage(name=name)).nodes += 1
        for source in node.input:
            owners.setdefault(source, name)
    for constant in model.graph.initializer:
        if not any(entry.value == TABLES for entry in constant.external_data):
            found[owners[constant.name]].bytes += len(constant.raw_data)
    order = [prefix + name for name in (*list(STAGES)[:3], NET, "output") for prefix in (CONTEXT, "")]
    return pb.GraphFacts(file=file, stages=[found[name] for name in order if name in found])


def _stage(node: str) -> str:
    prefix = CONTEXT if node.startswith(CONTEXT) else ""
    head = node.removeprefix(prefix).partition("/")[0].partition(".")[0]
    return prefix + next((name for name, heads in STAGES.items() if head in heads), NET)
