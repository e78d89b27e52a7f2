"""The oracle: a slow, obvious evaluator of a model, from its manifest and weights to logits.

It stands apart from quorem's own arithmetic on purpose: ids are Python's integers, vectors float64, and of the package
it reads the messages only. Legend: R rows; S slots of `raw_ids` int64 [R, S]; D columns of `dense` float32 [R, D];
weights: name -> array, as in weights.safetensors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from quorem.protos import manifest_pb2 as pb

Array = npt.NDArray[Any]
Float64s = npt.NDArray[np.float64]
Weights = Mapping[str, Array]

MISSING = -(2**63)
MASK = 2**64 - 1


def fmix64(value: int) -> int:
    """MurmurHash3's 64-bit finaliser, in [0, 2^64)."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def rows(field: pb.Field, id: int, weights: Weights = MappingProxyType({})) -> list[int]:
    """The id's row in each of the field's tables."""
    return [
        int(weights[f"classes.{field.feature}.{j}"][id]) if table.classes else id // table.divide % table.rows
        for j, table in enumerate(field.tables)
    ]


def ids(manifest: pb.Manifest, weights: Weights, raw_ids: Array, dense: Array) -> dict[str, list[list[int]]]:
    """Feature -> R lists: its one id, or one id a slot of its bag (padding has an id too; nothing reads it)."""
    found, slot, column = dict[str, list[list[int]]](), 0, 0
    for feature in manifest.schema.features:
        kind, name = feature.WhichOneof("encoding"), feature.name
        if kind in ("dense", "bucket"):
            if kind == "bucket":
                found[name] = [[_bucket(feature.bucket, float(number))] for number in dense[:, column]]
            column += 1
            continue
        kept = dict[int, int]()
        if kind == "vocabulary":
            values, numbers = weights[f"vocabulary.{name}.values"], weights[f"vocabulary.{name}.ids"]
            kept = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        end = slot + _slots(feature)
        found[name] = [[_id(feature, kept, raw) for raw in row] for row in raw_ids[:, slot:end].tolist()]
        slot = end
    return found


def logits(manifest: pb.Manifest, weights: Weights, ids: Array, dense: Array) -> Float64s:
    """The model's logits for raw64 values `ids` and untransformed `dense` (NaN = missing); float64 [R]."""
    values = inputs(manifest, weights, ids, dense)
    for layer in manifest.net.layers:
        sources = [values[name] for name in layer.inputs]
        values[layer.name] = LAYERS[str(layer.WhichOneof("kind"))](layer, weights, sources)
    return values[manifest.net.layers[-1].name][:, 0]


def inputs(manifest: pb.Manifest, weights: Weights, raw_ids: Array, dense: Array) -> dict[str, Float64s]:
    """The net's inputs: `embeddings`, `first_order` and `dense`, each float64 [R, width]."""
    known, count = ids(manifest, weights, raw_ids, dense), len(raw_ids)
    schema = {feature.name: feature for feature in manifest.schema.features}
    real = _real_items(manifest.schema, raw_ids)
    found = dict[str, Float64s]()
    for name, prefix, fields in (
        ("embeddings", "embedding", manifest.plan.fields),
        ("first_order", "first_order", manifest.plan.first_order),
    ):
        blocks = [np.zeros((count, 0))]
        for field in fields:
            vectors = np.zeros((count, field.dim))
            for row, row_ids in enumerate(known[field.feature]):
                items = [compose(field, weights, prefix, each) for each in row_ids]
                if field.feature in real:
                    items = [item for item, is_real in zip(items, real[field.feature][row], strict=True) if is_real]
                if items:
                    vectors[row] = sum(items)
                if items and schema[field.feature].bag.pooling == pb.MEAN:
                    vectors[row] /= len(items)
            blocks.append(vectors)
        found[name] = np.concatenate(blocks, axis=1)
    found["dense"] = _dense(manifest.schema, dense)
    return found


def compose(field: pb.Field, weights: Weights, prefix: str, id: int) -> Float64s:
    """The vector of one id: its rows of the tables, joined; float64 [dim]."""
    parts = [
        weights[f"{prefix}.{field.feature}.{j}"][row].astype(np.float64)
        for j, row in enumerate(rows(field, id, weights))
    ]
    if field.combine in (pb.CONCAT, pb.FEATURE):
        return np.concatenate(parts)
    vector = parts[0]
    for part in parts[1:]:
        if field.combine == pb.PATH:
            vector = _path(part, vector, field.hidden)
        else:
            vector = vector * part if field.combine == pb.MULT else vector + part
    return vector


def _path(weights: Float64s, vector: Float64s, hidden: int) -> Float64s:
    """One class's function of a vector; its weights stand one after the other."""
    taken, dim = list(weights), len(vector)

    def affine(outputs: int, source: Float64s) -> Float64s:
        matrix = [[taken.pop(0) for _ in source] for _ in range(outputs)]
        bias = [taken.pop(0) for _ in range(outputs)]
        return np.array(
            [sum(w * x for w, x in zip(row, source, strict=True)) + b for row, b in zip(matrix, bias, strict=True)]
        )

    found = affine(dim, np.maximum(affine(hidden, vector), 0)) if hidden else affine(dim, vector)
    assert not taken
    return found


def _slots(feature: pb.Feature) -> int:
    return feature.bag.max_length if feature.HasField("bag") else 1


def _real_items(schema: pb.Schema, raw_ids: Array) -> dict[str, list[list[bool]]]:
    """Bag feature -> R lists: which of its slots hold an item."""
    found, slot = dict[str, list[list[bool]]](), 0
    for feature in schema.features:
        if feature.WhichOneof("encoding") not in ("dense", "bucket"):
            end = slot + _slots(feature)
            if feature.HasField("bag"):
                found[feature.name] = [[raw != MISSING for raw in row] for row in raw_ids[:, slot:end].tolist()]
            slot = end
    return found


def _id(feature: pb.Feature, kept: dict[int, int], raw: int) -> int:
    kind = feature.WhichOneof("encoding")
    if kind == "id":
        return raw - feature.id.first if 0 <= raw - feature.id.first < feature.id.size else feature.id.size
    if kind == "hash":
        return fmix64((raw & MASK) ^ feature.hash.seed) % feature.hash.buckets
    return kept.get(raw, 0)


def _bucket(bucket: pb.Bucket, number: float) -> int:
    """Exact: boundaries and numbers are float32, of which every one is a float64."""
    return 0 if math.isnan(number) else 1 + sum(boundary <= number for boundary in bucket.boundaries)


def _dense(schema: pb.Schema, dense: Array) -> Float64s:
    numeric = [feature for feature in schema.features if feature.WhichOneof("encoding") in ("dense", "bucket")]
    kept = [column for column, feature in enumerate(numeric) if feature.WhichOneof("encoding") == "dense"]
    found = np.zeros((len(dense), len(kept)))
    for row, numbers in enumerate(dense.tolist()):
        found[row] = [_transformed(numeric[column].dense, numbers[column]) for column in kept]
    return found


def _transformed(rule: pb.Dense, number: float) -> float:
    number = rule.missing if math.isnan(number) else number
    if rule.transform == pb.LOG1P:
        number = math.log1p(max(number, 0.0))
    return (number - rule.mean) / rule.scale


def _linear(layer: pb.Layer, weights: Weights, sources: Sequence[Float64s]) -> Float64s:
    weight, bias = (weights[f"{layer.name}.{role}"].astype(np.float64) for role in ("weight", "bias"))
    return sources[0] @ weight.T + bias


def _batchnorm(layer: pb.Layer, weights: Weights, sources: Sequence[Float64s]) -> Float64s:
    weight, bias, mean, variance = (
        weights[f"{layer.name}.{role}"].astype(np.float64) for role in ("weight", "bias", "mean", "variance")
    )
    return (sources[0] - mean) / np.sqrt(variance + layer.batchnorm.epsilon) * weight + bias


def _activation(layer: pb.Layer, _: Weights, sources: Sequence[Float64s]) -> Float64s:
    if layer.activation.function == pb.RELU:
        return np.where(sources[0] > 0, sources[0], 0.0)
    return 0.5 * (1 + np.tanh(sources[0] / 2))  # the logistic function, without overflow


def _fm(layer: pb.Layer, _: Weights, sources: Sequence[Float64s]) -> Float64s:
    vectors = sources[0].reshape(-1, layer.fm.vectors, layer.fm.dim)
    total = np.zeros((len(vectors), 1))
    for i in range(layer.fm.vectors):
        for j in range(i):
            total[:, 0] += (vectors[:, i] * vectors[:, j]).sum(axis=1)
    return total


def _dot(layer: pb.Layer, _: Weights, sources: Sequence[Float64s]) -> Float64s:
    vectors = np.concatenate(sources, axis=1).reshape(-1, layer.dot.vectors, layer.dot.dim)
    pairs = [(i, j) for i in range(layer.dot.vectors) for j in range(i)]
    return np.stack([(vectors[:, i] * vectors[:, j]).sum(axis=1) for i, j in pairs], axis=1)


def _cross(layer: pb.Layer, weights: Weights, sources: Sequence[Float64s]) -> Float64s:
    weight, bias = (weights[f"{layer.name}.{role}"].astype(np.float64) for role in ("weight", "bias"))
    first, source = sources
    return np.stack([x0 * sum(x * weight) + bias + x for x0, x in zip(first, source, strict=True)])


def _cross_matrix(layer: pb.Layer, weights: Weights, sources: Sequence[Float64s]) -> Float64s:
    if layer.cross_matrix.rank:
        u, v = (weights[f"{layer.name}.{role}"].astype(np.float64) for role in ("u", "v"))
        matrix = u @ v.T
    else:
        matrix = weights[f"{layer.name}.weight"].astype(np.float64)
    bias = weights[f"{layer.name}.bias"].astype(np.float64)
    first, source = sources
    return np.stack([x0 * (matrix @ x + bias) + x for x0, x in zip(first, source, strict=True)])


def _unify(layer: pb.Layer, weights: Weights, sources: Sequence[Float64s]) -> Float64s:
    count, wide = len(layer.unify.dims), layer.unify.dim
    found = np.zeros((len(sources[0]), count * wide))
    for row, numbers in enumerate(sources[0]):
        taken = list(numbers)
        for k, dim in enumerate(layer.unify.dims):
            vector, taken = np.array(taken[:dim]), taken[dim:]
            if layer.unify.pad:
                unified = np.concatenate([vector, np.zeros(wide - dim)])
            else:
                weight, bias = (weights[f"{layer.name}.{dim}.{role}"].astype(np.float64) for role in ("weight", "bias"))
                unified = weight @ vector + bias
            found[row, k * wide : (k + 1) * wide] = unified
        assert not taken
    return found


def _bi_interaction(layer: pb.Layer, _: Weights, sources: Sequence[Float64s]) -> Float64s:
    vectors = sources[0].reshape(-1, layer.bi_interaction.vectors, layer.bi_interaction.dim)
    total = np.zeros((len(vectors), layer.bi_interaction.dim))
    for i in range(layer.bi_interaction.vectors):
        for j in range(i):
            total += vectors[:, i] * vectors[:, j]
    return total


def _attention(layer: pb.Layer, weights: Weights, sources: Sequence[Float64s]) -> Float64s:
    count, width = layer.attention.vectors, layer.attention.width
    found = list[Float64s]()
    for numbers in sources[0]:
        vectors = numbers.reshape(count, layer.attention.dim)
        query, key, value, residual = (
            [weights[f"{layer.name}.{role}"].astype(np.float64) @ vector for vector in vectors]
            for role in ("query", "key", "value", "residual")
        )
        rows = list[Float64s]()
        for i in range(count):
            row = residual[i].copy()
            for head in range(layer.attention.heads):
                own = slice(head * width, (head + 1) * width)
                scores = [query[i][own] @ key[j][own] for j in range(count)]
                raised = [math.exp(score - max(scores)) for score in scores]
                for j in range(count):
                    row[own] += raised[j] / sum(raised) * value[j][own]
            rows.append(np.maximum(row, 0))
        found.append(np.concatenate(rows))
    return np.stack(found)


LAYERS: dict[str, Callable[[pb.Layer, Weights, Sequence[Float64s]], Float64s]] = {
    "concat": lambda _layer, _weights, sources: np.concatenate(sources, axis=1),
    "sum": lambda _layer, _weights, sources: np.sum(sources, axis=0),
    "row_sum": lambda _layer, _weights, sources: sources[0].sum(axis=1, keepdims=True),
    "linear": _linear,
    "batchnorm": _batchnorm,
    "activation": _activation,
    "dropout": lambda _layer, _weights, sources: sources[0],
    "fm": _fm,
    "dot": _dot,
    "cross": _cross,
    "cross_matrix": _cross_matrix,
    "unify": _unify,
    "bias": lambda layer, weights, sources: sources[0] + weights[f"{layer.name}.bias"].astype(np.float64),
    "bi_interaction": _bi_interaction,
    "attention": _attention,
}
