"""The section `[model]` of a recipe: one class a model, with what makes its net."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from .section import Section

Unify = Literal["linear", "pad"]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Strict(False)]  # TOML's lists are taken


class DeepFMConfig(Section):
    """DeepFM: first order + factorization machine + MLP."""

    name: Literal["deepfm"]
    first_order: ClassVar[bool] = True
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unify: Unify = "linear"


class DLRMConfig(Section):
    """DLRM: bottom MLP, dot interaction, top MLP."""

    name: Literal["dlrm"]
    first_order: ClassVar[bool] = False
    bottom: Widths = (512, 256)
    top: Widths = Field(default=(512, 256), min_length=1)
    batchnorm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unify: Unify = "linear"


class DNNConfig(Section):
    """A plain MLP over all vectors and dense features."""

    name: Literal["dnn"]
    first_order: ClassVar[bool] = False
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class DCNConfig(Section):
    """DCN: cross layers of a vector, and an MLP beside them."""

    name: Literal["dcn"]
    first_order: ClassVar[bool] = False
    cross: int = Field(default=6, ge=1, le=64)
    mlp: Widths = Field(default=(512, 256, 64), min_length=1)
    batchnorm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)


class DCNv2Config(Section):
    """DCN-v2: cross layers of a matrix, whole (rank 0) or of a low rank, beside an MLP or stacked below it."""

    name: Literal["dcnv2"]
    first_order: ClassVar[bool] = False
    cross: int = Field(default=3, ge=1, le=64)
    rank: int = Field(default=0, ge=0, le=65536)
    structure: Literal["parallel", "stacked"] = "parallel"
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class FMConfig(Section):
    """FM: bias + first order + factorization machine."""

    name: Literal["fm"]
    first_order: ClassVar[bool] = True
    unify: Unify = "linear"


class WideDeepConfig(Section):
    """Wide & Deep: first order + MLP over the vectors as they are."""

    name: Literal["wide_deep"]
    first_order: ClassVar[bool] = True
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class NFMConfig(Section):
    """NFM: first order + MLP over the sum of the products of all pairs of vectors."""

    name: Literal["nfm"]
    first_order: ClassVar[bool] = True
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unify: Unify = "linear"


class IPNNConfig(Section):
    """IPNN: an MLP over the vectors and the dot products of all pairs."""

    name: Literal["ipnn"]
    first_order: ClassVar[bool] = False
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unify: Unify = "linear"


class AutoIntConfig(Section):
    """AutoInt: first order + layers of self-attention between vectors, and an MLP beside them unless it is empty.

    heads, width: of each layer's heads, and how wide each of them is.
    """

    name: Literal["autoint"]
    first_order: ClassVar[bool] = True
    layers: int = Field(default=3, ge=1, le=64)
    heads: int = Field(default=2, ge=1, le=64)
    width: int = Field(default=16, ge=1, le=4096)
    mlp: Widths = ()
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    unify: Unify = "linear"


ModelConfig = Annotated[
    FMConfig
    | WideDeepConfig
    | DeepFMConfig
    | NFMConfig
    | IPNNConfig
    | AutoIntConfig
    | DLRMConfig
    | DNNConfig
    | DCNConfig
    | DCNv2Config,
    Field(discriminator="name"),
]
"""The section, by its `name`. `first_order` says whether a model reads tables of first order; `unify` how vectors of
several dims become one: by a linear map that all vectors of a dim share, or by zeros behind them."""
