"""The recipe: everything that decides a training run, read from TOML into frozen, validated config."""

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..protos.errors import RecipeError
from .data import DataConfig

SHIPPED = Path(__file__).parent / "recipes"
SPAN = re.compile(r"^(.*?)(\d+)\.\.\1(\d+)$")  # "C1..C26"


class Section(BaseModel):
    """A part of a recipe: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureConfig(Section):
    """One column. Which keys apply depends on `kind` and `encoding`; the others are refused."""

    kind: Literal["dense", "categorical", "bag"]
    side: Literal["context", "candidate"] = "candidate"
    encoding: Literal["id", "hash", "vocabulary"] | None = None
    values: Literal["string", "integer"] | None = None
    min_count: int = Field(default=1, ge=1)
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


class FieldConfig(Section):
    """How one field's tables are built; what is not given falls back to `[embedding]`."""

    scheme: Literal["full", "hash", "qr"] | None = None
    combine: Literal["mult", "add", "concat"] | None = None
    collisions: int | None = Field(default=None, ge=1)
    dim: int | None = Field(default=None, ge=1, le=4096)


class EmbeddingConfig(Section):
    """Tables of all fields.

    collisions: c, the ids that share a row of a compressed field's first table.
    threshold: fields of at most so many ids stay full.
    hash_rows: "collisions" gives a hashed field ceil(n / c) rows, "qr" as many as quotient-remainder would hold.
    first_order: tables of the first-order term: compressed alike, full, or no such term.
    """

    scheme: Literal["full", "hash", "qr"] = "full"
    combine: Literal["mult", "add", "concat"] = "mult"
    collisions: int = Field(default=4, ge=1)
    threshold: int = Field(default=20, ge=0)
    dim: int = Field(default=16, ge=1, le=4096)
    hash_rows: Literal["collisions", "qr"] = "collisions"
    first_order: Literal["alike", "full", "none"] = "alike"
    fields: dict[str, FieldConfig] = {}


class DeepFMConfig(Section):
    """DeepFM: first order + factorization machine + MLP."""

    name: Literal["deepfm"]
    first_order: ClassVar[bool] = True
    mlp: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(400, 400, 400), min_length=1)
    batchnorm: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)


class DLRMConfig(Section):
    """DLRM: bottom MLP, dot interaction, top MLP."""

    name: Literal["dlrm"]
    first_order: ClassVar[bool] = False
    bottom: tuple[Annotated[int, Field(ge=1)], ...] = (512, 256)
    top: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(512, 256), min_length=1)
    batchnorm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)


class TrainConfig(Section):
    """The optimisation.

    l2: weight of the squared norm of embedding rows beside the mean loss, halved (its gradient is l2 x row).
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

    @field_validator("features", mode="before")
    @classmethod
    def _expand_spans(cls, features: Any) -> Any:
        if not isinstance(features, dict):
            return features
        expanded = dict[str, Any]()
        for name, config in features.items():
            span = SPAN.match(name)
            names = [name] if not span else [f"{span[1]}{i}" for i in range(int(span[2]), int(span[3]) + 1)]
            for each in names:
                if each in expanded:
                    raise ValueError(f"feature {each!r} stands twice")
                expanded[each] = config
        return expanded

    @model_validator(mode="after")
    def _fields_exist(self) -> "Recipe":
        known = [
            name for name, config in self.features.items() if config.kind != "dense" or config.transform == "bucket"
        ]
        if not known:
            raise ValueError("a model needs at least one categorical, bag or bucket feature")
        if strange := sorted(set(self.embedding.fields) - set(known)):
            raise ValueError(f"[embedding.fields] names {', '.join(strange)}; features with ids are {', '.join(known)}")
        return self


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with quorem."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def read_recipe(name: str, settings: Sequence[str] = (), seed: int | None = None) -> tuple[Recipe, Path]:
    """Read a recipe, a file or the name of a shipped one, with `key=value` settings laid over it.

    Returns:
        The recipe, and the directory that its relative paths start from (the file's; for a shipped one, the current).

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, a value out of its range; it names the key.
    """
    path, base = Path(name), Path(name).parent
    if not path.suffix and not path.exists() and (SHIPPED / f"{name}.toml").is_file():
        path, base = SHIPPED / f"{name}.toml", Path()
    if not path.is_file():
        raise RecipeError(
            "a recipe is a TOML file or the name of a shipped one",
            found=f"no file {name!r}",
            where="RECIPE",
            remedy=f"Shipped recipes: {', '.join(shipped_recipes())}",
        )
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError("a recipe is TOML", found=str(error), where=str(path), remedy="Mend that line") from None
    for setting in settings:
        _lay_over(content, setting)
    if seed is not None:
        content.setdefault("train", {})["seed"] = seed
    try:
        return Recipe.model_validate(content), base
    except ValidationError as error:
        raise _explain(error, content, str(path)) from None


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML, for the run directory."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True, exclude_unset=True))


def _lay_over(content: dict[str, Any], setting: str) -> None:
    """Set one dotted key: `embedding.collisions=4`. Values are TOML; what is not TOML is a string."""
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise RecipeError(
            "a setting is key=value", found=setting, where="--set", remedy="Write it as embedding.collisions=4"
        )
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError("a dotted key leads through sections", found=setting, where="--set")
    content[last] = parsed


def _explain(error: ValidationError, content: dict[str, Any], where: str) -> RecipeError:
    """The first of pydantic's complaints, as a rule, what was found, and a remedy."""
    first = error.errors(include_url=False, include_context=False)[0]
    steps = [str(step) for step in first["loc"] if step not in ("deepfm", "dlrm")]
    remedy = f"{error.error_count() - 1} more to mend after it" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        section = _section(Recipe, steps[:-1], content)
        close = difflib.get_close_matches(steps[-1], section, 1)
        remedy = f"Did you mean `{close[0]}`?" if close else f"Known keys: {', '.join(section)}"
        rule = "a recipe has only known keys"
        return RecipeError(rule, found=f"`{steps[-1]}`", where=f"{where}, key {'.'.join(steps)}", remedy=remedy)
    rule = first["msg"].removeprefix("Value error, ")
    found = "nothing" if first["type"] == "missing" else repr(first["input"])[:200]
    return RecipeError(rule, found=found, where=f"{where}, key {'.'.join(steps) or '(whole)'}", remedy=remedy)


def _section(model: type[BaseModel], steps: Sequence[str], content: dict[str, Any]) -> list[str]:
    """The keys that the section at `steps` knows."""
    by_place: dict[str, type[BaseModel]] = {
        "data": DataConfig,
        "features": FeatureConfig,
        "embedding": FieldConfig if len(steps) > 2 else EmbeddingConfig,
        "model": DLRMConfig if content.get("model", {}).get("name") == "dlrm" else DeepFMConfig,
        "train": TrainConfig,
    }
    return sorted((by_place.get(steps[0], model) if steps else model).model_fields)
