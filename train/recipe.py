"""The recipe: everything that decides a training run, as frozen, validated config."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from ..protos.schema import NAME_LIMIT
from .data import DataConfig


class Section(BaseModel):
    """A part of a recipe: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FeatureConfig(Section):
    """One column. Which keys apply depends on `kind` and `encoding`; the others are refused."""

    kind: Literal["dense", "categorical", "bag"]
    side: Literal["context", "candidate"] = "candidate"
    encoding: Literal["id", "hash", "vocabulary"] | None = None
    values: Literal["string", "integer"] | None = None
    min_count: int = Field(default=1, ge=1, lt=2**32)
    size: int | None = Field(default=None, ge=1, lt=2**63 - 1)
    out_of_range: Literal["rare", "error"] = "rare"
    buckets: int | Literal["log2"] | None = None
    seed: int = Field(default=0, ge=0, lt=2**64)
    transform: Literal["none", "log1p", "standard", "bucket"] = "none"
    missing: float = 0.0
    max_length: int | None = Field(default=None, ge=1, le=65536)
    pooling: Literal["mean", "sum"] = "mean"
    delimiter: str = Field(default=" ", min_length=1)

    @model_validator(mode="after")
    def _keys_fit(self) -> "FeatureConfig":
        given, allowed = self.model_fields_set - {"kind", "side"}, set[str]()
        if self.kind == "dense":
            allowed = {"transform"} | ({"buckets"} if self.transform == "bucket" else {"missing"})
            if self.transform == "bucket" and self.buckets != "log2" and (self.buckets or 0) < 2:
                raise ValueError('transform = "bucket" needs `buckets`: at least 2, or "log2"')
        else:
            if self.encoding is None:
                raise ValueError("a categorical or bag feature names its `encoding`: id, hash or vocabulary")
            allowed = {"encoding", "values"}
            allowed |= {"id": {"size", "out_of_range"}, "hash": {"buckets", "seed"}, "vocabulary": {"min_count"}}[
                self.encoding
            ]
            if self.encoding == "id" and (self.size is None or self.values == "string"):
                raise ValueError('encoding = "id" needs `size` and takes integers')
            if self.encoding == "hash" and not (isinstance(self.buckets, int) and 1 <= self.buckets < 2**63):
                raise ValueError('encoding = "hash" needs `buckets`, from 1 to 2^63 - 1')
            if self.kind == "bag":
                allowed |= {"max_length", "pooling", "delimiter"}
                if self.max_length is None:
                    raise ValueError('kind = "bag" needs `max_length`')
        if unused := sorted(given - allowed):
            raise ValueError(f"{', '.join(unused)} means nothing here; this feature takes {', '.join(sorted(allowed))}")
        return self

    @property
    def integers(self) -> bool:
        """Whether raw values are integers (else strings); id features always are."""
        return self.encoding == "id" or self.values == "integer"


Scheme = Literal["full", "hash", "qr", "mixed_radix", "chinese_remainder"]


class FieldConfig(Section):
    """How one field's tables are built; what is not given falls back to `[embedding]`."""

    scheme: Scheme | None = None
    combine: Literal["mult", "add", "concat"] | None = None
    collisions: int | None = Field(default=None, ge=1)
    tables: int | None = Field(default=None, ge=2, le=16)
    dim: int | None = Field(default=None, ge=1, le=4096)


class EmbeddingConfig(Section):
    """Tables of all fields.

    collisions: c, the ids that share a row of a hashed or quotient-remainder field's first table.
    tables: how many tables a mixed_radix or chinese_remainder field has; they have about n^(1/tables) rows each.
    threshold: fields of at most so many ids stay full.
    hash_rows: "collisions" gives a hashed field ceil(n / c) rows, "qr" as many as quotient-remainder would hold.
    first_order: tables of the first-order term: compressed alike, full, or no such term.
    """

    scheme: Scheme = "full"
    combine: Literal["mult", "add", "concat"] = "mult"
    collisions: int = Field(default=4, ge=1)
    tables: int = Field(default=2, ge=2, le=16)
    threshold: int = Field(default=20, ge=0)
    dim: int = Field(default=16, ge=1, le=4096)
    hash_rows: Literal["collisions", "qr"] = "collisions"
    first_order: Literal["alike", "full", "none"] = "alike"
    fields: dict[str, FieldConfig] = {}


Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Strict(False)]  # TOML's lists are taken


class DeepFMConfig(Section):
    """DeepFM: first order + factorization machine + MLP."""

    name: Literal["deepfm"]
    first_order: ClassVar[bool] = True
    mlp: Widths = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class DLRMConfig(Section):
    """DLRM: bottom MLP, dot interaction, top MLP."""

    name: Literal["dlrm"]
    first_order: ClassVar[bool] = False
    bottom: Widths = (512, 256)
    top: Widths = Field(default=(512, 256), min_length=1)
    batchnorm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(Section):
    """The optimisation. With `data.sample_weight`, the loss is the mean over a batch's rows of weight x cross entropy.

    l2: weight of half the squared norm of embedding rows beside the mean loss: its gradient is l2 x row. First-order
        tables count; the later tables of `mult` are pulled to one, which is neutral there, instead of zero.
    l2_rows: over the rows that a batch looks up, or over whole tables, as published recipes were tuned.
    lr_decay: factor on the learning rate after an epoch that did not better the validation AUC.
    patience: epochs in a row without a better validation AUC before training stops.
    """

    optimizer: Literal["adam", "amsgrad", "adagrad"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=4096, ge=2)
    epochs: int = Field(default=100, ge=1)
    patience: int = Field(default=2, ge=1)
    lr_decay: float = Field(default=0.1, gt=0, le=1)
    l2: float = Field(default=0.0, ge=0)
    l2_rows: Literal["batch", "all"] = "batch"
    seed: int = Field(default=1, ge=0, lt=2**63)


class Recipe(Section):
    """A whole recipe."""

    data: DataConfig
    features: dict[str, FeatureConfig] = Field(min_length=1)
    embedding: EmbeddingConfig = EmbeddingConfig()
    model: Annotated[DeepFMConfig | DLRMConfig, Field(discriminator="name")]
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fields_exist(self) -> "Recipe":
        known = [
            name for name, config in self.features.items() if config.kind != "dense" or config.transform == "bucket"
        ]
        if not known:
            raise ValueError("a model needs at least one categorical, bag or bucket feature")
        if strange := sorted(set(self.embedding.fields) - set(known)):
            raise ValueError(f"[embedding.fields] names {', '.join(strange)}; features with ids are {', '.join(known)}")
        if wrong := [name for name in self.features if not name.isprintable() or not 1 <= len(name) <= NAME_LIMIT]:
            raise ValueError(f"a feature's name has 1 to {NAME_LIMIT} printable characters; found {wrong[0][:200]!r}")
        dims = {self.embedding.dim} | {field.dim for field in self.embedding.fields.values() if field.dim}
        if len(dims) > 1:
            raise ValueError(f"{self.model.name} needs vectors of one dimension; found dims {sorted(dims)}")
        if not self.model.first_order and "first_order" in self.embedding.model_fields_set:
            raise ValueError(f"{self.model.name} has no first-order term; leave embedding.first_order out")
        return self
