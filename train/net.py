"""The net that a recipe's section `[model]` means over a plan."""

from ..protos import manifest_pb2 as pb
from ..protos import models
from .model_config import (
    AutoIntConfig,
    DCNConfig,
    DCNv2Config,
    DeepFMConfig,
    DLRMConfig,
    FMConfig,
    IPNNConfig,
    ModelConfig,
    NFMConfig,
)

MLPS = {"wide_deep": models.wide_deep, "dnn": models.dnn}
UNIFIED_MLPS = {"deepfm": models.deepfm, "nfm": models.nfm, "ipnn": models.ipnn}


def make_net(model: ModelConfig, plan: pb.Plan, dense_count: int) -> pb.Net:
    """The layers of a model over a plan's vectors and so many dense features.

    Raises:
        NetError: see models.py.
    """
    if isinstance(model, FMConfig):
        return models.fm(plan, dense_count, pad=model.unify == "pad")
    dropout, batchnorm = model.dropout, model.batchnorm
    if isinstance(model, DLRMConfig):
        return models.dlrm(
            plan,
            dense_count,
            bottom=model.bottom,
            top=model.top,
            batchnorm=batchnorm,
            dropout=dropout,
            pad=model.unify == "pad",
        )
    if isinstance(model, AutoIntConfig):
        return models.autoint(
            plan,
            dense_count,
            layers=model.layers,
            heads=model.heads,
            width=model.width,
            mlp=model.mlp,
            batchnorm=batchnorm,
            dropout=dropout,
            pad=model.unify == "pad",
        )
    if isinstance(model, DCNConfig):
        return models.dcn(plan, dense_count, cross=model.cross, mlp=model.mlp, batchnorm=batchnorm, dropout=dropout)
    if isinstance(model, DCNv2Config):
        return models.dcnv2(
            plan,
            dense_count,
            cross=model.cross,
            rank=model.rank,
            stacked=model.structure == "stacked",
            mlp=model.mlp,
            batchnorm=batchnorm,
            dropout=dropout,
        )
    if isinstance(model, DeepFMConfig | NFMConfig | IPNNConfig):
        build = UNIFIED_MLPS[model.name]
        return build(plan, dense_count, mlp=model.mlp, batchnorm=batchnorm, dropout=dropout, pad=model.unify == "pad")
    return MLPS[model.name](plan, dense_count, mlp=model.mlp, batchnorm=batchnorm, dropout=dropout)
