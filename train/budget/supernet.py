"""The supernet: a recipe's model over every scheme, dim and number of bits of its fields, and the choice among them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...protos import manifest_pb2 as pb
from ...protos.collisions import Int32s
from ...protos.manifest import class_name
from ...protos.schema import dense_features
from ..features import Rows
from ..fresh import init_of, memory_for
from ..model import Model, bag_poolings, id_slots
from ..net import make_net
from ..prepare import Prepared
from ..recipe import Recipe
from .branched import Branched, fields_of
from .choice import Choice
from .drawn import Drawn, nothing
from .options import Options


@dataclass
class Supernet:
    """The model under all options, and the choice among them."""

    model: Model
    tables: Branched
    choice: Choice

    def follow(self, drawn: Drawn) -> None:
        """Let all tables have what was drawn: they look at one and the same."""
        vars(self.tables.drawn).update(vars(drawn))

    def loss(self, rows: Rows, chosen: Tensor, drawn: Drawn, labels: Tensor, *, mixed: bool) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the chosen rows under what was drawn, and the norm of what was looked up.

        `labels` are of all rows.
        """
        self.follow(drawn)
        with torch.autocast(rows.ids.device.type, torch.bfloat16, enabled=mixed):
            logits, norm = self.model(rows.ids[chosen], rows.numbers[chosen])
        weights = None if rows.weights is None else rows.weights[chosen]
        return binary_cross_entropy_with_logits(logits, labels[chosen], weights), norm


def make_supernet(
    recipe: Recipe, prepared: Prepared, options: Options, wide: pb.Plan, device: torch.device
) -> Supernet:
    """A fresh supernet, its weights drawn by `train.seed`; `wide` has the first-order tables.

    Raises:
        PlanError: tables that do not fit in memory.
    """
    schema, seed = prepared.schema, recipe.train.seed
    plan = pb.Plan(fields=fields_of(options, max(options.dims)), first_order=wide.first_order)
    net = make_net(recipe.model, plan, len(dense_features(schema)))
    classes = _classes(options, prepared)
    every = pb.Plan(fields=[field for ladder in options.ladders.values() for field in ladder])
    with memory_for(every):
        drawn = nothing(len(options.features), len(options.dims))
        slots, bags = id_slots(schema), bag_poolings(schema)
        tables = Branched(options, drawn, slots, bags, classes)
        model = Model(schema, plan, net, classes, tables)
        model.reset(seed, init_of(recipe))
        return Supernet(model.to(device), tables, Choice(options).to(device))


def _classes(options: Options, prepared: Prepared) -> Mapping[str, Int32s]:
    return {
        class_name(name, number): given
        for name in options.features
        if (known := prepared.semantics.get(name)) is not None
        for number, given in enumerate(known.classes)
        if given is not None
    }
