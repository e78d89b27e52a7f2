"""Shapes: what every design has in common."""

from collections.abc import Callable

from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor], None]  # ids (B, 26) int64, numbers (B, 13) float32, labels (B,) float32

BATCH, FIELDS, NUMBERS, DIM = 4096, 26, 13, 16
MLP = [400, 400, 400]  # DeepFM, over 26 vectors; no batch normalisation, no dropout
BOTTOM, TOP = [64], [512, 256]  # DLRM: 13-64-16 and 367-512-256-1
LR = 1e-3
