"""Initial tables: how fresh ones are drawn, as suits the combine, or as published code has it.

Legend: k tables of a field; m rows of one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..protos import manifest_pb2 as pb
from .functions import draw_functions


@dataclass(frozen=True)
class Init:
    """How tables are drawn.

    auto: first tables, and all that are added or stand side by side, N(0, spread²). Mult's later tables
        N(1, deviation²): a fresh quotient leaves its remainder about as it is, so that the remainder learns as a table
        that stands alone, and ids part from one another slowly. They are kept as deviations from one, and weight decay
        pulls them there. Path's functions pass a vector on at about its size (functions.py), and nothing pulls them.
    matched: as auto, but a composed vector spreads as a single table would: mult's tables N(0, spread^(2 / k)), around
        zero, where weight decay pulls them too; those of add N(0, spread² / k).
    reference: U(√(1 / m), 1) for tables that are multiplied, added or concatenated, as the published QREmbeddingBag has
        it; U(-√(1 / m), √(1 / m)) for tables that stand alone, are features of their own, or begin a path, as DLRM has
        it.
    spread, deviation: standard deviations.
    """

    kind: Literal["auto", "matched", "reference"] = "auto"
    spread: float = 1e-4
    deviation: float = 0.1

    def centre(self, combine: pb.Combine) -> float:
        """What later tables are kept as deviations from."""
        return 1.0 if combine == pb.MULT and self.kind == "auto" else 0.0


AUTO = Init()


def draw(table: Tensor, field: pb.Field, number: int, init: Init, generator: torch.Generator) -> None:
    """Draw a field's table of that number, (m, width) float32 in place, as it is kept."""
    k = len(field.tables)
    if field.combine == pb.PATH and number:
        draw_functions(table, field.dim, field.hidden, init.deviation, generator)
    elif init.kind == "reference":
        bound = math.sqrt(1 / len(table))
        joined = field.combine in (pb.MULT, pb.ADD, pb.CONCAT)
        table.uniform_(bound if joined else -bound, 1.0 if joined else bound, generator=generator)
    elif field.combine == pb.MULT:
        later = init.deviation if number else init.spread
        table.normal_(0.0, later if init.kind == "auto" else init.spread ** (1 / k), generator=generator)
    else:
        parts = k if field.combine == pb.ADD and init.kind == "matched" else 1
        table.normal_(0.0, init.spread / math.sqrt(parts), generator=generator)
