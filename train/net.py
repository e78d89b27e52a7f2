"""The net that a recipe's section `[model]` means over a plan."""

from collections.abc import Callable

from ..protos import manifest_pb2 as pb
from ..protos import models
from .model_config import ModelConfig

BUILDERS: dict[str, Callable[..., pb.Net]] = {
    "fm": models.fm,
    "wide_deep": models.wide_deep,
    "deepfm": models.deepfm,
    "nfm": models.nfm,
    "ipnn": models.ipnn,
    "autoint": models.autoint,
    "dlrm": models.dlrm,
    "dnn": models.dnn,
    "dcn": models.dcn,
    "dcnv2": models.dcnv2,
}


def make_net(model: ModelConfig, plan: pb.Plan, dense_count: int) -> pb.Net:
    """The layers of a model over a plan's vectors and so many dense features: its builder takes the section's keys.

    Raises:
        NetError: see models.py.
    """
    keys = model.model_dump(exclude={"name"})
    if "unify" in keys:
        keys["pad"] = keys.pop("unify") == "pad"
    if "structure" in keys:
        keys["stacked"] = keys.pop("structure") == "stacked"
    return BUILDERS[model.name](plan, dense_count, **keys)
