"""Made rows of every kind of feature, a recipe for them, and what must be equal of rows in memory and in a cache."""

from pathlib import Path

import numpy as np
import torch
from quorem.train.encode.source import Cached
from quorem.train.features import Rows
from quorem.train.prepare import Prepared, prepare
from quorem.train.recipe_file import read_recipe, to_toml
from quorem.train.reserve import fit_fresh
from quorem.train.yesterday import read_yesterday

KINDS = """
[data]
source = "csv"
path = "rows*.csv"
label = "click"
sample_weight = "weight"
group = "user"
split = { by = "share", valid = 0.2, test = 0.1 }
[features]
user = { kind = "categorical", encoding = "vocabulary", min_count = 2 }
hour = { kind = "categorical", encoding = "id", first = -5, size = 24, out_of_range = "error" }
item = { kind = "categorical", encoding = "hash", buckets = 300 }
tags = { kind = "bag", encoding = "vocabulary", max_length = 2 }
age = { kind = "dense", transform = "bucket", buckets = 5 }
price = { kind = "dense", transform = "standard" }
size = { kind = "dense", transform = "log1p" }
[model]
name = "deepfm"
mlp = [8]
[train]
batch = 64
epochs = 2
"""


def write_kinds(folder: Path, seed: int = 1, first: int = 0) -> Path:
    """Three files of rows in a folder, and the recipe; users and tags are numbered from `first` on."""
    draw = np.random.default_rng(seed)
    for file in range(3):
        lines = ["user,hour,item,tags,age,price,size,weight,click"]
        for row in range(400):
            tags = " ".join(f"t{tag + first}" for tag in draw.integers(0, 6, draw.integers(0, 4)))
            user = "" if row % 50 == 7 else f"u{int(draw.pareto(1)) % 40 + first}"
            price, size = "" if row % 9 == 0 else f"{draw.normal():.3f}", draw.integers(0, 9)
            values = [user, draw.integers(-5, 19), f"é{draw.integers(0, 99)}", tags, draw.integers(18, 80), price, size]
            lines.append(",".join(map(str, [*values, draw.integers(1, 4), row % 3 % 2])))
        (folder / f"rows{file}.csv").write_text("\n".join(lines) + "\n")
    (folder / "kinds.toml").write_text(KINDS)
    return folder / "kinds.toml"


def equal(recipe: str | Path, cache: Path, *settings: str, run: Path | None = None) -> tuple[Prepared, Prepared]:
    """The rows of a recipe in memory and from its cache, which must agree in everything; perhaps from a run."""
    read, base = read_recipe(str(recipe), settings)
    held = read.model_copy(update={"data": read.data.model_copy(update={"cache": str(cache.absolute())})})
    before = read_yesterday(run, to_toml(read, base)) if run else None
    fit, origin = (before.grow, before.sha256) if before else (fit_fresh, "")
    plain, cached = prepare(read, base, fit, origin), prepare(held, base, fit, origin)
    assert isinstance(cached.train, Cached)
    assert plain.schema == cached.schema
    assert plain.vocabularies.keys() == cached.vocabularies.keys()
    for name, vocabulary in plain.vocabularies.items():
        assert vocabulary.values.tobytes() == cached.vocabularies[name].values.tobytes(), name
        assert vocabulary.ids.tobytes() == cached.vocabularies[name].ids.tobytes(), name
    for split in ("train", "valid", "heldout"):
        same(getattr(plain, split), getattr(cached, split).in_memory())
    for name in ("calibration", "validation", "reference"):
        one, other = getattr(plain, name), getattr(cached, name)
        assert (one.places == other.places).all()
        assert (one.raw.ids == other.raw.ids).all()
        assert np.array_equal(one.raw.dense, other.raw.dense, equal_nan=True)
    assert plain.facts == cached.facts
    return plain, cached


def same(one: Rows, other: Rows) -> None:
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.numbers.nan_to_num(-7.5), other.numbers.nan_to_num(-7.5))
    assert torch.equal(one.labels, other.labels)
    assert (one.weights is None) == (other.weights is None)
    assert one.weights is None or other.weights is None or torch.equal(one.weights, other.weights)
    assert (one.groups is None) == (other.groups is None)
    assert one.groups is None or np.array_equal(one.groups, other.groups if other.groups is not None else [])
