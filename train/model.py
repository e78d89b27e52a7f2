"""The model: a net's layers over a plan's tables, as one torch module. One function per layer kind.

Legend: B rows; D dense features; W the width of a layer's value [B, W].
"""

from collections.abc import Callable
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..protos import manifest_pb2 as pb
from ..protos import schema as schemas
from ..protos.nets import DENSE, EMBEDDINGS, FIRST_ORDER
from .tables import Tables, l2_of_rows

Floats = npt.NDArray[np.float32]


class Model(nn.Module):
    """Ids and dense numbers in, logits out.

    Inputs of `forward`: `ids` (B, T) int64, one slot per categorical and bucket feature and `max_length` per bag, in
    schema order, -1 = padding; `numbers` (B, D) float32, raw dense features, NaN = missing.
    """

    def __init__(self, schema: pb.Schema, plan: pb.Plan, net: pb.Net) -> None:
        super().__init__()
        self.net = net
        self.penalise = False  # whether `forward` computes the norm of the rows it looked up
        slots, bags = id_slots(schema), bag_poolings(schema)
        self.embedding = Tables(plan.fields, slots, bags)
        self.first_order = Tables(plan.first_order, slots, bags) if plan.first_order else None
        self.layers = nn.ModuleDict(
            {_key(layer.name): module for layer in net.layers if (module := _module(layer)) is not None}
        )
        dense = [feature.dense for feature in schemas.dense_features(schema)]
        self.dense_count = len(dense)
        for name, values in (
            ("missing", [each.missing for each in dense]),
            ("mean", [each.mean for each in dense]),
            ("scale", [each.scale for each in dense]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        self.register_buffer("log1p", torch.tensor([each.transform == pb.LOG1P for each in dense]), persistent=False)

    def reset(self, seed: int) -> None:
        """Draw fresh weights; the same seed gives the same weights on any device."""
        generator = torch.Generator().manual_seed(seed)
        for tables in (self.embedding, self.first_order):
            for group in tables.packed() if tables else ():
                group.reset(generator)
        for module in self.layers.values():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)

    def transform(self, numbers: Tensor) -> Tensor:
        """(B, D) raw float32 -> (B, D): missing filled in, ln(1 + max(x, 0)) where asked, standardised."""
        filled = torch.where(numbers.isnan(), self.get_buffer("missing"), numbers)
        logged = torch.where(self.get_buffer("log1p"), (filled.clamp(min=0) + 1).log(), filled)
        return (logged - self.get_buffer("mean")) / self.get_buffer("scale")

    def forward(self, ids: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B,) float32, and half the squared norm of the rows looked up, () float32."""
        embeddings, touched = self.embedding(ids)
        values = {EMBEDDINGS: embeddings}
        if self.first_order is not None:
            values[FIRST_ORDER], more = self.first_order(ids)
            touched = touched + more
        if self.dense_count:
            values[DENSE] = self.transform(numbers)
        for layer in self.net.layers:
            kind = layer.WhichOneof("kind")
            assert kind is not None
            values[layer.name] = KINDS[kind](layer, self.module_of(layer), [values[name] for name in layer.inputs])
        norm = l2_of_rows(touched) if self.training and self.penalise else embeddings.new_zeros(())
        return values[self.net.layers[-1].name].squeeze(1), norm

    def module_of(self, layer: pb.Layer) -> nn.Module | None:
        """The torch module of a layer that has weights or state."""
        key = _key(layer.name)
        return self.layers[key] if key in self.layers else None  # noqa: SIM401  # a ModuleDict has no get

    def table_parameters(self) -> list[nn.Parameter]:
        """The packed tables."""
        modules = [self.embedding, *([self.first_order] if self.first_order is not None else [])]
        return [parameter for module in modules for parameter in module.parameters()]

    def weights(self) -> dict[str, Floats]:
        """Every float32 weight under its name in the manifest."""
        found = self.embedding.export("embedding")
        if self.first_order is not None:
            found |= self.first_order.export("first_order")
        for layer in self.net.layers:
            module = self.module_of(layer)
            if isinstance(module, nn.Linear):
                found |= {f"{layer.name}.weight": _numpy(module.weight), f"{layer.name}.bias": _numpy(module.bias)}
            elif isinstance(module, nn.BatchNorm1d):
                tensors = (module.weight, module.bias, module.running_mean, module.running_var)
                for role, tensor in zip(("weight", "bias", "mean", "variance"), tensors, strict=True):
                    assert tensor is not None
                    found[f"{layer.name}.{role}"] = _numpy(tensor)
        return found

    def shift_logit(self, bias: str, amount: float) -> None:
        """Add a constant to the logit by way of a linear layer's bias, named as in the manifest."""
        module = self.layers[_key(bias.removesuffix(".bias"))]
        assert isinstance(module, nn.Linear)
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
    return tensor.detach().cpu().numpy().copy()


def _module(layer: pb.Layer) -> nn.Module | None:
    """The torch module of a kind that has weights or state."""
    kind = layer.WhichOneof("kind")
    if kind == "linear":
        return nn.Linear(layer.linear.inputs, layer.linear.outputs)
    if kind == "batchnorm":
        return nn.BatchNorm1d(layer.batchnorm.width, eps=layer.batchnorm.epsilon)
    if kind == "dropout":
        return nn.Dropout(layer.dropout.probability)
    return None


def _apply(_: pb.Layer, module: nn.Module | None, inputs: list[Tensor]) -> Tensor:
    assert module is not None
    return module(inputs[0])


def _activation(layer: pb.Layer, _: nn.Module | None, inputs: list[Tensor]) -> Tensor:
    return torch.relu(inputs[0]) if layer.activation.function == pb.RELU else torch.sigmoid(inputs[0])


def _fm(layer: pb.Layer, _: nn.Module | None, inputs: list[Tensor]) -> Tensor:
    vectors = inputs[0].view(-1, layer.fm.vectors, layer.fm.dim)
    return (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True) / 2


def _dot(layer: pb.Layer, _: nn.Module | None, inputs: list[Tensor]) -> Tensor:
    count = layer.dot.vectors
    vectors = torch.cat(inputs, dim=1).view(-1, count, layer.dot.dim)
    products = torch.bmm(vectors, vectors.transpose(1, 2))
    below = torch.tril_indices(count, count, offset=-1, device=vectors.device)
    return products[:, below[0], below[1]]


KINDS: dict[str, Callable[[pb.Layer, nn.Module | None, list[Tensor]], Tensor]] = {
    "concat": lambda _, __, inputs: torch.cat(inputs, dim=1),
    "sum": lambda _, __, inputs: reduce(torch.add, inputs),
    "row_sum": lambda _, __, inputs: inputs[0].sum(1, keepdim=True),
    "linear": _apply,
    "batchnorm": _apply,
    "activation": _activation,
    "dropout": _apply,
    "fm": _fm,
    "dot": _dot,
}
