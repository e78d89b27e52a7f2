"""Low bits: tables whose values stand on a grid of 2^bits levels a column, and are kept as packed codes.

A value is code * scale + offset in float32, the product and then the sum rounded, with a code in [0, 2^bits), and a
scale and an offset for each column of a table. As many levels lie on one side of a table's centre, 0 or 1, as on the
other. Runs keep values, scales and offsets; bundles keep codes and scales, of which a graph makes the offsets.
Legend: R rows; D columns.
"""

import numpy as np
import numpy.typing as npt

from .errors import OffGrid

PLANES = {8: (8,), 4: (4,), 3: (2, 1), 2: (2,), 1: (1,)}  # bits -> those of each plane of a packed row, lowest first
BITS = tuple(PLANES)
GRID_BYTES = 4  # of a column's scale
CENTRES = (0.0, 1.0)
LEAST, GREATEST = 2.0**-126, 2.0**100  # of scales: no number of a grid loses bits to its size, or overflows,
FINEST = 2.0**-19  # and none loses more to its offset's, of which the scale is such a share, than would hide its code
Floats = npt.NDArray[np.float32]


def stride(bits: int, dim: int) -> int:
    """Bytes of a packed row: the planes one after the other, each filled up to whole bytes."""
    return sum(-(-dim * plane // 8) for plane in PLANES[bits])


def scale_name(feature: str, table: int) -> str:
    """The tensor of the scales of a field's table, float32 [D]."""
    return f"scale.{feature}.{table}"


def offset_name(feature: str, table: int) -> str:
    """The tensor of the offsets of a field's table, float32 [D]."""
    return f"offset.{feature}.{table}"


def offsets(scale: Floats, bits: int, centre: float) -> Floats:
    """The offsets [D] of a table around a centre: the product is rounded, then the difference."""
    return np.float32(centre) - scale * np.float32(half(bits))


def half(bits: int) -> float:
    """How many scales the lowest level lies below the centre."""
    return (2**bits - 1) / 2


def centre_of(scale: Floats, offset: Floats, bits: int, where: str) -> float:
    """The centre whose offsets [D] these are, bit for bit.

    Raises:
        OffGrid: none has them.
    """
    for centre in CENTRES:
        if (offsets(scale, bits, centre).view(np.uint32) == offset.view(np.uint32)).all():
            return centre
    raise OffGrid(
        f"offsets of a table of {bits} bits are its centre, 0 or 1, less {half(bits):g} scales",
        found=f"scales {scale.tolist()[:4]}, offsets {offset.tolist()[:4]} in the first columns",
        where=where,
        remedy="Train the model again",
    )


def decode(codes: npt.NDArray[np.uint8], scale: Floats, offset: Floats) -> Floats:
    """Codes [R, D] as values [R, D]."""
    return codes.astype(np.float32) * scale + offset


def check_grid(scale: Floats, offset: Floats, where: str) -> None:
    """Refuse scales and offsets [D] whose levels float32 does not tell apart.

    Raises:
        OffGrid.
    """
    fit = np.isfinite(offset) & (scale >= np.maximum(LEAST, np.abs(offset) * FINEST)) & (scale <= GREATEST)
    if not fit.all():
        column = int(fit.argmin())
        raise OffGrid(
            "a scale is from 2^-126 to 2^100, and at least 2^-19 of its offset",
            found=f"scale {scale[column]}, offset {offset[column]} in column {column}",
            where=where,
            remedy="Train the model again",
        )


def encode(values: Floats, scale: Floats, offset: Floats, bits: int, where: str) -> npt.NDArray[np.uint8]:
    """The codes [R, D] of values [R, D] that stand on a grid that `check_grid` has passed.

    Raises:
        OffGrid: a value that no code gives, bit for bit.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are refused
        levels = np.clip(np.rint((values - offset) / scale), 0, 2**bits - 1)
        codes = np.where(np.isnan(levels), 0, levels).astype(np.uint8)
    wrong = decode(codes, scale, offset).view(np.uint32) != values.view(np.uint32)
    if wrong.any():
        row, column = (int(each) for each in np.argwhere(wrong)[0])
        raise OffGrid(
            f"a value of a table of {bits} bits is code * scale + offset, with a code below {2**bits}",
            found=f"{values[row, column]} for scale {scale[column]} and offset {offset[column]} in column {column}",
            where=where,
            remedy="Train the model again",
        )
    return codes
