"""Ids: how a raw value becomes raw64, and raw64 an id. Integers from end to end.

Legend: N values. raw64 is int64; `MISSING` (INT64_MIN) stands for a missing value and pads bags.
The graphs compute `ids_of` from raw64 themselves; this is the same arithmetic in numpy, which training uses.

Published vectors (tests/test_ids.py holds more):
    raw64_of_strings([b"", b"quorem"]) == [3244421341483603138, -3763609191505703569]
    fmix64([0, 1]) == [0, 12994781566227106604]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xxhash

if TYPE_CHECKING:
    from . import manifest_pb2 as pb

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

MISSING = -(2**63)
MISSING_DIGEST = 2**63  # the same bits, read as uint64
STRING_SEED = 0
FMIX_FIRST, FMIX_SECOND = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53  # MurmurHash3's 64-bit finaliser, Appleby 2011


@dataclass(frozen=True)
class VocabularyValues:
    """The kept values of one vocabulary: `values` int64 [V], strictly rising, and their `ids` int32 [V]."""

    values: Int64s
    ids: npt.NDArray[np.int32]


def raw64_of_strings(strings: Sequence[bytes]) -> Int64s:
    """xxh3_64 of each string's UTF-8 bytes, read as int64; (N,) int64.

    A string whose hash is the code of a missing value takes the hash's successor, so that no string is missing.
    """
    digest = xxhash.xxh3_64_intdigest
    digests = [digest(string, STRING_SEED) for string in strings]
    if MISSING_DIGEST in digests:
        digests = [each + (each == MISSING_DIGEST) for each in digests]
    return np.array(digests, np.uint64).view(np.int64)


def fmix64(values: UInt64s) -> UInt64s:
    """MurmurHash3's 64-bit finaliser: a bijection of uint64 that scatters neighbours; (…) uint64 -> (…) uint64."""
    mixed = values ^ (values >> np.uint64(33))
    mixed = mixed * np.uint64(FMIX_FIRST)  # wraps, as the graphs' Mul does
    mixed ^= mixed >> np.uint64(33)
    mixed *= np.uint64(FMIX_SECOND)
    return mixed ^ (mixed >> np.uint64(33))


def offsets(raw: Int64s, first: int | Int64s) -> UInt64s:
    """How far values lie above the first of a range: less than its size for its own values alone, as others wrap.

    (…) int64 and what broadcasts to it -> (…) uint64; see IdRange in manifest.proto.
    """
    return raw.view(np.uint64) - np.asarray(first, np.int64).view(np.uint64)


def ids_of(feature: "pb.Feature", raw: Int64s, vocabulary: VocabularyValues | None = None) -> Int64s:
    """The ids of raw values under the feature's encoding; (…) int64 -> (…) int64 in [0, cardinality).

    Padding of a bag takes an id as well (as MISSING does); its vector is masked, never read.
    """
    kind = feature.WhichOneof("encoding")
    if kind == "id":
        size = np.uint64(feature.id.size)
        return np.minimum(offsets(raw, feature.id.first), size).view(np.int64)
    if kind == "hash":
        return (fmix64(raw.view(np.uint64) ^ np.uint64(feature.hash.seed)) % np.uint64(feature.hash.buckets)).view(
            np.int64
        )
    assert vocabulary is not None, "a vocabulary feature comes with its values"
    if not len(vocabulary.values):
        return np.zeros_like(raw)
    position = np.minimum(np.searchsorted(vocabulary.values, raw), len(vocabulary.values) - 1)
    return np.where(vocabulary.values[position] == raw, vocabulary.ids[position], 0).astype(np.int64)


def bucket_ids(boundaries: npt.NDArray[np.float32], numbers: npt.NDArray[np.float32]) -> Int64s:
    """0 for NaN, else 1 + how many boundaries are <= the number; (N,) float32 -> (N,) int64."""
    return np.where(np.isnan(numbers), 0, 1 + np.searchsorted(boundaries, numbers, side="right")).astype(np.int64)


def count_vocabulary(raw: Int64s, min_count: int) -> VocabularyValues:
    """Keep values seen at least `min_count` times; ids 1, 2, … by falling count, ties by smaller raw64."""
    values, counts = np.unique(raw, return_counts=True)
    kept = counts >= min_count
    return number_vocabulary(values[kept], counts[kept])


def number_vocabulary(values: Int64s, counts: Int64s) -> VocabularyValues:
    """The vocabulary of distinct values, strictly rising, that were seen so many times; ids as `count_vocabulary`'s."""
    ids = np.empty(len(values), np.int32)
    ids[np.lexsort((values, -counts))] = np.arange(1, len(values) + 1, dtype=np.int32)
    return VocabularyValues(values, ids)


def grow_vocabulary(
    vocabulary: VocabularyValues, values: Int64s, counts: Int64s, room: int
) -> tuple[VocabularyValues, int]:
    """Give those of the distinct values, strictly rising, that are new the next ids, while there is `room` for them.

    They take them by falling count, ties by smaller raw64. No value's id changes.

    Returns:
        The grown vocabulary, and how many new values found no room.
    """
    new = ~np.isin(values, vocabulary.values)
    numbered = number_vocabulary(values[new], counts[new])
    takes = numbered.ids <= room
    grown = np.concatenate([vocabulary.values, numbered.values[takes]])
    ids = np.concatenate([vocabulary.ids, numbered.ids[takes] + np.int32(len(vocabulary.values))])
    order = np.argsort(grown)
    return VocabularyValues(grown[order], ids[order].astype(np.int32)), int((~takes).sum())
