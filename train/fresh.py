"""A fresh model: a recipe's model over a plan, with drawn weights, on its device; and what its run is known by."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from google.protobuf import json_format
from google.protobuf.message import Message

from ..protos import manifest as manifests
from ..protos import manifest_pb2 as pb
from ..protos.collisions import Int32s
from ..protos.errors import PlanError
from ..protos.plan import float_bytes
from ..protos.schema import dense_features
from .initial import Init
from .model import Model
from .net import make_net
from .planning import classes_of
from .prepare import Prepared
from .recipe import Recipe

LARGEST_PLAN_BYTES = 2**46  # no machine has as much; below it, sizes and offsets fit int64 with room to spare


def make_fresh(
    recipe: Recipe, prepared: Prepared, plan: pb.Plan, device: torch.device, where: str
) -> tuple[pb.Manifest, Model]:
    """The manifest of a recipe's model over a plan, checked, and the model, its weights drawn by `train.seed`.

    Raises:
        QuoremError: what manifests.check, planning.py or make_net refuse, said of `where`; a PlanError that says which
            field asks for the most memory.
    """
    net = make_net(recipe.model, plan, len(dense_features(prepared.schema)))
    manifest = pb.Manifest(format_version=manifests.FORMAT_VERSION, schema=prepared.schema, plan=plan, net=net)
    manifests.check(manifest, where)
    classes = classes_of(plan, prepared.semantics, where)
    with memory_for(plan):
        model = Model(prepared.schema, plan, net, classes)
        model.reset(recipe.train.seed, init_of(recipe))
        return manifest, model.to(device)


def init_of(recipe: Recipe) -> Init:
    """How a recipe has its tables drawn."""
    return Init(recipe.embedding.init, recipe.embedding.spread, recipe.embedding.deviation)


@contextmanager
def memory_for(plan: pb.Plan) -> Iterator[None]:
    """Make a model over a plan inside.

    Raises:
        PlanError: its tables do not fit; it says which field asks for the most.
    """
    too_large = _too_large(plan)
    if sum(float_bytes(field) for field in [*plan.fields, *plan.first_order]) >= LARGEST_PLAN_BYTES:
        raise too_large
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch has no error of its own for a failed allocation on the CPU
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise too_large from None


def identity(resolved: str, prepared: Prepared, messages: Sequence[Message], classes: Mapping[str, Int32s]) -> str:
    """What a checkpoint belongs to: recipe, number of rows, what was made of them, classes; 64 hex digits."""
    parts = [resolved, *map(str, prepared.facts.rows.items())]
    parts += [json_format.MessageToJson(message, sort_keys=True) for message in messages]
    parts += [hashlib.sha256(array.tobytes()).hexdigest() for _, array in sorted(classes.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _too_large(plan: pb.Plan) -> PlanError:
    fields = [*plan.fields, *plan.first_order]
    largest = max(fields, key=float_bytes)
    return PlanError(
        "embedding tables fit in memory",
        found=f"{sum(map(float_bytes, fields)):,} bytes; {largest.feature!r} alone takes {float_bytes(largest):,}",
        where="[embedding]",
        remedy="Compress it (embedding.scheme, collisions, tables, bytes), or lower the feature's size or buckets",
    )
