"""Tables: the packed embedding tables of a plan as a torch module; ids in, composed vectors out.

Legend: B rows of a batch; T id slots of all fields (one a categorical, `max_length` a bag), in schema order;
G groups (packing.py); D dim. Ids are int64 from end to end; -1 pads a bag.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..protos import manifest_pb2 as pb
from ..protos.packing import Group, groups

SPREAD = 1e-4  # standard deviation of fresh first tables, as the published recipes have it
DEVIATION = 0.1  # of mult's later tables, around one


class PackedGroup(nn.Module):
    """Fields that are looked up together: one packed table per partition, one gather each.

    A mult group's later tables are kept as deviations from one: a fresh quotient leaves its remainder as it is, and
    weight decay pulls it to one, not to zero.
    """

    def __init__(
        self, group: Group, fields: Sequence[pb.Field], slots: Mapping[str, tuple[int, int]], bags: Mapping[str, bool]
    ) -> None:
        """Lay the tables out; `bags` holds bag feature -> whether it is averaged (else summed)."""
        super().__init__()
        self.group, self.bags = group, bags
        self.fields = [fields[position] for position in group.fields]
        self.spans = [slots[field.feature] for field in self.fields]
        self.columns: Tensor
        columns = [slot for start, length in self.spans for slot in range(start, start + length)]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.weights = nn.ParameterList()
        self.starts = list[list[int]]()  # partition -> first row of every field's table
        self.slots = list[int]()  # partition -> slots that take part in it: those of the first fields
        self.divides = list[bool]()  # partition -> whether any of its tables divides
        for j in range(group.depth):
            sharers = [
                (field, span) for field, span in zip(self.fields, self.spans, strict=True) if len(field.tables) > j
            ]
            rows = [field.tables[j].rows for field, _ in sharers]
            starts = np.cumsum([0, *rows])
            repeat = [length for _, (_, length) in sharers]
            self.weights.append(nn.Parameter(torch.empty(int(starts[-1]), sharers[0][0].tables[j].dim)))
            self.starts.append(starts.tolist())
            self.slots.append(sum(repeat))
            self.divides.append(any(field.tables[j].divide != 1 for field, _ in sharers))
            for name, values in (
                ("divide", [field.tables[j].divide for field, _ in sharers]),
                ("modulus", rows),
                ("offset", starts[:-1].tolist()),
            ):
                per_slot = np.repeat(values, repeat).tolist()
                self.register_buffer(f"{name}{j}", torch.tensor(per_slot, dtype=torch.int64), persistent=False)
        self.pools = any(field.feature in bags for field in self.fields)

    def reset(self, generator: torch.Generator) -> None:
        """Draw fresh tables, partition by partition."""
        mult = self.group.combine == pb.MULT
        with torch.no_grad():
            for j, weight in enumerate(self.weights):
                weight.normal_(0.0, DEVIATION if mult and j else SPREAD, generator=generator)

    def rows(self, ids: Tensor, j: int) -> Tensor:
        """(B, slots of partition j) int64: rows of the packed table, (id // divide) % rows + offset."""
        taken = ids[:, : self.slots[j]]
        if self.divides[j]:
            taken = taken // self.get_buffer(f"divide{j}")
        return taken % self.get_buffer(f"modulus{j}") + self.get_buffer(f"offset{j}")

    def forward(self, ids: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Composed and pooled vectors of ids (B, T) int64.

        Returns:
            (B, fields, D) float32, and the rows that were looked up with their packed table, for the L2 term.
        """
        ids = ids[:, self.columns]
        present = ids >= 0 if self.pools else None  # False: padding
        known = ids if present is None else ids.clamp(min=0)
        touched, parts = list[tuple[Tensor, Tensor]](), list[Tensor]()
        for j, weight in enumerate(self.weights):
            rows = self.rows(known, j)
            touched.append((weight, rows if present is None else rows[present[:, : self.slots[j]]]))
            parts.append(functional.embedding(rows, weight))  # (B, slots, D)
        vectors = reduce(self._join, parts)
        return (vectors if present is None else self._pool(vectors, present)), touched

    def _join(self, vectors: Tensor, part: Tensor) -> Tensor:
        if self.group.combine == pb.CONCAT:
            return torch.cat([vectors, part], dim=2)
        count = part.shape[1]
        head = vectors[:, :count]
        head = head * (part + 1.0) if self.group.combine == pb.MULT else head + part
        return head if count == vectors.shape[1] else torch.cat([head, vectors[:, count:]], dim=1)

    def _pool(self, vectors: Tensor, present: Tensor) -> Tensor:
        """(B, slots, D) -> (B, fields, D): each bag's slots summed or averaged; an empty bag is the zero vector."""
        vectors = vectors.masked_fill(~present.unsqueeze(-1), 0.0)
        pooled, start = list[Tensor](), 0
        for field, (_, length) in zip(self.fields, self.spans, strict=True):
            part = vectors[:, start : start + length]
            if field.feature in self.bags:
                part = part.sum(1, keepdim=True)
                if self.bags[field.feature]:
                    part = part / present[:, start : start + length].sum(1).clamp(min=1).view(-1, 1, 1)
            pooled.append(part)
            start += length
        return torch.cat(pooled, dim=1)

    def stored(self) -> Iterator[tuple[str, int, Tensor]]:
        """(feature, table number, float32 [rows, dim]) of every table, as it is multiplied, added or concatenated."""
        for j, weight in enumerate(self.weights):
            whole = weight.detach() + 1.0 if self.group.combine == pb.MULT and j else weight.detach()
            for position, field in enumerate(each for each in self.fields if len(each.tables) > j):
                yield field.feature, j, whole[self.starts[j][position] : self.starts[j][position + 1]]


class Tables(nn.Module):
    """All fields of a plan (or its first-order fields), group by group, in plan order."""

    def __init__(
        self, fields: Sequence[pb.Field], slots: Mapping[str, tuple[int, int]], bags: Mapping[str, bool]
    ) -> None:
        super().__init__()
        self.groups = nn.ModuleList(PackedGroup(group, fields, slots, bags) for group in groups(fields))

    def packed(self) -> Iterator[PackedGroup]:
        """The groups, typed."""
        for group in self.groups:
            assert isinstance(group, PackedGroup)
            yield group

    def forward(self, ids: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """(B, T) int64 -> (B, sum of dims) float32 and the touched (table, rows)."""
        parts, touched = list[Tensor](), list[tuple[Tensor, Tensor]]()
        for group in self.packed():
            vectors, rows = group(ids)
            parts.append(vectors.flatten(1))
            touched += rows
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), touched

    def export(self, prefix: str) -> dict[str, npt.NDArray[np.float32]]:
        """`<prefix>.<feature>.<j>` -> float32 [rows, dim], as the manifest names them."""
        return {
            f"{prefix}.{feature}.{j}": table.cpu().numpy().copy()
            for group in self.packed()
            for feature, j, table in group.stored()
        }


def l2_of_rows(touched: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Half the squared norm of the distinct rows that a batch looked up."""
    return torch.stack([weight[rows.unique()].square().sum() / 2 for weight, rows in touched]).sum()
