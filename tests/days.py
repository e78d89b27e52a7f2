"""Made clicks of two days: users and items, some of which are seen on the second day alone; and a recipe for them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

OLD, NEW, USERS = 80, 30, 40  # items of the first day, those of the second alone, users
SPLITS = {"train": 6000, "valid": 1500, "test": 1500}
RECIPE = """
[data]
source = "parquet"
train = "{day}/train.parquet"
valid = "{day}/valid.parquet"
test = "{day}/test.parquet"
[features]
user = {{ kind = "categorical", encoding = "vocabulary", values = "integer", side = "context" }}
item = {{ kind = "categorical", encoding = "vocabulary" }}
tags = {{ kind = "bag", encoding = "vocabulary", max_length = 3 }}
price = {{ kind = "dense", transform = "standard" }}
[embedding]
scheme = "{scheme}"
threshold = 5
dim = 4
spread = 0.01
reserve = {reserve}
[model]
name = "deepfm"
mlp = [16]
[train]
batch = 200
epochs = 6
lr = 0.01
keep_state = {keep}
"""


def write_days(root: Path) -> None:
    """`day1` and `day2`, of three files each: on the second day half of the rows are of new items, in new taste."""
    rng = np.random.default_rng(8)
    taste = {"day1": rng.normal(0, 1.5, OLD + NEW)}
    taste["day2"] = taste["day1"] + rng.normal(0, 0.7, OLD + NEW)
    mood = rng.normal(0, 1, USERS)
    for day, tastes in taste.items():
        (root / day).mkdir(parents=True)
        for split, count in SPLITS.items():
            new = (rng.random(count) < 0.5) & (day == "day2")
            items = np.where(new, OLD + rng.integers(0, NEW, count), rng.integers(0, OLD, count))
            users = rng.integers(0, USERS, count)
            chance = 1 / (1 + np.exp(-tastes[items] - mood[users]))
            tags = [" ".join(f"t{each}" for each in rng.integers(0, 9, rng.integers(0, 4))) for _ in range(count)]
            columns = {
                "user": users,
                "item": [f"item {each}" for each in items],
                "tags": tags,
                "price": rng.normal(5, 2, count).astype(np.float32),
                "label": (rng.random(count) < chance).astype(np.float32),
            }
            pq.write_table(pa.table(columns), root / day / f"{split}.parquet")


def write_recipe(root: Path, day: str, *, scheme: str = "qr", reserve: float = 0.5, keep: bool = False) -> Path:
    """A recipe for a day's rows."""
    path = root / f"{day}-{scheme}-{reserve}-{keep}.toml"
    path.write_text(RECIPE.format(day=day, scheme=scheme, reserve=reserve, keep=str(keep).lower()))
    return path
