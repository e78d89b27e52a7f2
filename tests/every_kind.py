"""A model with every encoding, scheme and combine, the one of golden/manifest.json, and a run directory for it."""

from pathlib import Path

import numpy as np
from quorem.protos import manifest, models, packing, partitions, plan, schema
from quorem.protos import manifest_pb2 as pb

WEIGHTS = b"not read here: a manifest knows its files by size and digest\n"
CLASSES = {  # of the twelve brands: pairs of brands share both classes, and their remainders by two tell them apart
    "classes.brand.0": np.arange(12, dtype=np.int32) // 4,
    "classes.brand.1": np.arange(12, dtype=np.int32) // 2 % 2,
}
FILES = {"weights.safetensors": WEIGHTS, "recipe.toml": b"[train]\n"}


def model() -> pb.Manifest:
    """A model with every encoding, scheme and combine, built by the functions that training calls."""
    features = [
        pb.Feature(name="age", side=pb.CONTEXT, values=pb.FLOAT, dense=pb.Dense(transform=pb.LOG1P, scale=1)),
        pb.Feature(
            name="income",
            side=pb.CONTEXT,
            values=pb.FLOAT,
            dense=pb.Dense(transform=pb.STANDARD, missing=31.5, mean=30.25, scale=0.1),
        ),
        pb.Feature(name="price", side=pb.CANDIDATE, values=pb.FLOAT, bucket=pb.Bucket(boundaries=[0.1, 1, 100])),
        pb.Feature(name="user", side=pb.CONTEXT, values=pb.INTEGER, id=pb.IdRange(size=99, out_of_range=pb.RARE)),
        pb.Feature(name="ad", side=pb.CANDIDATE, values=pb.STRING, hash=pb.Hash(buckets=2**33, seed=2**64 - 1)),
        pb.Feature(
            name="cité 🦆",
            side=pb.CONTEXT,
            values=pb.STRING,
            vocabulary=pb.Vocabulary(size=6, min_count=2),
            bag=pb.Bag(max_length=3, pooling=pb.MEAN),
        ),
        pb.Feature(name="brand", side=pb.CANDIDATE, values=pb.INTEGER, hash=pb.Hash(buckets=12)),
        pb.Feature(name="shop", side=pb.CANDIDATE, values=pb.INTEGER, hash=pb.Hash(buckets=24)),
        pb.Feature(name="zone", side=pb.CONTEXT, values=pb.INTEGER, hash=pb.Hash(buckets=20)),
    ]
    tables = {
        "price": (pb.FULL, pb.MULT, partitions.full(5)),
        "user": (pb.QUOTIENT_REMAINDER, pb.MULT, partitions.quotient_remainder(100, 25)),
        "ad": (pb.HASHED, pb.MULT, partitions.hashed(2**33, 1000)),
        "cité 🦆": (pb.QUOTIENT_REMAINDER, pb.CONCAT, partitions.quotient_remainder(7, 4)),
        "brand": (pb.SEMANTIC, pb.MULT, [(1, 3), (1, 2), (1, 2)]),
        "shop": (pb.CHINESE_REMAINDER, pb.PATH, partitions.given_moduli(24, [4, 6], allow_collisions=True)),
        "zone": (pb.MIXED_RADIX, pb.FEATURE, partitions.mixed_radix(20, 3)),
    }

    def field(name: str, dim: int) -> pb.Field:
        scheme, combine, pairs = tables[name]
        return plan.build_field(
            name,
            next(schema.cardinality(feature) for feature in features if feature.name == name),
            pairs,
            scheme=scheme,
            combine=combine if dim > 1 else pb.ADD,
            dim=dim,
            hidden=2 if combine == pb.PATH else 0,
            classes=[*CLASSES.values(), None] if scheme == pb.SEMANTIC else (),
            allow_collisions=name == "shop",
        )

    def fields(dim: int) -> list[pb.Field]:
        return packing.pack([field(name, dim) for name in tables])

    built = pb.Plan(fields=fields(4), first_order=fields(1))
    return pb.Manifest(
        format_version=1,
        schema=pb.Schema(features=features),
        plan=built,
        net=models.deepfm(built, 2, mlp=[8, 5], batchnorm=True, dropout=0.2),
        training=pb.Training(
            source="parquet: clicks.parquet",
            seed=1,
            device="cpu",
            best_epoch=3,
            train_rows=800,
            valid_rows=100,
            test_rows=100,
            valid_metrics={"auc": 0.75, "logloss": 0.5},
            test_metrics={"auc": 0.7421875, "logloss": 0.1},
            negative_rate=1,
            label="clicked",
        ),
    )


def write(directory: Path) -> Path:
    """Write the model's manifest and two files into a directory; the directory again."""
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    written = model()
    written.files.extend(manifest.describe_files(directory, list(FILES)))
    manifest.write(directory, written)
    return directory
