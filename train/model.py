"""The model: a net's layers over a plan's tables, as one torch module.

Legend: B rows; D dense features.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..protos import manifest_pb2 as pb
from ..protos import schema as schemas
from ..protos.collisions import Int32s
from ..protos.nets import DENSE, EMBEDDINGS, FIRST_ORDER
from .initial import AUTO, Init
from .layers import KINDS, Bias, make_module, reset_module, weights_of
from .tables import Looked, Tables, l2_of_rows

Floats = npt.NDArray[np.float32]


class Model(nn.Module):
    """Ids and dense numbers in, logits out.

    Inputs of `forward`: `ids` (B, T) int64, one slot per categorical and bucket feature and `max_length` per bag, in
    schema order, -1 = padding; `numbers` (B, D) float32, raw dense features, NaN = missing.
    """

    def __init__(
        self,
        schema: pb.Schema,
        plan: pb.Plan,
        net: pb.Net,
        classes: Mapping[str, Int32s],
        embedding: Tables | None = None,
    ) -> None:
        """Lay the tables out; `classes` has those of every table that has classes, (n,), under the manifest's names.

        What is given as `embedding` stands in for the tables of the plan's fields.
        """
        super().__init__()
        self.net, self.classes = net, classes
        self.penalise = False  # whether `forward` computes the norm of the rows it looked up
        slots, bags = id_slots(schema), bag_poolings(schema)
        self.embedding = Tables(plan.fields, slots, bags, classes) if embedding is None else embedding
        self.first_order = Tables(plan.first_order, slots, bags, classes) if plan.first_order else None
        made = {_key(layer.name): make_module(layer) for layer in net.layers}
        self.layers = nn.ModuleDict({key: module for key, module in made.items() if module is not None})
        dense = [feature.dense for feature in schemas.dense_features(schema)]
        self.dense_count = len(dense)
        for name, values in (
            ("missing", [each.missing for each in dense]),
            ("mean", [each.mean for each in dense]),
            ("scale", [each.scale for each in dense]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        self.register_buffer("log1p", torch.tensor([each.transform == pb.LOG1P for each in dense]), persistent=False)

    def reset(self, seed: int, init: Init = AUTO) -> None:
        """Draw fresh weights, on the CPU: the same seed gives the same weights."""
        generator = torch.Generator().manual_seed(seed)
        for tables in self.tables():
            for group in tables.packed():
                group.reset(init, generator)
        for module in self.layers.values():
            reset_module(module, generator)

    def transform(self, numbers: Tensor) -> Tensor:
        """(B, D) raw float32 -> (B, D): missing filled in, ln(1 + max(x, 0)) where asked, standardised."""
        filled = torch.where(numbers.isnan(), self.get_buffer("missing"), numbers)
        logged = torch.where(self.get_buffer("log1p"), (filled.clamp(min=0) + 1).log(), filled)
        return (logged - self.get_buffer("mean")) / self.get_buffer("scale")

    def forward(self, ids: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B,) float32, and half the squared norm of the rows looked up, () float32; see `sparsify`.

        Under autocast the layers run in its type; lookups and what composes vectors do not.
        """
        with torch.autocast(ids.device.type, enabled=False):
            values, norm = self.inputs(ids, numbers)
        return self.score(values).to(norm.dtype), norm

    def score(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (B,) of the net's inputs, (B, width) each."""
        values = dict(inputs)
        for layer in self.net.layers:
            kind = layer.WhichOneof("kind")
            assert kind is not None
            values[layer.name] = KINDS[kind](layer, self.module_of(layer), [values[name] for name in layer.inputs])
        return values[self.net.layers[-1].name].squeeze(1)

    def inputs(self, ids: Tensor, numbers: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The net's inputs by name, (B, width) each, and the norm of `forward`."""
        looked: Looked = {}
        embeddings, touched = self.embedding(ids, looked)
        values = {EMBEDDINGS: embeddings}
        if self.first_order is not None:
            values[FIRST_ORDER], more = self.first_order(ids, looked)
            touched = touched + more
        if self.dense_count:
            values[DENSE] = self.transform(numbers)
        penalised = self.training and self.penalise and bool(touched)
        return values, l2_of_rows(touched) if penalised else embeddings.new_zeros(())

    def module_of(self, layer: pb.Layer) -> nn.Module | None:
        """The torch module of a layer that has weights or state."""
        key = _key(layer.name)
        return self.layers[key] if key in self.layers else None  # noqa: SIM401  # a ModuleDict has no get

    def tables(self) -> list[Tables]:
        """The plan's tables, and those of the first order."""
        return [self.embedding, *([self.first_order] if self.first_order is not None else [])]

    def table_parameters(self) -> list[nn.Parameter]:
        """The packed tables that L2 pulls; path's functions are among the other weights."""
        return [weight for tables in self.tables() for group in tables.packed() for weight in group.decaying()]

    def sparsify(self, rows: int) -> None:
        """Give packed tables of at least so many rows sparse gradients, of the rows that a batch looks up.

        The norm that `forward` returns leaves them out: their optimizer knows those rows (row_steps.py). Path's
        functions stay as they are.
        """
        for group in (each for tables in self.tables() for each in tables.packed()):
            pulled = {id(weight) for weight in group.decaying()}
            for partition in group.packed():
                partition.sparse = id(partition.weight) in pulled and len(partition.weight) >= rows

    def weights(self) -> dict[str, Floats]:
        """Every float32 weight under its name in the manifest; on the CPU views, where it is kept as it is told."""
        found = self.embedding.export("embedding")
        if self.first_order is not None:
            found |= self.first_order.export("first_order")
        for layer in self.net.layers:
            if (module := self.module_of(layer)) is not None:
                found |= {f"{layer.name}.{role}": _numpy(tensor) for role, tensor in weights_of(module).items()}
        return found

    def shift_logit(self, bias: str, amount: float) -> None:
        """Add a constant to the logit by way of the bias of a linear or a bias layer, named as in the manifest."""
        module = self.layers[_key(bias.removesuffix(".bias"))]
        assert isinstance(module, nn.Linear | Bias)
        with torch.no_grad():
            module.bias.add_(amount)


def id_slots(schema: pb.Schema) -> dict[str, tuple[int, int]]:
    """Feature -> (first slot, slots) of the model's `ids`: like the graph's, with a slot for each bucket feature."""
    slots, position = dict[str, tuple[int, int]](), 0
    for feature in schema.features:
        if schemas.has_ids(feature):
            length = feature.bag.max_length if feature.HasField("bag") else 1
            slots[feature.name] = (position, length)
            position += length
    return slots


def bag_poolings(schema: pb.Schema) -> dict[str, bool]:
    """Bag feature -> whether it is averaged (else summed)."""
    return {feature.name: feature.bag.pooling == pb.MEAN for feature in schema.features if feature.HasField("bag")}


def _key(name: str) -> str:
    return name.replace(".", "/")  # torch keeps dots for itself


def _numpy(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().numpy()
