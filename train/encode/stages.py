"""The stages of an encoding, each over all pieces, parts, features or shards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...protos import manifest_pb2 as pb
from ...protos.errors import DataError
from ...protos.schema import layout
from ..data import DataConfig
from ..fit import fit_numbers, needs_numbers
from ..kept import CALIBRATION_ROWS, REFERENCE_ROWS, VALIDATION_ROWS, spaced
from ..recipe import Recipe
from ..reserve import note_growth
from .arrays import write_arrays
from .cache import KEPT, described
from .counting import Known, count_feature
from .parts import Part, Rows
from .pieces import Piece
from .pool import Pool
from .progress import Progress
from .scan import Scan, Scanned, done, scan_piece
from .shards import ROWS, Made, lay_out, make_shard, raw_rows

FITTED_ROWS = 2**22
"""Means, scales and boundaries are fitted to so many training rows, evenly spaced, or to all where there are fewer."""


def scan_all(
    scan: Scan, pieces: Sequence[Piece], rows: int | None, pool: Pool, progress: Progress
) -> dict[int, Scanned]:
    """What came of each piece; where only the first rows of each split are wanted, of the first pieces."""
    progress.begin("reading", sum(piece.size for piece in pieces))
    found = {piece.number: before for piece in pieces if (before := done(scan, piece)) is not None}
    progress.skip(sum(pieces[number].size for number in found))
    waiting = [piece for piece in pieces if piece.number not in found]
    if rows is None:
        for number, scanned in pool.run(scan_piece, [(scan, piece) for piece in waiting]):
            found[waiting[number].number] = scanned
            progress.add(waiting[number].size, sum(count for _, count in scanned.parts))
        return found
    counts = dict.fromkeys((piece.split for piece in pieces), 0)
    for piece in pieces:
        if counts[piece.split] < rows:
            if piece.number not in found:
                found[piece.number] = scan_piece(scan, piece)
            counts[piece.split] += sum(count for _, count in found[piece.number].parts)
            progress.add(piece.size, sum(count for _, count in found[piece.number].parts))
        else:
            found.pop(piece.number, None)
    return found


def check_bad(pieces: Sequence[Piece], scanned: Mapping[int, Scanned], most: float) -> dict[str, Any]:
    """Refuse columns that change their types, and too many bad rows; returns how many there are, and some in words."""
    types = [(scanned[number].types, pieces[number].path) for number in sorted(scanned) if scanned[number].types]
    for kind, path in types:
        if kind != types[0][0]:
            changed = set(kind.splitlines()) - set(types[0][0].splitlines())
            raise DataError(
                "a column has one type in all files",
                found=f"{', '.join(sorted(changed))}, which is not so in {types[0][1]}",
                where=path,
                remedy="Write the column with the same type in every file",
            )
    bad = sum(each.bad for each in scanned.values())
    rows = bad + sum(count for each in scanned.values() for _, count in each.parts)
    told = [line for number in sorted(scanned) for line in scanned[number].told][:10]
    if bad > most * rows:
        raise DataError(
            f"of all rows, at most {most:g} are bad (--bad-rows)",
            found=f"{bad:,} of {rows:,}; the first: {told[0]}",
            where="[data]",
            remedy="Correct them, or allow a greater share",
        )
    return {"rows": bad, "told": told}


def parts_of(pieces: Sequence[Piece], scanned: Mapping[int, Scanned], rows: int | None) -> list[Part]:
    """The parts in the order of their rows; of each split, or of all, the first `rows` rows."""
    parts, counts = list[Part](), dict[str, int]()
    for number in sorted(scanned):
        split = pieces[number].split
        for path, count in scanned[number].parts:
            before = counts.get(split, 0)
            used = count if rows is None else min(count, rows - before)
            if used > 0:
                parts.append(Part(path, split, used))
                counts[split] = before + used
    return parts


def check_splits(splits: Mapping[str, Sequence[int]], data: DataConfig) -> None:
    """Refuse a split without a row; `splits` has the rows of each in every part."""
    wanted = {"train", "valid"}
    if data.test is not None or (data.split is not None and data.split.test):
        wanted.add("test")
    for split in ("train", "valid", "test"):
        if split in wanted and not sum(splits[split]):
            raise DataError(
                "a split has at least one row",
                found=f"no row for {split}",
                where="data.split" if data.split else f"data.{split}",
                remedy="Check the files, or raise the share of the split",
            )


def fit_all(schema: pb.Schema, recipe: Recipe, parts: Sequence[Part], counts: Sequence[int]) -> int:
    """Fit what is fitted to numbers; `counts` are the training rows of each part. Returns how many rows were taken."""
    total = sum(counts)
    columns = layout(schema).dense
    for feature in schema.features:
        if feature.name in columns and needs_numbers(feature):
            places = spaced(total, FITTED_ROWS)
            numbers, before, at = np.empty(len(places), np.float32), 0, 0
            for part, count in zip(parts, counts, strict=True):
                end = int(np.searchsorted(places, before + count))
                if end > at:
                    numbers[at:end] = Rows(part, "train").at("numbers", places[at:end] - before)[
                        :, columns[feature.name]
                    ]
                before, at = before + count, end
            fit_numbers(feature, recipe.features[feature.name], numbers)
    return min(total, FITTED_ROWS) if any(map(needs_numbers, schema.features)) else total


def count_all(
    schema: pb.Schema,
    out: Path,
    parts: Sequence[Part],
    most: int,
    pool: Pool,
    progress: Progress,
    weights: Path | None = None,
) -> tuple[dict[str, str], dict[str, int]]:
    """The vocabularies' files by feature, and how many values each has.

    They grow from those of a run where its `weights` are given, and the schema, which is its own, is brought up to it.
    """
    features = [
        (index, feature)
        for index, feature in enumerate(schema.features)
        if feature.WhichOneof("encoding") == "vocabulary"
    ]
    files = {feature.name: str(out / f"vocabulary-{index:03}.safetensors") for index, feature in features}
    tasks = list[tuple[Any, ...]]()
    for index, feature in features:
        held = feature.vocabulary
        known = Known(weights, feature.name, held.reserve) if weights else None
        tasks.append((parts, index, held.min_count, most, Path(files[feature.name]), known))
    progress.begin("counting", len(tasks))
    counted = dict[str, int]()
    for number, found in pool.run(count_feature, tasks):
        name, held = features[number][1].name, features[number][1].vocabulary
        if weights:
            note_growth(held, found.values, found.turned_away)
        else:
            held.size = found.values
        counted[name], progress.ranges[name] = found.values, found.ranges
        progress.add(1)
    return files, counted


def write_all(
    schema: pb.Schema,
    out: Path,
    parts: Sequence[Part],
    splits: Mapping[str, Sequence[int]],
    vocabularies: Mapping[str, str],
    pool: Pool,
    progress: Progress,
) -> dict[str, list[Made]]:
    """The shards of every split that has rows; `splits` has the rows of each in every part."""
    tasks, fitted, slots = list[tuple[Any, ...]](), schema.SerializeToString(), lay_out(schema)
    for split, counts in splits.items():
        for shard, first in enumerate(range(0, sum(counts), ROWS)):
            path = out / f"{split}-{shard:05}.safetensors"
            stretches = _stretches(parts, counts, first, min(first + ROWS, sum(counts)))
            tasks.append((fitted, slots, vocabularies, stretches, split, path))
    progress.begin("writing", sum(sum(counts) for counts in splits.values()))
    made = dict[int, Made]()
    for number, shard in pool.run(make_shard, tasks):
        made[number] = shard
        progress.add(shard.rows, shard.rows)
    return {
        split: [made[number] for number, task in enumerate(tasks) if task[4] == split]
        for split, counts in splits.items()
        if sum(counts)
    }


def _stretches(parts: Sequence[Part], counts: Sequence[int], first: int, last: int) -> list[tuple[Part, int, int]]:
    """Of each part the rows that are among those from `first` on and before `last` of the split."""
    found, before = list[tuple[Part, int, int]](), 0
    for part, count in zip(parts, counts, strict=True):
        start, stop = max(first - before, 0), min(last - before, count)
        if start < stop:
            found.append((part, start, stop))
        before += count
    return found


def keep_rows(
    schema: pb.Schema, out: Path, parts: Sequence[Part], splits: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Write the rows that a run directory keeps; returns name, size and digest of their file."""
    heldout = "test" if sum(splits["test"]) else "valid"
    arrays = dict[str, Any]()
    for name, split, most in (
        ("calibration", "train", CALIBRATION_ROWS),
        ("validation", "valid", VALIDATION_ROWS),
        ("reference", heldout, REFERENCE_ROWS),
    ):
        places = spaced(sum(splits[split]), most)
        arrays[f"{name}.places"] = places
        arrays |= {f"{name}.{key}": array for key, array in raw_rows(schema, parts, split, places).items()}
    write_arrays(out / KEPT, arrays, {})
    return described(out / KEPT)
