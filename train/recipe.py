"""The recipe: everything that decides a training run, as frozen, validated config."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from ..protos.low_bits import BITS
from ..protos.schema import NAME_LIMIT
from .data import DataConfig
from .model_config import ModelConfig
from .search.config import SearchConfig
from .section import Section


class FeatureConfig(Section):
    """One column. Which keys apply depends on `kind` and `encoding`; the others are refused.

    first, size: id only: the values first … first + size - 1 are ids 0 … size - 1, all others the rare id or an error.
    """

    kind: Literal["dense", "categorical", "bag"]
    side: Literal["context", "candidate"] = "candidate"
    encoding: Literal["id", "hash", "vocabulary"] | None = None
    values: Literal["string", "integer"] | None = None
    min_count: int = Field(default=1, ge=1, lt=2**32)
    reserve: float | None = Field(default=None, ge=0, le=1000)
    first: int = Field(default=0, gt=-(2**63), lt=2**63)
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
            allowed |= {
                "id": {"first", "size", "out_of_range"},
                "hash": {"buckets", "seed"},
                "vocabulary": {"min_count", "reserve"},
            }[self.encoding]
            if self.encoding == "id" and (self.size is None or self.values == "string"):
                raise ValueError('encoding = "id" needs `size` and takes integers')
            if self.first + (self.size or 0) > 2**63:
                raise ValueError("an id range ends within int64: `first` + `size` is at most 2^63")
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


Scheme = Literal["full", "hash", "qr", "mixed_radix", "chinese_remainder", "semantic"]
Combine = Literal["mult", "add", "concat", "path", "feature"]
Tables = Annotated[int, Field(ge=2, le=16)]
Rows = Annotated[int, Field(ge=1, lt=2**63)]
Bytes = Annotated[int, Field(ge=1, lt=2**63)]
Dim = Annotated[int, Field(ge=1, le=4096)]
Hidden = Annotated[int, Field(ge=0, le=4096)]


def _known(bits: int) -> int:
    if bits not in (0, *BITS):
        raise ValueError(f"a table's values have {', '.join(map(str, BITS))} bits, or 0: they are float32")
    return bits


Bits = Annotated[int, AfterValidator(_known)]
Numbers = Annotated[tuple[int, ...], Strict(False), Field(min_length=2, max_length=63)]  # TOML's lists are taken
Names = Annotated[tuple[str, ...], Strict(False), Field(min_length=1, max_length=16)]
SIZES = {  # which keys say how large the tables of a scheme are
    "full": ("bytes",),
    "hash": ("rows", "bytes", "collisions"),
    "qr": ("rows", "bytes", "collisions"),
    "mixed_radix": ("radices", "rows", "bytes", "tables", "collisions"),
    "chinese_remainder": ("moduli", "rows", "bytes", "tables", "collisions"),
    "semantic": (),
}
SIZE_KEYS = ("radices", "moduli", "rows", "bytes", "tables", "collisions")
EXCLUSIVE = ("radices", "moduli", "rows", "bytes")  # a section gives one of them at most


class FieldConfig(Section):
    """How one field's tables are built; what is not given falls back to `[embedding]`.

    A field that says anything of how large its tables are takes nothing of that from `[embedding]`.

    scheme: of this field, however few ids it has: `threshold` leaves it alone, and what it cannot have is an error.
        Where its tables would be no smaller than a full one, the field stays full.
    radices: mixed_radix only: the rows of its tables, the lowest digit's first.
    moduli: chinese_remainder only: the rows of its tables, pairwise coprime.
    table, key, partitions: semantic only: a file (CSV or Parquet) with a row for each value of the feature in its
        column `key` (the feature's name if not given), and the columns whose values are the classes (semantic.py).
    complete: semantic only: where ids share all their classes, add the table of remainders that tells them apart.
    The others: see EmbeddingConfig.
    """

    scheme: Scheme | None = None
    combine: Combine | None = None
    collisions: int | None = None
    rows: Rows | None = None
    bytes: Bytes | None = None
    tables: Tables | None = None
    radices: Numbers | None = None
    moduli: Numbers | None = None
    table: str | None = None
    key: str | None = None
    partitions: Names | None = None
    complete: bool = False
    dim: Dim | None = None
    hidden: Hidden | None = None
    allow_collisions: bool | None = None
    bits: Bits | None = None

    @property
    def sized(self) -> bool:
        """Whether the field says anything of how large its tables are."""
        return any(getattr(self, key) is not None for key in SIZE_KEYS)

    @model_validator(mode="after")
    def _keys_fit(self) -> "FieldConfig":
        _one_size(self)
        for scheme, keys in (
            ("mixed_radix", ("radices",)),
            ("chinese_remainder", ("moduli",)),
            ("semantic", ("table", "key", "partitions", "complete")),
        ):
            if strange := [key for key in keys if getattr(self, key) and self.scheme != scheme]:
                raise ValueError(f'{", ".join(strange)} goes with scheme = "{scheme}", said for the same field')
        if self.scheme == "semantic" and not (self.table and self.partitions):
            raise ValueError('scheme = "semantic" needs `table`, a file, and `partitions`, the names of its columns')
        if self.partitions and len(set(self.partitions)) < len(self.partitions):
            raise ValueError("`partitions` names a column once")
        sizes = SIZES[self.scheme] if self.scheme else SIZE_KEYS
        if strange := [key for key in SIZE_KEYS if getattr(self, key) is not None and key not in sizes]:
            known = f"; it takes {', '.join(sizes)}" if sizes else ": its classes say how large its tables are"
            raise ValueError(f'{", ".join(strange)} means nothing with scheme = "{self.scheme}"{known}')
        if self.hidden and self.combine not in (None, "path"):
            raise ValueError('`hidden` goes with combine = "path"')
        return self


class EmbeddingConfig(Section):
    """Tables of all fields.

    How large they are is said by the first of these that is given: `rows`, `bytes`, `tables` (not for hash and qr),
    `collisions`. With none of them, c is 4 (hash, qr), and there are 2 tables of about as many rows (mixed_radix,
    chinese_remainder). A field whose tables would be no smaller than a full one stays full.

    collisions: c, the ids that share a row of the first table; mixed_radix and chinese_remainder have one more.
    rows: of the first table (hash, qr), or at most of each table, of which there are as few as that allows.
    bytes: the most that a field's tables may take in float32; the largest tables that fit are taken: a full one, else
        as few as can be, of as many rows in the first one as can be.
    tables: how many there are (mixed_radix, chinese_remainder), of about n^(1/tables) rows each.
    threshold: fields of at most so many ids stay full.
    dim: width of a field's vector; with feature, of each of its vectors.
    hidden: path only: width of the hidden layer of each class's function; 0 for linear functions.
    allow_collisions: whether ids may share every row of a scheme that is not the hashing trick.
    bits: of a table's values, which stand on a grid of so few levels a column while they learn (grid.py); 0: float32.
        Path's functions and first-order tables are float32.
    hash_rows: "collisions" gives a hashed field ceil(n / c) rows, "qr" as many as quotient-remainder would hold.
    first_order: tables of the first-order term: compressed alike, full, or no such term.
    init: how fresh tables are drawn (initial.py says why): "auto" as suits the combine; "matched", all tables around
        zero so that mult's product spreads as a single table would; "reference", U(sqrt(1 / rows), 1), as published
        code has it.
    spread: standard deviation of fresh first tables, and of all tables that are added or stand side by side.
    deviation: standard deviation, around one, of mult's later tables.
    reserve: ids that a vocabulary holds free for values of later rows (`quorem train --from`), as a share of those it
        keeps; a feature may say its own. Semantic fields hold none: a free id has no classes.
    """

    scheme: Scheme = "full"
    combine: Combine = "mult"
    collisions: int | None = None
    rows: Rows | None = None
    bytes: Bytes | None = None
    tables: Tables | None = None
    threshold: int = Field(default=20, ge=0)
    dim: Dim = 16
    hidden: Hidden = 0
    allow_collisions: bool = False
    bits: Bits = 0
    hash_rows: Literal["collisions", "qr"] = "collisions"
    first_order: Literal["alike", "full", "none"] = "alike"
    init: Literal["auto", "matched", "reference"] = "auto"
    spread: float = Field(default=1e-4, gt=0)
    deviation: float = Field(default=0.1, ge=0)
    reserve: float = Field(default=0.0, ge=0, le=1000)
    fields: dict[str, FieldConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _keys_fit(self) -> "EmbeddingConfig":
        _one_size(self)
        if self.scheme == "semantic":
            raise ValueError('scheme = "semantic" names one field\'s classes: say it in [embedding.fields]')
        if self.hidden and "path" not in {self.combine, *(field.combine for field in self.fields.values())}:
            raise ValueError('`hidden` goes with combine = "path"')
        for name, field in self.fields.items():
            given = [key for key in SIZE_KEYS if getattr(field, key) is not None]
            if strange := [key for key in given if key not in SIZES[field.scheme or self.scheme]]:
                raise ValueError(
                    f'{", ".join(strange)} of field {name} means nothing with scheme = "{self.scheme}": '
                    "say the field's own `scheme`"
                )
            if field.hidden and (field.combine or self.combine) != "path":
                raise ValueError(f'`hidden` of field {name} goes with combine = "path"')
        return self


def _one_size(config: FieldConfig | EmbeddingConfig) -> None:
    if len(given := [key for key in EXCLUSIVE if getattr(config, key, None) is not None]) > 1:
        raise ValueError(f"tables take their size from one of {', '.join(EXCLUSIVE)}; found {' and '.join(given)}")


class TrainConfig(Section):
    """The optimisation. With `data.sample_weight`, the loss is the mean over a batch's rows of weight x cross entropy.

    l2: weight of half the squared norm of embedding rows beside the mean loss: its gradient is l2 x row. First-order
        tables count; the later tables of `mult` are pulled to one, which is neutral there, instead of zero.
    l2_rows: over the rows that a batch looks up, or over whole tables, as published recipes were tuned.
    sparse_rows: packed tables of so many rows or more learn row by row: a step costs what a batch looks up, not what
        the tables hold. For Adagrad and row-wise Adagrad that changes nothing but the time; Adam and AMSGrad are lazy
        there (row_steps.py). L2 over whole tables moves every row: with it none does.
    optimizer: rowwise_adagrad keeps one number a row of the tables (Adagrad's, averaged over the row), and is Adagrad
        for all else.
    precision: of the layers while they learn; evaluation and what is written are fp32. bf16 pays on processors that
        multiply such matrices.
    lr_decay: factor on the learning rate after an epoch that did not better the validation AUC.
    patience: epochs in a row without a better validation AUC before training stops.
    checkpoint_minutes: how often, beside the end of an epoch, a checkpoint is written: what a killed run loses at most.
    distil: w, where there is a teacher (teacher.py): the loss of a row is (1 - w) times its cross entropy against the
        label and w times that against the teacher's probability. Validation and early stopping know labels alone.
    keep_state: whether the run directory keeps the optimizer's last state, for runs that go on from it.
    """

    optimizer: Literal["adam", "amsgrad", "adagrad", "rowwise_adagrad"] = "adam"
    precision: Literal["fp32", "bf16"] = "fp32"
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=4096, ge=2)
    epochs: int = Field(default=100, ge=1)
    patience: int = Field(default=2, ge=1)
    lr_decay: float = Field(default=0.1, gt=0, le=1)
    l2: float = Field(default=0.0, ge=0)
    l2_rows: Literal["batch", "all"] = "batch"
    sparse_rows: int = Field(default=250_000, ge=0)
    seed: int = Field(default=1, ge=0, lt=2**63)
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    distil: float = Field(default=0.5, ge=0, le=1)
    keep_state: bool = False


class Recipe(Section):
    """A whole recipe."""

    data: DataConfig
    features: dict[str, FeatureConfig] = Field(min_length=1)
    embedding: EmbeddingConfig = EmbeddingConfig()
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    search: SearchConfig = SearchConfig()

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
        if strange := sorted(set(self.search.fields) - set(known)):
            raise ValueError(f"[search.fields] names {', '.join(strange)}; features with ids are {', '.join(known)}")
        semantic = [name for name, field in self.embedding.fields.items() if field.scheme == "semantic"]
        if held := [name for name in semantic if self.features[name].reserve]:
            raise ValueError(f"feature {held[0]} holds a `reserve`, and its free ids would have no semantic classes")
        if not self.model.first_order and "first_order" in self.embedding.model_fields_set:
            raise ValueError(f"{self.model.name} has no first-order term; leave embedding.first_order out")
        return self
