"""Laws of low bits: every code gives a value of its own and is found again, and what no code gives is refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorem.protos import low_bits
from quorem.protos.errors import OffGrid

Grid = tuple[np.ndarray, np.ndarray]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Scales and offsets of a few columns, to the ends of what is allowed."""
    dim = draw(st.integers(1, 9))
    scales = np.array([draw(st.floats(2.0**-126, 2.0**100, width=32)) for _ in range(dim)], np.float32)
    shares = [draw(st.floats(-(2.0**19), 2.0**19, width=32)) for _ in range(dim)]
    return scales, (scales * np.array(shares, np.float32)).astype(np.float32)


@pytest.mark.parametrize("bits", low_bits.BITS)
@given(grids())
def test_every_code_is_found_again(bits: int, grid: Grid) -> None:
    low_bits.check_grid(*grid, "here")
    codes = np.repeat(np.arange(2**bits, dtype=np.uint8)[:, None], len(grid[0]), axis=1)
    values = low_bits.decode(codes, *grid)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert (low_bits.encode(values, *grid, bits, "here") == codes).all()


@pytest.mark.parametrize("bits", low_bits.BITS)
@given(grids(), st.data())
def test_neighbours_of_a_value_are_refused(bits: int, grid: Grid, data: st.DataObject) -> None:
    codes = np.array([[data.draw(st.integers(0, 2**bits - 1)) for _ in grid[0]]], np.uint8)
    values = low_bits.decode(codes, *grid)
    column = data.draw(st.integers(0, len(grid[0]) - 1))
    values[0, column] = np.nextafter(values[0, column], np.float32(data.draw(st.sampled_from([-np.inf, np.inf]))))
    with pytest.raises(OffGrid, match=f"column {column}"):
        low_bits.encode(values, *grid, bits, "here")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1, 16, -0.0])
def test_values_beyond_the_grid_are_refused(value: float) -> None:
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    low_bits.encode(np.float32([[15]]), one, zero, 4, "here")
    with pytest.raises(OffGrid):
        low_bits.encode(np.float32([[value]]), one, zero, 4, "here")


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(0, 0), (-1, 0), (np.nan, 0), (np.inf, 0), (2.0**101, 0), (2.0**-127, 0), (1, np.nan), (1, -np.inf), (1, 2.0**20)],
)
def test_grids_that_cannot_be_are_refused(scale: float, offset: float) -> None:
    with pytest.raises(OffGrid, match="in column 1"):
        low_bits.check_grid(np.float32([1, scale, 1]), np.float32([0, offset, 0]), "here")


@pytest.mark.parametrize("bits", low_bits.BITS)
@given(grids())
def test_offsets_tell_their_centre(bits: int, grid: Grid) -> None:
    """Where scales are so large that one is lost beside them, either centre gives the same offsets."""
    scale, half = grid[0], np.float32(2.0 ** (bits - 1) - 0.5)
    zero, one = (low_bits.offsets(scale, bits, centre) for centre in (0, 1))
    assert (zero.dtype, one.dtype) == (np.float32, np.float32)
    assert zero.tolist() == [-(each * half) for each in scale]
    assert one.tolist() == [np.float32(1) - each * half for each in scale]
    assert low_bits.centre_of(scale, zero, bits, "here") == 0
    assert low_bits.centre_of(scale, one, bits, "here") == float((zero != one).any())


@pytest.mark.parametrize("offset", [-1.8750001, 0, 0.125, -0.875, np.nan])
def test_other_centres_are_refused(offset: float) -> None:
    """The first column's is 0; the other's is none, or 1."""
    scale = np.float32([1, 0.25])
    assert low_bits.centre_of(scale, np.float32([-7.5, -1.875]), 4, "here") == 0
    with pytest.raises(OffGrid, match=r"0 or 1, less 7\.5 scales"):
        low_bits.centre_of(scale, np.float32([-7.5, offset]), 4, "here")


def test_a_row_takes_as_many_bytes_as_its_planes() -> None:
    for bits, dim in itertools.product(low_bits.BITS, range(1, 40)):
        planes = [[0] * dim * plane for plane in low_bits.PLANES[bits]]
        assert sum(low_bits.PLANES[bits]) == bits
        assert low_bits.stride(bits, dim) == sum(len(np.packbits(np.array(plane, bool))) for plane in planes)
