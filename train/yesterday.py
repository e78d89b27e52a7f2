"""Yesterday's model: a finished run that a new one goes on, or learns, from: its plan, net, schema and weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..protos import manifest_pb2 as pb
from ..protos import nets
from ..protos.errors import Malformed, NetError, WrongClasses
from ..protos.ids import VocabularyValues
from ..protos.low_bits import check_grid, encode, offset_name, scale_name
from .checkpoint import part
from .directory import STATE
from .layers import weights_of
from .model import Model
from .optimizer import sparse_from
from .origin import Origin, read_origin
from .recipe import Recipe, TrainConfig
from .reserve import Grown, grow_schema


@dataclass(frozen=True)
class Yesterday(Origin):
    """A finished run with its weights: every tensor of its weights.safetensors, by name."""

    weights: Mapping[str, Tensor]

    def grow(self, recipe: Recipe, table: pa.Table) -> Grown:
        """The run's schema and vocabularies for new training rows, and the rows encoded: see reserve.py."""
        return grow_schema(self.manifest.schema, self.vocabularies(), recipe.features, table)

    def vocabularies(self) -> dict[str, VocabularyValues]:
        """Feature -> the values it has ids for."""
        found = dict[str, VocabularyValues]()
        for feature in self.manifest.schema.features:
            if feature.WhichOneof("encoding") == "vocabulary":
                values, ids = (self.weights[f"vocabulary.{feature.name}.{role}"].numpy() for role in ("values", "ids"))
                found[feature.name] = VocabularyValues(values, ids)
        return found

    @torch.no_grad()
    def hand_over(self, model: Model, negative_rate: float) -> None:
        """Put the weights into a fresh model of the same plan and net.

        The logarithm of a negative rate stands in the last bias of what a run writes; it is taken out again, so that
        the model scores rows of which that share of the negatives was kept.

        Raises:
            NetError, WrongClasses: the model is another one, though the recipe reads the same.
        """
        if model.net != self.manifest.net:
            raise NetError(
                "a run goes on with the net that it was trained with",
                found="other layers, from the same recipe",
                where=str(self.path),
                remedy="Train afresh: another version of quorem makes other layers",
            )
        for name, classes in model.classes.items():
            if not np.array_equal(classes, self.weights[name].numpy()):
                raise WrongClasses(
                    "a run goes on with the classes that it was trained with",
                    found="others",
                    where=f"{self.path}, {name}",
                    remedy="Name the same class table, or train afresh",
                )
        for prefix, tables in zip(("embedding", "first_order"), model.tables(), strict=False):
            for group in tables.packed():
                for partition in group.packed():
                    for position, (field, table) in enumerate(partition.tables()):
                        given = self.weights[f"{prefix}.{field.feature}.{partition.number}"]
                        table.copy_(given - group.centre_of(partition))
                        if partition.grid is not None:
                            scale = self.weights[scale_name(field.feature, partition.number)]
                            partition.grid.take(position, scale)
        for layer in self.manifest.net.layers:
            if (module := model.module_of(layer)) is not None:
                for role, held in weights_of(module).items():
                    held.copy_(self.weights[f"{layer.name}.{role}"])
        model.shift_logit(nets.last_bias(self.manifest.net), -float(np.log(negative_rate)))

    def optimizer_state(self, config: TrainConfig) -> tuple[dict[str, Tensor] | None, str]:
        """The state of the optimizer as the run ended, if it was kept and fits; and what to tell of it.

        Raises:
            Malformed.
        """
        path = self.path / STATE
        if not path.is_file():
            return None, "fresh: that run kept none (train.keep_state)"
        own = self.recipe.train
        if config.optimizer != own.optimizer:
            return None, f"fresh: {config.optimizer} cannot go on from that of {own.optimizer}"
        if sparse_from(config) != sparse_from(own):
            return None, "fresh: other tables are stepped row by row than were (train.sparse_rows, train.l2_rows)"
        try:
            with safe_open(path, "pt") as file:
                names = [name for name in file.keys() if name.startswith("optimizer.")]  # noqa: SIM118  # no mapping
                return part({name: file.get_tensor(name) for name in names}, "optimizer"), "carried on"
        except SafetensorError as error:
            raise Malformed(
                "the state of an optimizer is a whole safetensors file",
                found=str(error)[:200],
                where=str(path),
                remedy="Delete it: the optimizer begins afresh then",
            ) from None


def read_yesterday(path: Path, resolved: str) -> Yesterday:
    """The run at `path` with its weights; arguments and errors as of `read_origin`."""
    return with_weights(read_origin(path, resolved))


def with_weights(origin: Origin) -> Yesterday:
    """A finished run with its weights.

    Raises:
        OffGrid: a table of few bits that holds what none of its codes gives.
    """
    with safe_open(origin.weights_file, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    _check_grids(origin.manifest, weights, str(origin.weights_file))
    return Yesterday(origin.path, origin.manifest, origin.sha256, weights)


def _check_grids(manifest: pb.Manifest, weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse values of few bits that none of their codes gives: what they stood for would be learned from.

    Raises:
        OffGrid.
    """
    for field in manifest.plan.fields:
        for j, table in enumerate(field.tables):
            if table.bits:
                place = f"{where}, feature {field.feature!r}, table {j}"
                names = f"embedding.{field.feature}.{j}", scale_name(field.feature, j), offset_name(field.feature, j)
                values, scale, offset = (weights[name].numpy() for name in names)
                check_grid(scale, offset, place)
                encode(values, scale, offset, table.bits, place)
