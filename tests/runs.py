"""Run directories without training: random tables and layers, hostile rows, and the oracle's logits for them.

Legend: R rows; S slots; D columns of `dense`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import oracle
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import nets, packing, plan, schema
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
MISSING = -(2**63)
EXTREMES = np.array([MISSING, MISSING + 1, -1, 0, 1, 2**31, 2**33 + 1, 2**62, 2**63 - 2, 2**63 - 1], np.int64)


def categorical(name: str, encoding: str, size: int, *, bag: int = 0, mean: bool = False, seed: int = 0) -> pb.Feature:
    """A feature of about `size` ids: encoding is id, hash, vocabulary or bucket; `bag` is the longest bag's length."""
    feature = pb.Feature(name=name, side=pb.CANDIDATE, values=pb.FLOAT if encoding == "bucket" else pb.INTEGER)
    if encoding == "id":
        feature.id.CopyFrom(pb.IdRange(size=size, out_of_range=pb.RARE))
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


def field(feature: pb.Feature, scheme: str, combine: pb.Combine, dim: int, rows: int = 0) -> pb.Field:
    """A field under a scheme: full, hash, qr, or radix of three tables; `rows` of the first table."""
    n = schema.cardinality(feature)
    rows = rows or max(-(-n // 4), 1)
    if scheme == "full":
        return plan.build_field(feature.name, n, plan.full(n), scheme=pb.FULL, combine=pb.ALONE, dim=dim)
    if scheme == "hash":
        return plan.build_field(feature.name, n, plan.hashed(n, rows), scheme=pb.HASHED, combine=pb.ALONE, dim=dim)
    if scheme == "qr":
        tables, kind = plan.quotient_remainder(n, rows), pb.QUOTIENT_REMAINDER
    else:
        tables, kind = [(1, rows), (rows, rows), (rows * rows, -(-n // rows**2))], pb.MIXED_RADIX
    return plan.build_field(feature.name, n, tables, scheme=kind, combine=combine, dim=dim)


def first_order(fields: Sequence[pb.Field]) -> list[pb.Field]:
    """The same tables with weights for vectors; concatenated tables are added instead."""
    found = list[pb.Field]()
    for each in fields:
        combine = pb.ADD if each.combine == pb.CONCAT else each.combine
        found.append(
            plan.build_field(
                each.feature, each.cardinality, plan.pairs(each), scheme=each.scheme, combine=combine, dim=1
            )
        )
    return packing.pack(found)


def model(features: Sequence[pb.Feature], fields: Sequence[pb.Field], name: str, **arguments: Any) -> pb.Manifest:
    """A manifest of a deepfm, a dlrm, or `wide`: a small MLP over all inputs, for fields of several dims."""
    described = pb.Schema(features=features)
    tables = pb.Plan(fields=packing.pack(fields), first_order=first_order(fields) if name != "dlrm" else [])
    dense_count = len(schema.dense_features(described))
    if name == "deepfm":
        net = nets.deepfm(tables, dense_count, **{"mlp": [8, 8], "batchnorm": True, "dropout": 0.1} | arguments)
    elif name == "dlrm":
        net = nets.dlrm(
            tables, dense_count, **{"bottom": [8], "top": [8, 8], "batchnorm": False, "dropout": 0} | arguments
        )
    else:
        net = _wide(nets.input_widths(tables, dense_count))
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
    for name, (dtype, shape) in manifests.tensor_shapes(manifest).items():
        if name.endswith(".values") and dtype == "int64":
            found[name] = _values(shape[0], rng)
        elif dtype == "int32":
            found[name] = rng.permutation(np.arange(1, shape[0] + 1, dtype=np.int32))
        elif name.endswith((".variance", ".norm.weight")):
            found[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            found[name] = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
    return found


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
        raw = rng.integers(0, size, shape, np.int64)
        kept = found.get(f"vocabulary.{feature.name}.values", np.zeros(0, np.int64))
        if len(kept):
            raw = np.where(rng.random(shape) < 0.7, rng.choice(kept, shape), raw)
        raw = np.where(rng.random(shape) < 0.2, rng.choice(EXTREMES, shape), raw)
        if feature.HasField("bag"):
            lengths = rng.integers(0, slots, (count, 1), endpoint=True)
            raw = np.where(np.arange(slots) < lengths, raw, MISSING)
        ids[:, first : first + slots] = raw
    return ids, dense


def write(path: Path, manifest: pb.Manifest, found: Mapping[str, Array], reference: Mapping[str, Array]) -> pb.Manifest:
    """Write a run directory; returns its manifest."""
    path.mkdir(parents=True)
    save_file(dict(found), path / "weights.safetensors")
    save_file(dict(reference), path / "reference.safetensors")
    whole = pb.Manifest()
    whole.CopyFrom(manifest)
    whole.files.extend(manifests.describe_files(path, ["weights.safetensors", "reference.safetensors"]))
    manifests.write(path, whole)
    return whole


def make_run(path: Path, manifest: pb.Manifest, rng: np.random.Generator, count: int = 48) -> pb.Manifest:
    """Write a run directory of a manifest with random weights and rows, and the oracle's logits."""
    found = weights(manifest, rng)
    ids, dense = rows(manifest, found, rng, count)
    logits = oracle.logits(manifest, found, ids, dense).astype(np.float32)
    reference = {"logit": logits, "label": rng.integers(0, 2, count).astype(np.float32)}
    if ids.shape[1]:
        reference["ids"] = ids
    if dense.shape[1]:
        reference["dense"] = dense
    return write(path, manifest, found, reference)
