"""Tensors of a run: whole, or some rows of them, through a map of the file."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from quorem.export.tensors import open_tensors
from safetensors.numpy import save_file


def test_rows_of_a_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    held = {
        "a": rng.random((1000, 7), np.float32),
        "classes": rng.integers(0, 9, 77).astype(np.int32),
        "values": rng.integers(-(2**63), 2**63 - 1, 5),
        "none": np.zeros((0, 3), np.float32),
    }
    save_file(held, tmp_path / "weights.safetensors", {"made": "here"})
    with open_tensors(tmp_path / "weights.safetensors") as tensors:
        for (name, array), count in itertools.product(held.items(), (0, 1, 20)):
            rows = rng.integers(0, len(array), count if len(array) else 0)
            found = tensors.rows(name, rows)
            assert found.dtype == array.dtype
            assert np.array_equal(found, array[rows])
            assert type(found) is np.ndarray
        with pytest.raises(IndexError):
            tensors.rows("a", np.array([1000]))
