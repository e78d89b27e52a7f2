"""Branched tables: every field under each of its schemes, as wide as the widest dim, cut to a dim, rounded to bits.

The first tables are those of every field's first scheme; the next ones of the fields that have a second; and so on.
Legend: B rows; T id slots; F fields, in the schema's order; S schemes; N dims; W the widest dim; D the base.
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
    """In place of a plan's tables: (B, T) ids -> (B, F * D), each field's vector as `drawn` has it."""

    def __init__(
        self,
        options: Options,
        drawn: Drawn,
        slots: Slots,
        bags: Mapping[str, bool],
        classes: Mapping[str, Int32s],
        *,
        base: int,
        linear: bool,
    ) -> None:
        """Lay the tables out. `linear`: whether a learned map makes vectors of each dim as wide as `base`, or zeros."""
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
        widest = max(options.dims)
        self.picks: Tensor
        picks = torch.stack([(torch.arange(widest) < dim).float().diag() for dim in options.dims])
        self.register_buffer("picks", picks, persistent=False)  # (N, W, W)
        self.maps = nn.Parameter(torch.eye(base, widest).repeat(len(options.dims), 1, 1), requires_grad=linear)

    def packed(self) -> Iterator[PackedGroup]:
        """The groups of all rungs."""
        for rung in self.rungs:
            assert isinstance(rung, Tables)
            yield from rung.packed()

    def reset_maps(self, generator: torch.Generator) -> None:
        """Draw fresh maps of Xavier's normal distribution, unless they pad."""
        if self.maps.requires_grad:
            with torch.no_grad():
                for each in self.maps:
                    nn.init.xavier_normal_(each, generator=generator)

    def forward(self, ids: Tensor, looked: Looked | None = None) -> tuple[Tensor, list[Touched]]:
        """(B, T) int64 -> (B, F * D) float32, and the rows that were looked up."""
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
        maps = torch.einsum("fn,nde->fde", self.drawn.dims, self.maps @ self.picks)
        return torch.einsum("bfw,fdw->bfd", own, maps).flatten(1), touched


def fields_of(options: Options, dim: int) -> Sequence[pb.Field]:
    """The fields as the net's layers see them: full, of one dim, in the schema's order."""
    return [pb.Field(feature=name, dim=dim, combine=pb.ALONE) for name in options.features]
