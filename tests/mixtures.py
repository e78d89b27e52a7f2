"""Mixtures of every kind of table, and the naive one: what the paper writes, field by field, candidate by candidate.

Legend: B rows; F fields, V vectors, N candidates; d a candidate's dim, D the base.
"""

import numpy as np
import torch
from quorem.protos import manifest_pb2 as pb
from quorem.protos import packing, plan, schema
from quorem.train.model import bag_poolings, id_slots
from quorem.train.search.choice import Choice
from quorem.train.search.config import SearchConfig
from quorem.train.search.mixture import EPSILON, Mixture
from runs import categorical, classes_of, field
from torch import Tensor, nn
from torch.nn import functional

FEATURES = {
    "alone": categorical("alone", "hash", 30),
    "mult": categorical("mult", "hash", 40),
    "add": categorical("add", "hash", 60, bag=3, mean=True),
    "concat": categorical("concat", "hash", 90),
    "three": categorical("three", "hash", 70, bag=2),
    "feature": categorical("feature", "hash", 50),
    "classes": categorical("classes", "hash", 45),
    "bag": categorical("bag", "hash", 12, bag=4),
}
HOW = {
    "alone": ("full", pb.ALONE),
    "mult": ("qr", pb.MULT),
    "add": ("chinese_remainder", pb.ADD),
    "concat": ("qr", pb.CONCAT),
    "three": ("mixed_radix", pb.CONCAT),
    "feature": ("qr", pb.FEATURE),
    "classes": ("completed", pb.MULT),
    "bag": ("full", pb.ALONE),
}
OWN = {"alone": (1, 7), "concat": (2, 3, 6), "three": (3, 4, 7), "bag": (2, 5, 6, 7)}  # the others have 2, 4, 5
ROWS = 23


def wide_of(config: SearchConfig, names: list[str]) -> pb.Plan:
    """The plan of the widest candidates."""
    fields = [field(FEATURES[name], *HOW[name], config.width_of(name)) for name in names]
    return pb.Plan(fields=packing.pack(fields))


def mixture_of(config: SearchConfig, names: list[str] | None = None, seed: int = 0) -> tuple[Mixture, pb.Plan]:
    """A mixture in float64 with random tables, maps and weights."""
    names = list(FEATURES) if names is None else names
    wide = wide_of(config, names)
    found = {key: each for one in wide.fields for key, each in classes_of(one).items()}
    choice = Choice(config, wide.fields)
    described = pb.Schema(features=[FEATURES[name] for name in names])
    made = Mixture(config, wide, choice.candidates, id_slots(described), bag_poolings(described), found).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight.normal_(generator=draw)
        for group in made.packed():
            group.centre = 1.0 if group.group.combine == pb.MULT else 0.0
        choice.logits.normal_(generator=draw)
    made.weights = choice.probabilities().double().detach().requires_grad_()
    return made, wide


def ids_of(names: list[str], rows: int = ROWS, seed: int = 1) -> Tensor:
    """(B, T) ids; bags that are full, short and empty."""
    draw, columns = np.random.default_rng(seed), list[np.ndarray]()
    for name in names:
        feature = FEATURES[name]
        length = feature.bag.max_length if feature.HasField("bag") else 1
        values = draw.integers(0, schema.cardinality(feature), (rows, length))
        if feature.HasField("bag"):
            values = np.where(np.arange(length) < draw.integers(0, length, (rows, 1), endpoint=True), values, -1)
        columns.append(values)
    return torch.from_numpy(np.concatenate(columns, 1))


class Naive:
    """The same as the paper writes it, one field and one candidate after the other."""

    def __init__(self, config: SearchConfig, wide: pb.Plan, made: Mixture, names: list[str]) -> None:
        self.config, self.wide, self.made = config, wide, made
        described = pb.Schema(features=[FEATURES[name] for name in names])
        self.slots, self.bags = id_slots(described), bag_poolings(described)
        self.candidates = Choice(config, wide.fields).candidates
        self.tables = dict[tuple[str, int], Tensor]()
        for group in made.packed():
            for partition in group.packed():
                for place, one in enumerate(partition.fields):
                    rows = partition.weight[partition.starts[place] : partition.starts[place + 1]]
                    centre = group.centre if partition.number and one.combine == pb.MULT else 0.0
                    self.tables[one.feature, partition.number] = rows + centre
        draw = torch.Generator().manual_seed(9)
        self.biases = torch.randn(len(self.candidates), config.width, generator=draw, dtype=torch.float64)

    def candidate(self, one: pb.Field, dim: int, ids: Tensor) -> list[Tensor]:
        """The vectors (B, d) of a candidate: of a field that is joined by feature, one for each of its tables."""
        known, parts = ids.clamp(min=0), list[Tensor]()
        own = self.config.candidates_of(one.feature)
        for j, table in enumerate(one.tables):
            if table.classes:
                given = classes_of(one)[f"classes.{one.feature}.{j}"]
                rows = torch.from_numpy(given.astype(np.int64))[known]
            else:
                rows = known // table.divide % table.rows
            held = self.tables[one.feature, j][rows]  # (B, slots, width)
            share = plan.table_dims(one.combine, dim, 0, len(one.tables))
            start = 0
            if self.config.lookup == "separate":  # its own columns, behind those of smaller candidates
                before = [plan.table_dims(one.combine, each, 0, len(one.tables))[0] for each in own if each < dim]
                start = sum(before)
            parts.append(held[:, :, start : start + share[j]])
        if one.combine == pb.MULT:
            joined = [torch.stack(parts).prod(0)]
        elif one.combine == pb.ADD:
            joined = [torch.stack(parts).sum(0)]
        elif one.combine == pb.CONCAT:
            joined = [torch.cat(parts, 2)]
        else:
            joined = parts
        real = (ids >= 0).double().unsqueeze(2)
        pooled = [(each * real).sum(1) for each in joined]
        if self.bags.get(one.feature):
            pooled = [each / real.sum(1).clamp(min=1) for each in pooled]
        return pooled

    def unified(self, number: int, vector: Tensor) -> Tensor:
        """x̂_n, (B, D)."""
        dim = vector.shape[1]

        def normalised(each: Tensor) -> Tensor:
            if not self.config.normalise:
                return each
            return nn.BatchNorm1d(each.shape[1], affine=False, eps=EPSILON).double()(each)

        if self.config.unify == "pad":
            return functional.pad(normalised(vector), (0, self.config.width - dim))
        bias = self.biases[number] if self.config.normalise else None
        return normalised(functional.linear(vector, self.made.maps[number][:, :dim], bias))

    def __call__(self, ids: Tensor) -> Tensor:
        """(B, V * D)."""
        vectors = list[Tensor]()
        for row, one in enumerate(self.wide.fields):
            start, length = self.slots[one.feature]
            terms = list[list[Tensor]]()
            for dim in self.config.candidates_of(one.feature):
                number = self.candidates.index(dim)
                weight = self.made.weights[row, number]
                own = self.candidate(one, dim, ids[:, start : start + length])
                terms.append([weight * self.unified(number, each) for each in own])
            vectors += [torch.stack(same).sum(0) for same in zip(*terms, strict=True)]
        return torch.cat(vectors, 1)
