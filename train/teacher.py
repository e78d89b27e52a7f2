"""The teacher: a finished run whose scores a model learns from beside the labels, as small tables do from large ones.

The loss is (1 - w) times cross entropy against labels and w times that against the teacher's probabilities (Hinton et
al. 2015, section 2; of click models: Zhu et al., CIKM'20, the soft loss). At temperature one: a click model's
probabilities are to stay probabilities.

Every row is scored once, before the first step, whatever its source: four bytes a row, where a forward pass in every
epoch would cost a third of a step.

Legend: N rows of a source.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..protos import manifest_pb2 as pb
from ..protos.errors import WrongSchema
from ..protos.ids import VocabularyValues
from ..protos.schema import fingerprint
from .batches import Source, batches_of
from .distributed import add_up, rank, ranks, refuse
from .fresh import memory_for
from .loop import EVALUATION_BATCH, no_number
from .model import Model
from .origin import read_finished
from .prepare import Prepared
from .yesterday import Yesterday, with_weights


def read_teacher(run: Path, prepared: Prepared) -> Yesterday:
    """The finished run at `run`, for rows whose ids mean to it what they mean to the student.

    Its plan, net and recipe may be any; so may its dense features' transforms, which it applies itself.

    Raises:
        ArtifactError: not a run, or one that cannot be trusted. WrongSchema: of other features, or of other ids.
    """
    teacher = with_weights(read_finished(run))
    own, now = teacher.manifest.schema, prepared.schema
    if fingerprint(own) != fingerprint(now):
        raise WrongSchema(
            "a teacher has the features of its student",
            found=f"{', '.join(feature.name for feature in own.features)}, schema {fingerprint(own)}; the student's is "
            f"{fingerprint(now)}",
            where=str(run),
            remedy="Name a run on the same features: their names, kinds, sides and longest bags",
        )
    known = teacher.vocabularies()
    pairs = zip(own.features, now.features, strict=True)
    if other := [a.name for a, b in pairs if _meaning(a, known) != _meaning(b, prepared.vocabularies)]:
        raise WrongSchema(
            "an id means the same raw values to a teacher and its student",
            found=f"other ids of {', '.join(other)}",
            where=str(run),
            remedy="Train the teacher on the same rows, with the same keys of [features]",
        )
    return teacher


@torch.no_grad()
def teacher_logits(
    teacher: Yesterday, rows: Source, negative_rate: float, told: Callable[[int, int], None] | None = None
) -> Tensor:
    """A teacher's logits of every row, (N,) float32, on the rows' device, by their numbers in the source.

    They are of rows of which `negative_rate` of the negatives were kept, as the student's rows are: what the run wrote
    is of all rows, with the logarithm of its own rate in its last bias, and the student's takes its place. So the
    student's logits get the right constant when the rate is folded into its own last bias at the end.

    Ranks share the work. `told` hears how many batches there are, and how many are done.

    Raises:
        PlanError: tables that do not fit in memory. QuoremError: a logit that is no number. Elsewhere: refused on
            another rank.
    """
    manifest = teacher.manifest
    classes = {name: each.numpy() for name, each in teacher.weights.items() if name.startswith("classes.")}
    with memory_for(manifest.plan):
        model = Model(manifest.schema, manifest.plan, manifest.net, classes)
        teacher.hand_over(model, negative_rate)
        model = model.to(rows.device).eval()
    logits, batches = torch.zeros(len(rows), device=rows.device), batches_of(len(rows), EVALUATION_BATCH)
    for done, batch in enumerate(rows.batches(0, 0, EVALUATION_BATCH, 0, (rank(), ranks())), 1):
        logits[batch.rows] = model(batch.ids, batch.numbers)[0]
        if told is not None:
            told(batches, done)
    if not bool(add_up(logits).isfinite().all()):
        refuse(no_number("logit of a teacher", f"{teacher.path}, {len(rows)} training rows"))
    return logits


def told_teacher(teacher: Yesterday) -> dict[str, Any]:
    """What a report tells of a teacher: its `run`, and the metrics that it had itself, by split."""
    training = teacher.manifest.training
    metrics = {"valid": training.valid_metrics, "test": training.test_metrics}
    return {"run": str(teacher.path), **{split: dict(sorted(found.items())) for split, found in metrics.items()}}


def _meaning(feature: pb.Feature, vocabularies: Mapping[str, VocabularyValues]) -> tuple[object, ...]:
    """What decides which ids the feature's raw values have."""
    kind = feature.WhichOneof("encoding")
    if kind == "vocabulary":
        known = vocabularies[feature.name]
        return kind, known.values.tobytes(), known.ids.tobytes()
    if kind == "hash":
        return kind, feature.hash.buckets, feature.hash.seed
    return kind, feature.id.first, feature.id.size, *feature.bucket.boundaries
