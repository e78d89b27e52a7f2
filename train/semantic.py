"""Semantic partitions: the user's own classes of a feature's values, and the proof that they tell its ids apart.

Source: Shi et al., KDD'20, section 3.1, user-defined partitions (cars by brand, type and model year).

The distinct values of a partition's column are its classes 1, 2, … by falling number of ids (ties: the smaller text
first); an empty cell is a value like any other: not known. Class 0 is the rare id's alone, so that what was never seen
has a tuple of its own. A missing value that is in a vocabulary has its classes in the row whose key is empty.

Legend: R rows of the class table; n ids of the feature, the rare one included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..protos import manifest_pb2 as pb
from ..protos.collisions import Int32s, groups_of_ids
from ..protos.encode import encode
from ..protos.errors import NotComplementary, OneId, PlanError, WrongClasses
from ..protos.ids import MISSING, Int64s, VocabularyValues, ids_of, raw64_of_strings
from ..protos.schema import cardinality
from .class_table import read_class_table
from .columns import to_columns
from .recipe import EmbeddingConfig, FeatureConfig, FieldConfig
from .remainder import least_remainder

SHOWN = 3  # values that an error names


@dataclass(frozen=True)
class Semantics:
    """The classes of one field, and the tables they make.

    tables: (1, classes) of each partition, and (1, m) where remainders were asked for and needed.
    classes: of each table int32 (n,), or None for the remainders.
    unused_rows: rows of the class table whose key is no id of the feature.
    """

    tables: list[tuple[int, int]]
    classes: list[Int32s | None]
    unused_rows: int

    @property
    def remainder(self) -> int | None:
        """m of the remainders that complete the classes; None where there are none."""
        return self.tables[-1][1] if self.classes[-1] is None else None


def read_semantics(
    config: EmbeddingConfig,
    features: Mapping[str, FeatureConfig],
    base: Path,
    schema: pb.Schema,
    vocabularies: Mapping[str, VocabularyValues],
    train: pa.Table | None,
) -> dict[str, Semantics]:
    """The classes of every field whose scheme is semantic.

    Args:
        config: the section.
        features: the recipe's features.
        base: the directory that relative paths start from.
        schema: fitted to the training rows, with its vocabularies.
        vocabularies: their values.
        train: the training rows, in which an error looks up what a string was; None where they are not at hand.

    Raises:
        DataError: no such file or column. WrongClasses: ids without a row, or with two that differ.
        NotComplementary: ids share all their classes, and the recipe allows neither remainders nor collisions.
        PlanError: a feature whose ids stand for no values.
    """
    found = dict[str, Semantics]()
    for feature in schema.features:
        field = config.fields.get(feature.name, FieldConfig())
        if field.scheme == "semantic":
            leave = config.allow_collisions if field.allow_collisions is None else field.allow_collisions
            reader = _Reader(feature, features[feature.name], field, base, vocabularies.get(feature.name), train)
            found[feature.name] = reader.read(allow_collisions=leave)
    return found


class _Reader:
    """One field's classes, from its table to the proof."""

    def __init__(
        self,
        feature: pb.Feature,
        config: FeatureConfig,
        field: FieldConfig,
        base: Path,
        vocabulary: VocabularyValues | None,
        train: pa.Table | None,
    ) -> None:
        name, kind = feature.name, feature.WhichOneof("encoding")
        self.where = f"embedding.fields.{name}"
        if kind not in ("id", "vocabulary"):
            raise PlanError(
                "a semantic field's ids stand for values, as those of a vocabulary or an id range do",
                found=f"ids of kind {kind}",
                where=self.where,
                remedy='Say encoding = "vocabulary" for the feature, or take another scheme',
            )
        assert field.table is not None
        assert field.partitions is not None
        self.feature, self.config, self.vocabulary, self.train = feature, config, vocabulary, train
        self.n, self.partitions, self.complete = cardinality(feature), field.partitions, field.complete
        self.rare = feature.id.size if kind == "id" else 0
        self.table = read_class_table(
            field.table,
            base,
            field.key or name,
            field.partitions,
            integers=config.integers,
            setting=f"{self.where}.table",
        )
        self.where = f"{self.where}, table {self.table.source}"

    def read(self, *, allow_collisions: bool) -> Semantics:
        if self.n == 1:
            raise OneId(
                "a semantic field has at least two ids",
                found="n = 1: no value of the feature is kept",
                where=self.where,
                remedy="Lower the feature's min_count, or leave the field full",
            )
        ids = self._ids()
        used = np.flatnonzero(ids != self.rare)
        present, firsts = self._rows_of_ids(ids, used)
        tables, classes = list[tuple[int, int]](), list[Int32s | None]()
        for cells in self.table.cells:
            ranks, count = _ranked(cells.take(pa.array(firsts)))
            whole = np.zeros(self.n, np.int32)
            whole[present] = ranks
            tables.append((1, count + 1))
            classes.append(whole)
        groups = groups_of_ids(tables, classes, self.n)
        colliding = self.n - int(groups.max()) - 1
        if colliding and self.complete:
            tables.append((1, least_remainder(groups)))
            classes.append(None)
        elif colliding and not allow_collisions:
            raise self._not_complementary(groups, colliding, dict(zip(present.tolist(), firsts.tolist(), strict=True)))
        return Semantics(tables, classes, len(ids) - len(used))

    def _ids(self) -> Int64s:
        """(R,) int64: the id that each row's key has, the rare id where it is none of the feature's."""
        name, keys = self.feature.name, self.table.keys
        plain = pb.Feature(name=name, side=self.feature.side, values=self.feature.values)
        if self.feature.WhichOneof("encoding") == "id":
            plain.id.CopyFrom(self.feature.id)
            plain.id.out_of_range = pb.RARE
        else:
            plain.vocabulary.CopyFrom(self.feature.vocabulary)
        columns = to_columns(pa.table({name: keys}), {name: self.config.model_copy(update={"kind": "categorical"})})
        raw = encode(pb.Schema(features=[plain]), columns, len(keys), long_bags="refuse").ids[:, 0]
        ids = ids_of(self.feature, raw, self.vocabulary)
        empty = np.flatnonzero((raw == MISSING) & (ids == self.rare))
        if len(empty):
            raise WrongClasses(
                "every row of a class table has a key; an empty one is a missing value, where the feature has such",
                found=f"empty keys: {len(empty):,}, the first in row {empty[0] + 1}",
                where=self.where,
                remedy="Fill the key in, or drop the row",
            )
        return ids

    def _rows_of_ids(self, ids: Int64s, used: Int64s) -> tuple[Int64s, Int64s]:
        """The ids that have rows, rising, and the first row of each; refused are ids without one, or with two."""
        order = used[np.argsort(ids[used], kind="stable")]
        fresh = np.r_[True, ids[order[1:]] != ids[order[:-1]]][: len(order)]
        for name, cells in zip(self.partitions, self.table.cells, strict=True):
            codes = _codes(cells)[0]
            differ = np.flatnonzero(~fresh[1:] & (codes[order[1:]] != codes[order[:-1]]))
            if len(differ):
                rows = order[differ[0] : differ[0] + 2]
                cell = [repr(cells[int(row)].as_py()) for row in rows]
                several = len(np.unique(ids[order[1:][differ]]))
                raise WrongClasses(
                    "a value has one class in each partition",
                    found=f"{several:,} with several, as {self._key(rows[0])}: {name} {cell[0]} in row {rows[0] + 1}, "
                    f"{cell[1]} in row {rows[1] + 1}",
                    where=self.where,
                    remedy="Keep one row of each value",
                )
        present, firsts = ids[order[fresh]], order[fresh]
        if len(present) < self.n - 1:
            start = 0 if self.rare else 1
            near = np.arange(start, start + min(self.n - 1, len(present) + SHOWN))
            named = ", ".join(self._values(np.setdiff1d(near, present)[:SHOWN]))
            count = self.n - 1 - len(present)
            raise WrongClasses(
                "every value of a semantic feature has a row in its class table",
                found=f"no row for {count:,} of {self.n - 1:,} values: {named}{' …' if count > SHOWN else ''}",
                where=self.where,
                remedy="Add the rows, or raise the feature's min_count so that fewer values are kept"
                if self.vocabulary
                else "Add the rows, or lower the feature's size",
            )
        return present, firsts

    def _values(self, ids: Int64s) -> list[str]:
        """What these ids stand for, in words; strings are looked up in the training rows."""
        if self.vocabulary is None:
            return [str(id + self.feature.id.first) for id in ids.tolist()]
        places = np.argsort(self.vocabulary.ids)
        raw = [int(self.vocabulary.values[places[id - 1]]) for id in ids]
        if self.config.integers:
            return [_told(None if each == MISSING else each) for each in raw]
        if self.train is None:
            return [f"the string whose hash is {each}" for each in raw]
        name = self.feature.name
        strings = to_columns(self.train.select([name]), {name: self.config})[name].strings or []
        texts = dict(zip(raw64_of_strings(strings).tolist(), strings, strict=True))
        return [_told(texts[each].decode() if each in texts else None) for each in raw]

    def _key(self, row: int) -> str:
        return _told(self.table.keys[int(row)].as_py())

    def _not_complementary(self, groups: Int64s, colliding: int, rows: Mapping[int, int]) -> NotComplementary:
        order = np.argsort(groups, kind="stable")
        twin = int(np.flatnonzero(groups[order[1:]] == groups[order[:-1]])[0])
        first, second = (rows[int(id)] for id in order[twin : twin + 2])
        named = zip(self.partitions, self.table.cells, strict=True)
        shared = ", ".join(f"{name} {_told(cells[first].as_py())}" for name, cells in named)
        alike = f"{self._key(first)} and {self._key(second)} are both {shared}"
        return NotComplementary(
            "the classes of a semantic field tell its ids apart",
            found=f"{colliding:,} of {self.n:,} ids collide: {alike}",
            where=self.where,
            remedy="Say complete = true, which adds a table of the remainders modulo "
            f"{least_remainder(groups)}; or add a partition, or say allow_collisions = true",
        )


def _codes(cells: pa.Array) -> tuple[Int64s, list[str | None]]:
    """(R,) int64 numbers of the distinct texts, an empty cell's among them, and the texts."""
    coded = cells.dictionary_encode(null_encoding="encode")
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _ranked(cells: pa.Array) -> tuple[Int32s, int]:
    """(I,) int32 classes of I ids, 1, 2, … by falling number of ids, ties by text; and how many classes there are."""
    codes, texts = _codes(cells)
    counts = np.bincount(codes, minlength=len(texts))
    order = sorted(range(len(texts)), key=lambda code: (-counts[code], texts[code] is not None, texts[code] or ""))
    ranks = np.empty(len(texts), np.int32)
    ranks[order] = np.arange(1, len(texts) + 1, dtype=np.int32)
    return ranks[codes], len(texts)


def _told(value: Any) -> str:
    return "(empty)" if value is None else repr(value)
