"""Tables: the packed embedding tables of a plan as a torch module; ids in, composed vectors out.

Legend: B rows of a batch; T id slots of all fields (one a categorical, `max_length` a bag), in schema order;
G groups (packing.py); S slots of a group's fields; D dim. Ids are int64 from end to end; -1 pads a bag.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..protos import low_bits
from ..protos import manifest_pb2 as pb
from ..protos.collisions import Int32s
from ..protos.manifest import class_name
from ..protos.packing import Group, groups
from ..protos.plan import SIDE_BY_SIDE
from .distributed import add_up
from .functions import apply_functions
from .grid import Grid
from .initial import Init, draw
from .join import join
from .lookup import Lookup, Spread

LARGEST_SPREAD = 2**62  # ids of all slots together: their sums are int64
Slots = Mapping[str, tuple[int, int]]  # feature -> (first slot, slots)
Looked = dict[Hashable, tuple[list[Lookup], Spread | None]]  # what a batch looked up in groups that lie alike


class Touched(NamedTuple):
    """What a batch looked up in a packed table of `size` rows whose gradient is dense.

    vectors: (B, S, width) float32. rows: (B, S) int64. real: (B, S) bool, False at padding; None: no padding.
    """

    vectors: Tensor
    rows: Tensor
    real: Tensor | None
    size: int


class Partition(nn.Module):
    """The tables of one number of a group's fields, packed: one below the other in one parameter.

    The classes of a partition that has them are packed likewise, as rows of the packed table: int64, and no part of a
    checkpoint.
    """

    def __init__(
        self, fields: Sequence[pb.Field], lengths: Sequence[int], number: int, classes: Mapping[str, Int32s]
    ) -> None:
        """Lay out the tables of that number of `fields` with `lengths` slots each."""
        super().__init__()
        self.fields, self.number, self.slots = fields, number, sum(lengths)
        tables = [field.tables[number] for field in fields]
        self.starts = np.cumsum([0, *(table.rows for table in tables)]).tolist()
        self.weight = nn.Parameter(torch.empty(self.starts[-1], tables[0].dim))
        self.sparse = False  # whether its gradient is
        self.grid = Grid(tables[0].bits, lengths, tables[0].dim) if tables[0].bits else None
        self.divides = any(table.divide != 1 for table in tables)
        # A full table, and one of the highest digits, has a row for whatever it is given: nothing wraps around.
        self.wraps = any(
            -(-field.cardinality // table.divide) > table.rows for field, table in zip(fields, tables, strict=True)
        )
        self.rises = not self.wraps and not tables[0].classes  # whether its rows rise with a slot's ids
        self.divide: Tensor
        self.modulus: Tensor
        self.offset: Tensor
        self.classes: Tensor | None
        packed, offsets = None, self.starts[:-1]
        if tables[0].classes:
            given = [classes[class_name(field.feature, number)].astype(np.int64) for field in fields]
            packed = torch.from_numpy(
                np.concatenate([each + start for each, start in zip(given, offsets, strict=True)])
            )
            offsets = np.cumsum([0, *map(len, given)])[:-1]
        self.register_buffer("classes", packed, persistent=False)
        for name, values in (
            ("divide", [table.divide for table in tables]),
            ("modulus", [table.rows for table in tables]),
            ("offset", offsets),
        ):
            self.register_buffer(
                name, torch.from_numpy(np.repeat(np.array(values, np.int64), lengths)), persistent=False
            )

    def rows(self, ids: Tensor, slots: Tensor | None = None) -> Tensor:
        """Rows of the packed table for ids (B, S) int64: (id // divide) % rows + offset, or classes[id + offset].

        With `slots`, (U,) int64, for ids (U,) of those slots.
        """

        def of(values: Tensor) -> Tensor:
            return values if slots is None else values.index_select(0, slots)

        if self.classes is not None:
            return self.classes[ids + of(self.offset)]
        quotients = ids // of(self.divide) if self.divides else ids
        return (quotients % of(self.modulus) if self.wraps else quotients) + of(self.offset)

    def tables(self) -> Iterator[tuple[pb.Field, Tensor]]:
        """Every field with its table (rows, width), a view without gradient."""
        for position, field in enumerate(self.fields):
            yield field, self.weight.detach()[self.starts[position] : self.starts[position + 1]]


class PackedGroup(nn.Module):
    """Fields that are looked up together: one packed table per partition, one gather each.

    A mult group's later tables are kept as deviations from `centre`, one or zero as they are drawn.
    """

    def __init__(
        self,
        group: Group,
        fields: Sequence[pb.Field],
        slots: Slots,
        bags: Mapping[str, bool],
        classes: Mapping[str, Int32s],
    ) -> None:
        """Lay the tables out; `bags` holds bag feature -> whether it is averaged (else summed)."""
        super().__init__()
        self.group, self.centre = group, 0.0
        own = [fields[position] for position in group.fields]
        spans = [slots[field.feature] for field in own]
        self.columns: Tensor
        columns = [slot for start, length in spans for slot in range(start, start + length)]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.partitions = nn.ModuleList()
        for j in range(group.depth):
            sharers = [field for field in own if len(field.tables) > j]
            self.partitions.append(Partition(sharers, [slots[each.feature][1] for each in sharers], j, classes))
        self.stretches = list[tuple[int, int, bool | None]]()  # slots from, to; whether averaged; None: no bag
        end = 0
        for field, (_, length) in zip(own, spans, strict=True):
            mean = bags.get(field.feature)
            if mean is None and self.stretches and self.stretches[-1][2] is None:
                self.stretches[-1] = (self.stretches[-1][0], end + length, None)
            else:
                self.stretches.append((end, end + length, mean))
            end += length
        self.pools = any(mean is not None for *_, mean in self.stretches)
        counts = [field.cardinality for field, (_, length) in zip(own, spans, strict=True) for _ in range(length)]
        starts = list(accumulate(counts, initial=0))
        self.spreads = group.depth > 1 and not self.pools and starts[-1] < LARGEST_SPREAD
        self.starts: Tensor
        self.register_buffer("starts", torch.tensor(starts if self.spreads else [0]), persistent=False)
        self.layout: Hashable = (
            tuple(columns),
            *(
                tuple((f.feature, *(getattr(f.tables[j], key) for key in ("divide", "rows", "classes"))) for f in own)
                for j, own in ((each.number, each.fields) for each in self.packed())
            ),
        )  # groups of one layout look the same rows up

    def packed(self) -> Iterator[Partition]:
        """The partitions, typed."""
        for partition in self.partitions:
            assert isinstance(partition, Partition)
            yield partition

    def reset(self, init: Init, generator: torch.Generator) -> None:
        """Draw fresh tables, partition by partition."""
        self.centre = init.centre(self.group.combine)
        for partition in self.packed():
            for field, table in partition.tables():
                draw(table, field, partition.number, init, generator)
            if partition.grid is not None:
                partition.grid.reset([table for _, table in partition.tables()], self.centre_of(partition))

    def centre_of(self, partition: Partition) -> float:
        """What the tables of a partition are kept as deviations from."""
        return self.centre if partition.number else 0.0

    def decaying(self) -> list[nn.Parameter]:
        """The tables that L2 pulls. Path's functions are small networks: they are left alone, as layers are."""
        whole = [partition.weight for partition in self.packed()]
        return whole[:1] if self.group.combine == pb.PATH else whole

    def lookups(self, ids: Tensor) -> tuple[list[Lookup], Spread | None]:
        """The rows of each partition for ids (B, T) int64, (B, slots); or, (1, U), for each distinct id of a slot.

        The second is for large tables that learn: what joins their rows, and learns from it, is done once an id.
        """
        ids = ids.gather(1, self.columns.expand(len(ids), -1))  # index_select takes three times as long
        if self.spreads and torch.is_grad_enabled() and not ids.is_cuda and any(each.sparse for each in self.packed()):
            return self._once_an_id(Spread(ids, self.starts))
        real = ids >= 0 if self.pools else None
        known = ids if real is None else ids.clamp(min=0)
        found = list[Lookup]()
        for each in self.packed():
            own = None if real is None else real[:, : each.slots]
            found.append(Lookup(each.rows(known[:, : each.slots]), own, len(each.weight)))
        return found, None

    def _once_an_id(self, spread: Spread) -> tuple[list[Lookup], Spread]:
        found = list[Lookup]()
        for each in self.packed():
            count = int(torch.searchsorted(spread.slots, each.slots))  # ids of the first slots come first
            rows = each.rows(spread.ids[:count], spread.slots[:count])
            found.append(Lookup(rows.unsqueeze(0), None, len(each.weight), ordered=each.rises))
        return found, spread

    def forward(self, lookups: Sequence[Lookup], spread: Spread | None) -> tuple[Tensor, list[Touched]]:
        """Composed and pooled vectors of what is looked up in each partition.

        Returns:
            (B, fields, D) float32, and what was looked up in tables that L2 pulls by their dense gradient.
        """
        parts, touched = list[Tensor](), list[Touched]()
        for partition, lookup in zip(self.packed(), lookups, strict=True):
            if parts and self.group.combine == pb.PATH:
                parts = [apply_functions(partition.weight, lookup.rows, parts[0], self.group.hidden)]
                continue
            parts.append(lookup.take(partition.weight, sparse=partition.sparse))  # (B, slots, width)
            if not partition.sparse:
                touched.append(Touched(parts[-1], lookup.rows, lookup.real, lookup.size))
            if partition.grid is not None:
                slots = None if spread is None else spread.slots[: lookup.rows.shape[1]]
                parts[-1] = partition.grid(parts[-1], slots)
        vectors = parts[0]
        if self.group.combine in SIDE_BY_SIDE and len(parts) > 1:
            vectors = torch.cat(parts, dim=2)
        elif len(parts) > 1:
            deviates = self.centre and not self.group.bits[0]  # a grid gives the values themselves
            kind = "add" if self.group.combine == pb.ADD else "deviation" if deviates else "mult"
            for part in parts[1:]:
                vectors = join(vectors, part, kind)
        if spread is not None:
            vectors = spread.out(vectors.squeeze(0))
        return (vectors if lookups[0].real is None else self._pool(vectors, lookups[0].real)), touched

    def _pool(self, vectors: Tensor, real: Tensor) -> Tensor:
        """(B, S, D) -> (B, fields, D): each bag's slots summed or averaged; an empty bag is the zero vector."""
        vectors = vectors.masked_fill(~real.unsqueeze(-1), 0.0)
        pooled = list[Tensor]()
        for start, end, mean in self.stretches:
            part = vectors[:, start:end]
            if mean is not None:
                part = part.sum(1, keepdim=True)
                if mean:
                    part = part / real[:, start:end].sum(1).clamp(min=1).view(-1, 1, 1)
            pooled.append(part)
        return torch.cat(pooled, dim=1)

    def stored(self) -> Iterator[tuple[str, int, Tensor]]:
        """(feature, table number, float32 [rows, width]) of every table, as it is joined."""
        for partition in self.packed():
            for position, (field, table) in enumerate(partition.tables()):
                if partition.grid is None:
                    yield field.feature, partition.number, table + self.centre if partition.number else table
                else:
                    yield field.feature, partition.number, partition.grid.values(table, position)

    def grids(self) -> Iterator[tuple[str, int, Tensor, Tensor]]:
        """(feature, table number, scales (D,), offsets (D,)) of every table of few bits."""
        for partition in self.packed():
            if partition.grid is not None:
                for field, scale, offset in zip(partition.fields, *partition.grid.levels(), strict=True):
                    yield field.feature, partition.number, scale, offset


class Tables(nn.Module):
    """All fields of a plan (or its first-order fields), group by group, in plan order."""

    def __init__(
        self, fields: Sequence[pb.Field], slots: Slots, bags: Mapping[str, bool], classes: Mapping[str, Int32s]
    ) -> None:
        super().__init__()
        self.groups = nn.ModuleList(PackedGroup(group, fields, slots, bags, classes) for group in groups(fields))

    def packed(self) -> Iterator[PackedGroup]:
        """The groups, typed."""
        for group in self.groups:
            assert isinstance(group, PackedGroup)
            yield group

    def forward(self, ids: Tensor, looked: Looked | None = None) -> tuple[Tensor, list[Touched]]:
        """(B, T) int64 -> (B, sum of dims) float32, and the rows that were looked up in tables of dense gradients.

        `looked` is what other tables looked up for the same ids, by layout, and takes what is looked up here.
        """
        parts, touched, known = list[Tensor](), list[Touched](), {} if looked is None else looked
        for group in self.packed():
            if group.layout not in known:
                known[group.layout] = group.lookups(ids)
            vectors, rows = group(*known[group.layout])
            parts.append(vectors.flatten(1))
            touched += rows
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)), touched

    def export(self, prefix: str) -> dict[str, npt.NDArray[np.float32]]:
        """`<prefix>.<feature>.<j>` -> float32 [rows, width], and scales and offsets, as the manifest names them.

        Views, where they can be.
        """
        found = dict[str, npt.NDArray[np.float32]]()
        for group in self.packed():
            for feature, j, table in group.stored():
                found[f"{prefix}.{feature}.{j}"] = table.cpu().numpy()
            for feature, j, scale, offset in group.grids():
                found[low_bits.scale_name(feature, j)] = scale.cpu().numpy()
                found[low_bits.offset_name(feature, j)] = offset.cpu().numpy()
        return found


def l2_of_rows(touched: Sequence[Touched]) -> Tensor:
    """Half the squared norm of the distinct rows that a batch looked up, in one table or more.

    Each look-up counts its share of the row, so that nothing is sorted and no device is waited for. Of several ranks
    each has its look-ups' part of the norm of the whole batch.
    """
    norms = list[Tensor]()
    for vectors, rows, real, size in touched:
        ones = torch.ones_like(rows, dtype=vectors.dtype) if real is None else real.to(vectors.dtype)
        counts = add_up(ones.new_zeros(size).index_add_(0, rows.flatten(), ones.flatten()))
        norms.append((vectors.square().sum(2) * ones / counts[rows].clamp(min=1)).sum() / 2)
    return torch.stack(norms).sum()
