"""The supernet: a recipe's model over the candidates of every field at once, and the choice among them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...protos import manifest_pb2 as pb
from ...protos.schema import dense_features
from ..features import Rows
from ..fresh import init_of, memory_for
from ..model import Model, bag_poolings, id_slots
from ..net import make_net
from ..planning import classes_of
from ..prepare import Prepared
from ..recipe import Recipe
from .choice import Choice
from .derive import with_dims
from .mixture import Mixture


@dataclass
class Supernet:
    """The model with all candidates, and the choice among them."""

    model: Model
    mixture: Mixture
    choice: Choice

    def loss(self, rows: Rows, chosen: Tensor, weights: Tensor, *, mixed: bool) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the chosen rows with candidates weighted so, and the norm of what was looked up."""
        self.mixture.weights = weights
        with torch.autocast(rows.ids.device.type, torch.bfloat16, enabled=mixed):
            logits, norm = self.model(rows.ids[chosen], rows.numbers[chosen])
        sample = None if rows.weights is None else rows.weights[chosen]
        return binary_cross_entropy_with_logits(logits, rows.labels[chosen], sample), norm


def make_supernet(recipe: Recipe, prepared: Prepared, wide: pb.Plan, device: torch.device) -> Supernet:
    """A fresh supernet, its weights drawn by `train.seed`, over the plan of the widest candidates.

    Raises:
        RecipeError: tables that are joined by path. PlanError: tables that do not fit in memory.
    """
    config, schema, seed = recipe.search, prepared.schema, recipe.train.seed
    classes = classes_of(wide, prepared.semantics, "recipe")
    # To its layers, a supernet is a model whose vectors all have the base's dim, in the wide plan's order.
    names = [field.feature for field in wide.fields]
    packed = with_dims(wide, dict.fromkeys(names, config.width), prepared.semantics)
    flat = {field.feature: field for field in packed.fields}
    plan = pb.Plan(fields=[flat[name] for name in names], first_order=wide.first_order)
    net = make_net(recipe.model, plan, len(dense_features(schema)))
    choice = Choice(config, wide.fields)
    with memory_for(wide):
        mixture = Mixture(config, wide, choice.candidates, id_slots(schema), bag_poolings(schema), classes)
        model = Model(schema, plan, net, classes, mixture)
        model.reset(seed, init_of(recipe))
        mixture.reset_maps(torch.Generator().manual_seed(seed))
        return Supernet(model.to(device), mixture, choice.to(device))
