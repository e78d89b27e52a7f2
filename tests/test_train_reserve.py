"""The reserve: ids that vocabularies hold free, and who takes them."""

from pathlib import Path

import numpy as np
import pytest
from commands import quorem
from days import write_days, write_recipe
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import schema
from quorem.protos.errors import Malformed
from quorem.protos.ids import count_vocabulary, grow_vocabulary, ids_of
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.reserve import hold_reserve

values = st.lists(st.integers(-5, 20), max_size=60)


def counted(raw: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(np.array(raw, np.int64), return_counts=True)


@given(first=values, second=values, third=values, room=st.integers(0, 12))
def test_ids_never_change_and_new_ones_follow(first: list[int], second: list[int], third: list[int], room: int) -> None:
    """By its definition, over two days: the most frequent new values, ties by the smaller, take the next ids."""
    vocabulary = count_vocabulary(np.array(first, np.int64), 1)
    for raw in (second, third):
        before = dict(zip(vocabulary.values.tolist(), vocabulary.ids.tolist(), strict=True))
        new = sorted({each for each in raw if each not in before}, key=lambda each: (-raw.count(each), each))
        vocabulary, away = grow_vocabulary(vocabulary, *counted(raw), room)
        after = dict(zip(vocabulary.values.tolist(), vocabulary.ids.tolist(), strict=True))
        expected = {each: len(before) + 1 + place for place, each in enumerate(new[:room])}
        assert after == before | expected
        assert away == len(new[room:])
        assert (np.diff(vocabulary.values) > 0).all()
        assert vocabulary.ids.dtype == np.int32
        room -= len(expected)
        feature = pb.Feature(vocabulary=pb.Vocabulary(size=len(after), min_count=1, reserve=room))
        assert ids_of(feature, np.array(raw, np.int64), vocabulary).max(initial=0) < schema.cardinality(feature)


@pytest.mark.parametrize(
    ("share", "size", "held"), [("0.1", 30, 3), ("0.1", 31, 4), ("0.5", 1, 1), ("0", 9, 0), ("2", 7, 14), ("0.1", 0, 0)]
)
def test_the_share_is_of_what_is_kept_rounded_up(share: str, size: int, held: int, tmp_path: Path) -> None:
    settings = [f"embedding.reserve={share}", "features.user.reserve=0.25"]
    recipe, _ = read_recipe(str(write_recipe(tmp_path, "day1")), settings)
    described = pb.Schema()
    for name in ("user", "item"):
        described.features.add(name=name).vocabulary.size = size
    hold_reserve(described, recipe)
    assert [feature.vocabulary.reserve for feature in described.features] == [-(-size // 4), held]


def test_a_recipe_without_a_reserve_reads_as_it_always_did(tmp_path: Path) -> None:
    recipe, base = read_recipe(str(write_recipe(tmp_path, "day1", reserve=0.0)))
    assert "reserve" not in to_toml(recipe, base)
    assert "keep_state" not in to_toml(recipe, base)
    for setting, told in (
        ("features.price.reserve=0.1", "reserve means nothing here"),
        ("embedding.reserve=-1", "embedding.reserve"),
        ("features.user.reserve=1e9", "features.user.reserve"),
    ):
        done = quorem("train", write_recipe(tmp_path, "day1"), "--out", tmp_path / "r", "--set", setting, check=2)
        assert told in done.stderr
    semantic = 'embedding.fields.item={scheme="semantic",table="t.csv",partitions=["a"]}'
    settings = ("--set", semantic, "--set", "features.item.reserve=0.5")
    told = quorem("train", write_recipe(tmp_path, "day1"), "--out", tmp_path / "r", *settings, check=2).stderr
    assert "semantic" in told


def test_the_plan_counts_the_reserve(tmp_path: Path) -> None:
    write_days(tmp_path)
    usual = ("--quiet", "--device", "cpu", "--set", "train.epochs=1")
    for reserve in (0.0, 0.5):
        quorem("train", write_recipe(tmp_path, "day1", reserve=reserve), "--out", tmp_path / str(reserve), *usual)
    sizes = [{f.feature: f.cardinality for f in manifests.read(tmp_path / each).plan.fields} for each in ("0.0", "0.5")]
    assert sizes == [{"user": 41, "item": 81, "tags": 10}, {"user": 61, "item": 121, "tags": 15}]


@pytest.mark.parametrize(
    ("vocabulary", "told"),
    [
        (pb.Vocabulary(size=2**31 - 3, reserve=1), ""),
        (pb.Vocabulary(size=2**31 - 3, reserve=2), "at most 2^31 - 2 values"),
        (pb.Vocabulary(size=3, reserve=1, taken=3), ""),
        (pb.Vocabulary(size=3, reserve=1, taken=4), "are kept values"),
    ],
)
def test_a_hostile_reserve_is_refused(vocabulary: pb.Vocabulary, told: str) -> None:
    described = pb.Schema()
    described.features.add(name="a", side=pb.CANDIDATE, values=pb.INTEGER).vocabulary.CopyFrom(vocabulary)
    if not told:
        schema.check(described, "here")
        return
    with pytest.raises(Malformed) as error:
        schema.check(described, "here")
    assert told in str(error.value)
