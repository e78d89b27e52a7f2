"""Run directories without training: random tables and layers, hostile rows, and the oracle's logits for them.

Legend: R rows; S slots; D columns of `dense`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import oracle
from quorem.protos import low_bits, models, nets, packing, partitions, plan, schema
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
MISSING = -(2**63)
KEPT = 64  # rows to calibrate with, and to validate on
EXTREMES = np.array([MISSING, MISSING + 1, -1, 0, 1, 2**31, 2**33 + 1, 2**62, 2**63 - 2, 2**63 - 1], np.int64)


def categorical(
    name: str, encoding: str, size: int, *, bag: int = 0, mean: bool = False, seed: int = 0, first: int = 0
) -> pb.Feature:
    """A feature of about `size` ids: encoding is id, hash, vocabulary or bucket.

    bag: the longest bag's length. first: where the range of an id begins.
    """
    feature = pb.Feature(name=name, side=pb.CANDIDATE, values=pb.FLOAT if encoding == "bucket" else pb.INTEGER)
    if encoding == "id":
        feature.id.CopyFrom(pb.IdRange(first=first, size=size, out_of_range=pb.RARE))
    elif encoding == "hash":
        feature.hash.CopyFrom(pb.Hash(buckets=size, seed=seed))
    elif encoding == "vocabulary":
        feature.vocabulary.CopyFrom(pb.Vocabulary(size=size, min_count=1))
    else:
        feature.bucket.boundaries.extend(np.linspace(-2, 2, size, dtype=np.float32).tolist())
    if bag:
        feature.bag.CopyFrom(pb.Bag(max_length=bag, pooling=pb.MEAN if mean else pb.SUM))
    return feature


def number(name: str, transform: pb.Transform = pb.NONE, mean: float = 0, scale: float = 1) -> pb.Feature:
    """A dense feature."""
    dense = pb.Dense(transform=transform, missing=0.25, mean=mean, scale=scale)
    return pb.Feature(name=name, side=pb.CONTEXT, values=pb.FLOAT, dense=dense)


def field(
    feature: pb.Feature, scheme: str, combine: pb.Combine, dim: int, rows: int = 0, *, hidden: int = 0, bits: int = 0
) -> pb.Field:
    """A field under a scheme, of as many `rows` in its first table where that is the scheme's to choose.

    semantic has two tables of classes that tell ids apart; completed two that do not, and the remainders that do;
    colliding those two alone; classes one, of fewer rows than ids.
    """
    n, name = schema.cardinality(feature), feature.name
    first, given = min(n, rows or max(-(-n // 4), 1)), list[Array]()
    collide = scheme in ("classes", "colliding")
    if scheme == "full":
        tables, kind = partitions.full(n), pb.FULL
    elif scheme == "hash":
        tables, kind = partitions.hashed(n, first), pb.HASHED
    elif scheme == "qr":
        tables, kind = partitions.quotient_remainder(n, first), pb.QUOTIENT_REMAINDER
    elif scheme == "mixed_radix":
        tables, kind = partitions.mixed_radix(n, 6 if n > 2**32 else 3), pb.MIXED_RADIX
    elif scheme == "chinese_remainder":
        tables, kind = partitions.chinese_remainder(n, 6 if n > 2**32 else 3), pb.CHINESE_REMAINDER
    else:
        few, kind = min(n, 3), pb.SEMANTIC
        heights = {"semantic": [first, -(-n // first)], "classes": [first]}.get(scheme, [few, min(n, 2)])
        given, tables = classes(n, heights), [(1, height) for height in heights]
        if scheme == "completed":
            tables.append((1, next(m for m in range(1, n + 1) if not _collisions(n, given, m))))
    arguments = {"scheme": kind, "combine": combine, "dim": dim, "hidden": hidden, "allow_collisions": collide}
    arguments["bits"] = bits
    if given:
        arguments["classes"] = [*given, None][: len(tables)]
    return plan.build_field(name, n, tables, **arguments)


def classes(n: int, rows: Sequence[int]) -> list[Array]:
    """Each id's class in every table: the digits of its place in a shuffle, so that they are no function of the id."""
    places = np.random.default_rng(n).permutation(n)
    divides = np.cumprod([1, *rows[:-1]]).tolist()
    return [(places // divide % each).astype(np.int32) for divide, each in zip(divides, rows, strict=True)]


def _collisions(n: int, given: Sequence[Array], modulus: int) -> int:
    return n - len({*zip(*(each.tolist() for each in given), (np.arange(n) % modulus).tolist(), strict=True)})


def classes_of(field: pb.Field) -> dict[str, Array]:
    """The classes that `field` gave a field, by the names of their tensors."""
    numbers = [j for j, table in enumerate(field.tables) if table.classes]
    if not numbers:
        return {}
    given = classes(field.cardinality, [field.tables[j].rows for j in numbers])
    return {manifests.class_name(field.feature, j): each for j, each in zip(numbers, given, strict=True)}


def first_order(fields: Sequence[pb.Field]) -> list[pb.Field]:
    """The same tables with weights for vectors; tables side by side are added instead."""
    found = list[pb.Field]()
    for each in fields:
        given = classes_of(each)
        built = plan.build_field(
            each.feature,
            each.cardinality,
            plan.pairs(each),
            scheme=each.scheme,
            combine=pb.ADD if each.combine in plan.SIDE_BY_SIDE else each.combine,
            dim=1,
            hidden=each.hidden,
            classes=[given.get(manifests.class_name(each.feature, j)) for j in range(len(each.tables))],
            allow_collisions=each.allow_collisions,
        )
        found.append(built)
    return packing.pack(found)


ATTENTION = {"layers": 2, "heads": 2, "width": 4, "batchnorm": True, "dropout": 0.1}
MODELS: dict[str, tuple[Callable[..., pb.Net], dict[str, Any]]] = {
    "fm": (models.fm, {"pad": False}),
    "wide_deep": (models.wide_deep, {"mlp": [8, 8], "batchnorm": True, "dropout": 0.1}),
    "deepfm": (models.deepfm, {"mlp": [8, 8], "batchnorm": True, "dropout": 0.1}),
    "nfm": (models.nfm, {"mlp": [8, 8], "batchnorm": True, "dropout": 0.1}),
    "ipnn": (models.ipnn, {"mlp": [8, 8], "batchnorm": True, "dropout": 0.1}),
    "autoint": (models.autoint, {**ATTENTION, "mlp": []}),
    "autoint_mlp": (models.autoint, {**ATTENTION, "mlp": [8]}),
    "dlrm": (models.dlrm, {"bottom": [8], "top": [8, 8], "batchnorm": False, "dropout": 0}),
    "dnn": (models.dnn, {"mlp": [8, 8], "batchnorm": True, "dropout": 0.1}),
    "dcn": (models.dcn, {"cross": 3, "mlp": [8], "batchnorm": False, "dropout": 0}),
    "dcnv2": (models.dcnv2, {"cross": 2, "rank": 0, "stacked": False, "mlp": [8], "batchnorm": True, "dropout": 0.1}),
    "dcnv2_low": (
        models.dcnv2,
        {"cross": 3, "rank": 2, "stacked": True, "mlp": [8], "batchnorm": False, "dropout": 0},
    ),
}
UNIFYING = ("fm", "deepfm", "nfm", "ipnn", "autoint", "autoint_mlp", "dlrm")  # make vectors of several dims alike
FIRST_ORDER = ("fm", "wide_deep", "deepfm", "nfm", "autoint", "autoint_mlp", "wide")


def model(features: Sequence[pb.Feature], fields: Sequence[pb.Field], name: str, **arguments: Any) -> pb.Manifest:
    """A manifest of one of `MODELS`, or `wide`: a small MLP over all inputs, the first order among them."""
    described = pb.Schema(features=features)
    tables = pb.Plan(fields=packing.pack(fields), first_order=first_order(fields) if name in FIRST_ORDER else [])
    dense_count = len(schema.dense_features(described))
    if name == "wide":
        net = _wide(nets.input_widths(tables, dense_count))
    else:
        build, usual = MODELS[name]
        net = build(tables, dense_count, **usual | arguments)
    return pb.Manifest(format_version=1, schema=described, plan=tables, net=net)


def _wide(widths: Mapping[str, int]) -> pb.Net:
    layers = [
        pb.Layer(name="all", inputs=list(widths), concat=pb.Concat()),
        pb.Layer(name="hidden", inputs=["all"], linear=pb.Linear(inputs=sum(widths.values()), outputs=6)),
        pb.Layer(name="sigmoid", inputs=["hidden"], activation=pb.Activation(function=pb.SIGMOID)),
        pb.Layer(name="logit", inputs=["sigmoid"], linear=pb.Linear(inputs=6, outputs=1)),
    ]
    return pb.Net(model="wide", layers=layers)


def weights(manifest: pb.Manifest, rng: np.random.Generator) -> dict[str, Array]:
    """Random weights of a manifest: every tensor that `weights.safetensors` holds."""
    found = dict[str, Array]()
    for field in (*manifest.plan.fields, *manifest.plan.first_order):
        found |= classes_of(field)
    for name, (dtype, shape) in manifests.tensor_shapes(manifest).items():
        if name in found:
            continue
        if name.endswith(".values") and dtype == "int64":
            found[name] = _values(shape[0], rng)
        elif dtype == "int32":
            found[name] = rng.permutation(np.arange(1, shape[0] + 1, dtype=np.int32))
        elif name.endswith((".variance", ".norm.weight")):
            found[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            widest = 0.25 if name.startswith("cross.") else 0.5  # crosses multiply: logits far above one round coarsely
            found[name] = rng.uniform(-widest, widest, shape).astype(np.float32)
    for each in manifest.plan.fields:
        for j, table in enumerate(each.tables):
            if table.bits:
                found |= few_bits(each.feature, j, table, rng)
    return found


def few_bits(feature: str, j: int, table: pb.Table, rng: np.random.Generator) -> dict[str, Array]:
    """A table on a grid of about [-.5, .5], or [.5, 1.5], with its scales and offsets."""
    scale = (rng.uniform(0.8, 1.2, table.dim) / 2**table.bits).astype(np.float32)
    offset = low_bits.offsets(scale, table.bits, float(rng.integers(0, 2)) if j else 0.0)
    codes = rng.integers(0, 2**table.bits, (table.rows, table.dim)).astype(np.uint8)
    values = low_bits.decode(codes, scale, offset)
    names = f"embedding.{feature}.{j}", low_bits.scale_name(feature, j), low_bits.offset_name(feature, j)
    return dict(zip(names, (values, scale, offset), strict=True))


def _values(size: int, rng: np.random.Generator) -> Array:
    """Sorted values over the whole of int64, extremes among them."""
    drawn = rng.integers(-(2**63), 2**63 - 1, 4 * size + 1, np.int64, endpoint=True)
    few = rng.integers(0, 50, size, np.int64)
    values = np.unique(np.concatenate([EXTREMES, few, drawn]))
    return np.sort(rng.permutation(values)[:size])


def rows(
    manifest: pb.Manifest, found: Mapping[str, Array], rng: np.random.Generator, count: int
) -> tuple[Array, Array]:
    """Raw rows: known and unseen values, extremes, missing ones, empty and short bags; ids [R, S], dense [R, D]."""
    places = schema.layout(manifest.schema)
    ids = np.empty((count, places.slot_count), np.int64)
    dense = rng.normal(size=(count, places.dense_count)).astype(np.float32) * 2
    dense[rng.random(dense.shape) < 0.2] = np.nan
    for feature in manifest.schema.features:
        if feature.name not in places.slots:
            continue
        first, slots = places.slots[feature.name]
        shape = (count, slots)
        size = min(schema.cardinality(feature) + 2, 2**62)
        raw = rng.integers(0, size, shape, np.int64) + feature.id.first
        kept = found.get(f"vocabulary.{feature.name}.values", np.zeros(0, np.int64))
        if len(kept):
            raw = np.where(rng.random(shape) < 0.7, rng.choice(kept, shape), raw)
        raw = np.where(rng.random(shape) < 0.2, rng.choice(EXTREMES, shape), raw)
        if feature.HasField("bag"):
            lengths = rng.integers(0, slots, (count, 1), endpoint=True)
            raw = np.where(np.arange(slots) < lengths, raw, MISSING)
        ids[:, first : first + slots] = raw
    return ids, dense


FILES = tuple(f"{name}.safetensors" for name in ("calibration", "reference", "validation", "weights"))


def write(
    path: Path,
    manifest: pb.Manifest,
    found: Mapping[str, Array],
    reference: Mapping[str, Array],
    calibration: Mapping[str, Array] | None = None,
    validation: Mapping[str, Array] | None = None,
) -> pb.Manifest:
    """Write a run directory; returns its manifest. Rows that are not given are the reference rows."""
    inputs = {name: array for name, array in reference.items() if name in ("ids", "dense")}
    path.mkdir(parents=True)
    for name, tensors in zip(FILES, (calibration or inputs, reference, validation or reference, found), strict=True):
        save_file(dict(tensors), path / name)
    whole = pb.Manifest()
    whole.CopyFrom(manifest)
    whole.files.extend(manifests.describe_files(path, FILES))
    manifests.write(path, whole)
    return whole


def make_run(path: Path, manifest: pb.Manifest, rng: np.random.Generator, count: int = 48) -> pb.Manifest:
    """Write a run directory of a manifest with random weights and rows, and the oracle's logits.

    It has `count` reference rows, and 64 others each to calibrate with and to validate on.
    """
    found = weights(manifest, rng)
    reference = scored(manifest, found, rng, count)
    validation = scored(manifest, found, rng, KEPT)
    return write(path, manifest, found, reference, _inputs(*rows(manifest, found, rng, KEPT)), validation)


def scored(manifest: pb.Manifest, found: Mapping[str, Array], rng: np.random.Generator, count: int) -> dict[str, Array]:
    """Random rows with random labels and the oracle's logits."""
    ids, dense = rows(manifest, found, rng, count)
    logits = oracle.logits(manifest, found, ids, dense).astype(np.float32)
    return {"logit": logits, "label": rng.integers(0, 2, count).astype(np.float32), **_inputs(ids, dense)}


def _inputs(ids: Array, dense: Array) -> dict[str, Array]:
    return {name: array for name, array in (("ids", ids), ("dense", dense)) if array.shape[1]}
