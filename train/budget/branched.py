"""Branched tables: every field under each of its schemes, as wide as the widest dim, cut to a dim, rounded to bits.

What is cut off is zero: all dims of a field share their first columns and the layer that reads them, where a map for
each dim would learn on a share of the batches (on Frappe, ten epochs: AUC .980 and .960).

The first tables are those of every field's first scheme; the next ones of the fields that have a second; and so on.
Legend: B rows; T id slots; F fields, in the schema's order; S schemes; N dims; W the widest dim.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...protos import manifest_pb2 as pb
from ...protos import packing
from ...protos.collisions import Int32s
from ..tables import Looked, PackedGroup, Slots, Tables, Touched
from .drawn import Drawn
from .options import Options
from .rounding import Rounding


class Branched(Tables):
    """In place of a plan's tables: (B, T) ids -> (B, F * W), each field's vector as `drawn` has it."""

    def __init__(
        self,
        options: Options,
        drawn: Drawn,
        slots: Slots,
        bags: Mapping[str, bool],
        classes: Mapping[str, Int32s],
    ) -> None:
        """Lay the tables out."""
        super().__init__([], slots, bags, classes)
        self.drawn, self.features = drawn, options.features
        self.rungs, self.places = nn.ModuleList(), list[dict[int, int]]()
        for rung in range(max(map(len, options.ladders.values()))):
            fields = packing.pack([ladder[rung] for ladder in options.ladders.values() if len(ladder) > rung])
            tables = Tables(fields, slots, bags, classes)
            self.rungs.append(tables)
            number = {field.feature: place for place, field in enumerate(fields)}
            self.places.append({f: number[name] for f, name in enumerate(self.features) if name in number})
            for group in tables.packed():
                for partition in group.packed():
                    members = [self.features.index(field.feature) for field in partition.fields]
                    lengths = [slots[field.feature][1] for field in partition.fields]
                    width = partition.weight.shape[1]
                    partition.grid = Rounding(options.bits, members, lengths, width, drawn)  # pyright: ignore[reportAttributeAccessIssue]  # in a grid's place
        self.cuts: Tensor
        cuts = torch.arange(max(options.dims)) < torch.tensor(options.dims).unsqueeze(1)
        self.register_buffer("cuts", cuts.float(), persistent=False)  # (N, W), ones in the columns of a dim

    def packed(self) -> Iterator[PackedGroup]:
        """The groups of all rungs."""
        for number in range(len(self.rungs)):
            yield from self._rung(number).packed()

    @torch.no_grad()
    def settle(self) -> None:
        """Let what the warm-up did not draw begin from what it learnt.

        Scales suit the tables as they are; the first table of every further scheme has for each row the mean of the ids
        that share it, and its later tables stay as they were drawn, near what is neutral.
        """
        first = {
            field.feature: (field.tables[0], table)
            for group in self._rung(0).packed()
            for partition in group.packed()
            for field, table in partition.tables()
            if partition.number == 0
        }
        for rung in range(len(self.rungs)):
            for group in self._rung(rung).packed():
                for partition in group.packed():
                    tables = [table for _, table in partition.tables()]
                    for field, table in partition.tables() if rung and partition.number == 0 else ():
                        ids = torch.arange(field.cardinality, device=table.device)
                        rows = ids // field.tables[0].divide % field.tables[0].rows
                        counts = torch.bincount(rows, minlength=len(table)).clamp(min=1).unsqueeze(1)
                        own, learnt = first[field.feature]
                        learnt = learnt[ids // own.divide % own.rows]
                        table.copy_(torch.zeros_like(table).index_add_(0, rows, learnt) / counts)
                    assert isinstance(partition.grid, Rounding)
                    partition.grid.reset(tables, partition.grid.centre)

    def _rung(self, number: int) -> Tables:
        tables = self.rungs[number]
        assert isinstance(tables, Tables)
        return tables

    def forward(self, ids: Tensor, looked: Looked | None = None) -> tuple[Tensor, list[Touched]]:
        """(B, T) int64 -> (B, F * W) float32, and the rows that were looked up."""
        learns = self.drawn.scheme_weights is not None
        wanted = sorted(set(range(len(self.rungs))) if learns else set(self.drawn.schemes))
        vectors, touched = dict[int, Tensor](), list[Touched]()
        for rung in wanted:
            values, rows = self.rungs[rung](ids, looked)
            vectors[rung] = values.view(len(ids), len(self.places[rung]), -1)
            touched += rows
        whole, starts = torch.cat(list(vectors.values()), dim=1), dict[int, int]()
        end = 0
        for rung, each in vectors.items():
            starts[rung], end = end, end + each.shape[1]
        chosen = [starts[rung] + self.places[rung][field] for field, rung in enumerate(self.drawn.schemes)]
        own = whole[:, chosen]
        if (weights := self.drawn.scheme_weights) is not None:
            pulls = weights - weights.detach()  # zero, with the gradient of the weights
            for rung, places in enumerate(self.places):
                fields, columns = list(places), [starts[rung] + place for place in places.values()]
                others = pulls[fields, rung].view(1, -1, 1) * whole[:, columns].detach()
                own = own.index_add(1, torch.tensor(fields, device=own.device), others)
        return (own * (self.drawn.dims @ self.cuts)).flatten(1), touched


def fields_of(options: Options, dim: int) -> Sequence[pb.Field]:
    """The fields as the net's layers see them: full, of one dim, in the schema's order."""
    return [pb.Field(feature=name, dim=dim, combine=pb.ALONE) for name in options.features]
