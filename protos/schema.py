"""The schema: which columns a model reads, where they stand in its inputs, and how many ids each has.

Legend: S slots of the input `ids` int64 [B, S]; D columns of the input `dense` float32 [B, D].
"""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass

from . import manifest_pb2 as pb
from .errors import Malformed

DENSE_KINDS = ("dense", "bucket")
NAME_LIMIT = 128


@dataclass(frozen=True)
class Layout:
    """Where every feature stands in the inputs of a graph.

    slots: feature -> (first slot, number of slots) in `ids`, in schema order.
    dense: feature -> column in `dense`, for dense and bucket features, in schema order.
    """

    slots: dict[str, tuple[int, int]]
    dense: dict[str, int]
    slot_count: int

    @property
    def dense_count(self) -> int:
        """D, the columns of `dense`."""
        return len(self.dense)


def layout(schema: pb.Schema) -> Layout:
    """Lay the features out: one slot a categorical, `max_length` slots a bag, one column a number."""
    slots, dense, position = dict[str, tuple[int, int]](), dict[str, int](), 0
    for feature in schema.features:
        if feature.WhichOneof("encoding") in DENSE_KINDS:
            dense[feature.name] = len(dense)
        else:
            length = feature.bag.max_length if feature.HasField("bag") else 1
            slots[feature.name] = (position, length)
            position += length
    return Layout(slots, dense, position)


def cardinality(feature: pb.Feature) -> int:
    """How many ids the feature has, the rare id included; 0 for a dense feature."""
    kind = feature.WhichOneof("encoding")
    if kind == "id":
        return feature.id.size + 1
    if kind == "hash":
        return feature.hash.buckets
    if kind == "vocabulary":
        return feature.vocabulary.size + feature.vocabulary.reserve + 1
    if kind == "bucket":
        return len(feature.bucket.boundaries) + 2
    return 0


def told_range(first: int, size: int) -> str:
    """An id range, in words."""
    return f"[{first}, {first + size})"


def has_ids(feature: pb.Feature) -> bool:
    """Whether the feature has embedding tables: all but dense ones."""
    return feature.WhichOneof("encoding") != "dense"


def dense_features(schema: pb.Schema) -> list[pb.Feature]:
    """The features of the net's `dense` input, in its order (bucket features are not among them)."""
    return [feature for feature in schema.features if feature.WhichOneof("encoding") == "dense"]


def fingerprint(schema: pb.Schema) -> str:
    """16 hex digits over what a caller must know to build a request: names, types, sides, bags, in order.

    A vocabulary that grew, another id range or new boundaries do not change it: the same rows are still valid requests.
    """
    known = [
        [
            feature.name,
            pb.Side.Name(feature.side),
            pb.Values.Name(feature.values),
            feature.WhichOneof("encoding") in DENSE_KINDS,
            feature.bag.max_length if feature.HasField("bag") else 0,
        ]
        for feature in schema.features
    ]
    return hashlib.sha256(json.dumps(known, ensure_ascii=True).encode()).hexdigest()[:16]


def check(schema: pb.Schema, where: str) -> None:
    """Refuse a schema that no model could have.

    Raises:
        Malformed: no id feature, a name twice, an encoding that is absent or contradicts its values.
    """

    def refuse(rule: str, found: str, name: str) -> None:
        raise Malformed(
            rule, found=found, where=f"{where}, feature {name!r}", remedy="Train and export the model again"
        )

    seen = set[str]()
    for feature in schema.features:
        name, kind = feature.name, feature.WhichOneof("encoding")
        if not name or len(name) > NAME_LIMIT or not name.isprintable():
            refuse(f"a feature's name has 1 to {NAME_LIMIT} printable characters", repr(name), name)
        if name in seen:
            refuse("a feature's name stands once", f"{name!r} twice", name)
        seen.add(name)
        if feature.side not in (pb.CONTEXT, pb.CANDIDATE):
            refuse("a feature is on the context or the candidate side", f"side {feature.side}", name)
        if kind is None:
            refuse("a feature has an encoding", "none", name)
        numeric = kind in DENSE_KINDS
        if feature.values not in ((pb.FLOAT,) if numeric else (pb.INTEGER, pb.STRING)):
            refuse(
                "dense and bucket features are FLOAT, all others INTEGER or STRING", f"{kind} of {feature.values}", name
            )
        if numeric and feature.HasField("bag"):
            refuse("only features with ids can be bags", f"a {kind} bag", name)
        if feature.HasField("bag") and (
            not 1 <= feature.bag.max_length <= 65536 or feature.bag.pooling not in (pb.SUM, pb.MEAN)
        ):
            refuse("a bag has 1 to 65536 slots and a pooling", f"{feature.bag.max_length} slots", name)
        if kind == "id" and feature.values != pb.INTEGER:
            refuse("an id encoding takes integers", "strings", name)
        if kind == "id" and not 1 <= feature.id.size < 2**63 - 1:
            refuse("an id range holds 1 to 2^63 - 2 ids", str(feature.id.size), name)
        if kind == "id" and not -(2**63) < feature.id.first <= 2**63 - feature.id.size:
            refuse("an id range lies within -2^63 + 1 to 2^63 - 1", f"{feature.id.size} from {feature.id.first}", name)
        if kind == "id" and feature.id.out_of_range not in (pb.RARE, pb.ERROR):
            refuse("an id range says what becomes of ids outside it", f"{feature.id.out_of_range}", name)
        if kind == "vocabulary" and cardinality(feature) > 2**31 - 1:
            refuse("a vocabulary holds at most 2^31 - 2 values", str(cardinality(feature) - 1), name)
        if kind == "vocabulary" and feature.vocabulary.taken > feature.vocabulary.size:
            refuse("values that took ids of the reserve are kept values", str(feature.vocabulary.taken), name)
        if kind == "hash" and not 1 <= feature.hash.buckets < 2**63:
            refuse("a hash space holds 1 to 2^63 - 1 ids", str(feature.hash.buckets), name)
        if kind == "bucket":
            edges = list(feature.bucket.boundaries)
            if not all(math.isfinite(edge) for edge in edges) or any(a >= b for a, b in itertools.pairwise(edges)):
                refuse("boundaries are finite and rise strictly", f"{edges[:8]}", name)
        if kind == "dense":
            rule = feature.dense
            if rule.transform not in (pb.NONE, pb.LOG1P, pb.STANDARD):
                refuse("a dense feature has a transform", f"{rule.transform}", name)
            if rule.transform != pb.STANDARD and (rule.mean, rule.scale) != (0, 1):
                refuse(
                    "only STANDARD has a mean other than 0 and a scale other than 1", f"{rule.mean}, {rule.scale}", name
                )
            if not all(map(math.isfinite, (rule.missing, rule.mean, rule.scale))) or rule.scale <= 0:
                refuse("missing, mean and scale are finite, and scale is above 0", f"{rule}".replace("\n", " "), name)
    if not any(has_ids(feature) for feature in schema.features):
        raise Malformed("a schema has at least one feature with ids", found="none", where=where)
