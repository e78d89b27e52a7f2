"""Data: the `[data]` section of a recipe, and the rows it means as Arrow tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..protos.errors import DataError
from .sources import delimited, libfm, parquet
from .sources.columns import Request, Type
from .sources.paths import resolve
from .sources.split import ByTime, Split, by_share, by_time
from .sources.synthetic import SyntheticConfig, splits
from .sources.tables import Batches, collect, same_types

Source = Literal["parquet", "criteo", "csv", "libfm", "synthetic"]


class DataConfig(BaseModel):
    """The section `[data]` of a recipe.

    Paths may be globs; `~`, `$NAME` and `${NAME}` are expanded, and a relative path starts from the recipe's
    directory. Give `train`, `valid` and perhaps `test`; or one `path` and how to `split` it; or, for made rows,
    the table `synthetic`.

    Attributes:
        source: the layout of the files.
        train: files to learn from.
        valid: files that decide when to stop.
        test: files that the final metrics are measured on, or None.
        path: files that hold all rows.
        split: how the rows of `path` are divided.
        label: the column of 0 and 1.
        sample_weight: the column of row weights, or None for 1.
        negative_rate: share of the negatives that were kept when the data was made; 1 for all.
        group: the column whose groups grouped AUC is taken over (a user, a request), or None.
        delimiter: one character between the fields of a CSV file; a comma unless said.
        rows: read at most so many rows of each split, or of `path`; None for all.
        cache: the directory that `quorem encode` made of these rows; training reads them from there.
        synthetic: how to make rows, where source is "synthetic".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Source
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    path: str | None = None
    split: Split | None = None
    label: str = "label"
    sample_weight: str | None = None
    negative_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    group: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    rows: Annotated[int, Field(gt=0)] | None = None
    cache: str | None = None
    synthetic: SyntheticConfig | None = None

    @model_validator(mode="after")
    def _names_its_rows_once(self) -> Self:
        given = [key for key in ("train", "valid", "test", "path", "split") if getattr(self, key) is not None]
        found = f"found {', '.join(given) or 'none of them'}"
        if self.source == "synthetic":
            if given or self.synthetic is None:
                raise ValueError(f'source = "synthetic" takes the table data.synthetic and no files; {found}')
        elif self.synthetic is not None:
            raise ValueError(
                f'data.synthetic goes with source = "synthetic"; found source = "{self.source}"; drop one of them'
            )
        elif given not in (["train", "valid"], ["train", "valid", "test"], ["path", "split"]):
            raise ValueError(f"data names either train and valid (and test), or path and split; {found}")
        if self.delimiter is not None and self.source != "csv":
            raise ValueError(f'delimiter goes with source = "csv"; found source = "{self.source}"; drop the delimiter')
        return self


@dataclass(frozen=True)
class Facts:
    """Where the rows came from, for the manifest.

    Attributes:
        source: the layout.
        files: base names of the files, in the order read.
        rows: rows of each split.
        positives: rows with label 1 of each split.
        optimal_auc: AUC of the true probabilities on the test split, where they are known.
        optimal_logloss: their logloss there, in nats.
    """

    source: str
    files: tuple[str, ...]
    rows: Mapping[str, int]
    positives: Mapping[str, int]
    optimal_auc: float | None = None
    optimal_logloss: float | None = None


@dataclass(frozen=True)
class Splits:
    """The rows of a recipe.

    Each table holds the requested columns, then label, sample weight and group where they are not among them.
    Label and weight are float32 and checked; other columns are int64, float32, string, or lists of int64 or string,
    the same in every split; what is missing is null.
    """

    train: pa.Table
    valid: pa.Table
    test: pa.Table | None
    facts: Facts


def read(config: DataConfig, columns: Sequence[str], base: Path, types: Mapping[str, Type] | None = None) -> Splits:
    """The rows that a recipe's `[data]` means.

    Args:
        config: the section.
        columns: the columns that features read, in order.
        base: the directory that relative paths start from: the recipe's.
        types: what the values of a column are to be: "string", "integer" or "float". A column without one is what
            its file holds, and text in a CSV. Bags that are text with a delimiter are "string"; lists stay lists.

    Raises:
        DataError: a file, a column or a value that breaks a rule, told with its place.
    """
    request = request_of(config, columns, types)
    if config.synthetic is not None:
        return _made(config.synthetic, request)
    if config.path is not None and config.split is not None:
        return _divided(config, config.path, config.split, request, base)
    files = files_of(config, base)
    tables = {key: collect(_parts(config, paths, request), request)[0] for key, paths in files.items()}
    names = tuple(path.name for paths in files.values() for path in paths)
    return _gathered(tables, config.source, names, request)


def files_of(config: DataConfig, base: Path) -> dict[str, tuple[Path, ...]]:
    """The files of a section by its keys: train, valid and test, or path.

    Raises:
        DataError: see paths.py.
    """
    named = {key: getattr(config, key) for key in ("train", "valid", "test", "path")}
    return {key: resolve(path, base, f"data.{key}") for key, path in named.items() if path is not None}


def request_of(config: DataConfig, columns: Sequence[str], types: Mapping[str, Type] | None = None) -> Request:
    """What a section asks of its files; arguments as for `read`.

    Raises:
        DataError: the label is among the features.
    """
    if config.label in columns:
        raise DataError(
            "the label is not a feature: a model would read its answer from it",
            found=f"a feature that reads {config.label!r}",
            where="features",
            remedy="Drop the feature, or name another column in data.label",
        )
    request = Request(
        features=tuple(columns),
        label=config.label,
        weight=config.sample_weight,
        group=config.group,
        time=config.split.column if isinstance(config.split, ByTime) else None,
        types=types or {},
        rows=config.rows,
    )
    if config.source == "criteo":
        request = replace(request, types=delimited.CRITEO_TYPES | dict(request.types))
    return request


def _divided(config: DataConfig, pattern: str, split: Split, request: Request, base: Path) -> Splits:
    files = files_of(config, base)["path"]
    table, times = collect(_parts(config, files, request), request)
    if isinstance(split, ByTime):
        assert times is not None
        chosen = by_time(times, split, pattern)
    else:
        chosen = by_share(len(table), split)
    for name, index in chosen.items():
        if not len(index) and (name != "test" or split.test):
            raise DataError(
                "a split has at least one row",
                found=f"no row for {name} of {len(table)} in all",
                where=f"data.split of {pattern}",
                remedy=f"Raise the share of {name}, or give more rows",
            )
    tables = {name: table.take(pa.array(index)) for name, index in chosen.items() if len(index)}
    return _gathered(tables, config.source, tuple(path.name for path in files), request)


def _made(config: SyntheticConfig, request: Request) -> Splits:
    parts = splits(config, request.rows)
    tables = {
        part.name: collect([(f"synthetic {part.name} rows", part.batches(request.read))], request)[0] for part in parts
    }
    gathered = _gathered(tables, "synthetic", (), request)
    auc, logloss = parts[2].optimum()
    return replace(gathered, facts=replace(gathered.facts, optimal_auc=auc, optimal_logloss=logloss))


def _gathered(tables: Mapping[str, pa.Table], source: str, files: tuple[str, ...], request: Request) -> Splits:
    for name, table in tables.items():
        same_types(tables["train"], table, f"data.{name}")
    rows = {name: len(table) for name, table in tables.items()}
    positives = {name: int(table.column(request.label).to_numpy().sum()) for name, table in tables.items()}
    return Splits(tables["train"], tables["valid"], tables.get("test"), Facts(source, files, rows, positives))


def _parts(config: DataConfig, files: Sequence[Path], request: Request) -> list[tuple[str, Batches]]:
    return [(str(path), _batches(config, path, request.read)) for path in files]


def _batches(config: DataConfig, path: Path, wanted: tuple[str, ...]) -> Batches:
    if config.source == "parquet":
        return parquet.batches(path, wanted)
    if config.source == "libfm":
        return libfm.batches(path, wanted)
    if config.source == "criteo":
        return delimited.batches(path, wanted, delimited.CRITEO)
    return delimited.batches(path, wanted, delimited.Layout(config.delimiter or ",", quoted=True))
