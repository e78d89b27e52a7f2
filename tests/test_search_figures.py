"""The figures of a search: they show what the history says, with the same bytes each time, for any names and sizes."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread
from quorem.train.search.figures import draw_choice, draw_dims

FIVE = (2, 8, 16, 24, 32)
IMAGE = re.compile(r'<image xlink:href="data:image/png;base64,\s*([^"]+)"')
TEXT = re.compile(r"<!-- (.*?) -->", re.DOTALL)  # letters are drawn as paths, each text after a comment that says it


def record(step: int, probabilities: Mapping[str, Sequence[float]], **more: Any) -> dict[str, Any]:
    entropy = -sum(p * math.log(p) for each in probabilities.values() for p in each if p) / len(probabilities)
    parameters = 1000.0 * sum(p * place for each in probabilities.values() for place, p in enumerate(each, 1))
    facts = {"step": step, "tau": max(0.01, 1 - 0.001 * step), "entropy": entropy, "parameters": parameters}
    return {**facts, "train_loss": 0.5, "valid_loss": None, "probabilities": probabilities, **more}


def drift(candidates: Mapping[str, Sequence[int]], steps: Sequence[int]) -> list[dict[str, Any]]:
    """A search in which the k-th field comes to want the k-th of its candidates."""
    history = list[dict[str, Any]]()
    for step in steps:
        told = dict[str, list[float]]()
        for number, (name, dims) in enumerate(candidates.items()):
            weights = np.ones(len(dims))
            weights[number % len(dims)] += 4 * step / steps[-1]
            told[name] = (weights / weights.sum()).tolist()
        history.append(record(step, told))
    return history


def drawn(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """The images (rows, columns, 4) and the texts of a well-formed SVG."""
    text = path.read_text("utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    images = [imread(io.BytesIO(base64.b64decode(found))) for found in IMAGE.findall(text)]
    return images, TEXT.findall(text)


def test_a_heat_map_has_the_colours_of_the_probabilities_at_their_steps(tmp_path: Path) -> None:
    """Records need not be evenly spaced: each tells of the batches since the one before it."""
    early, late, end = [0.5, 0.25, 0.25], [0.0, 0.25, 0.75], [0.25, 0.25, 0.5]
    history = [record(100, {"a": early}), record(300, {"a": late}), record(400, {"a": end})]
    draw_choice(tmp_path, ["a"], {"a": (2, 4, 6)}, history)
    heat = drawn(tmp_path / "choice.svg")[0][0]
    assert heat.shape[0] == 3
    columns = heat.shape[1]
    for moment, told in ((0.1, early), (0.24, early), (0.26, late), (0.74, late), (0.76, end), (0.99, end)):
        expected = colormaps["Blues"](np.array(told) / 0.75)
        assert np.allclose(heat[:, int(moment * columns)], expected, atol=0.01), moment


SETS = {
    "ten": {f"field{number}": FIVE for number in range(10)},
    "many": {f"C{number}": FIVE for number in range(39)},
    "several": {"a": (1, 2), "b": FIVE, "c": tuple(range(1, 65)), "d": (3, 4)},
    "single": {"a": (2, 4)},
    "uneven": {f"C{number}": FIVE if number % 2 else (4, 8) for number in range(16)},
}


@pytest.mark.parametrize("name", SETS)
def test_every_field_has_its_panel_and_its_winner_is_told(tmp_path: Path, name: str) -> None:
    candidates = SETS[name]
    history = drift(candidates, list(range(10, 501, 10)))
    draw_choice(tmp_path, list(candidates), candidates, history)
    first = (tmp_path / "choice.svg").read_bytes()
    images, texts = drawn(tmp_path / "choice.svg")
    assert [image.shape[0] for image in images[:-1]] == [len(dims) for dims in candidates.values()]  # the last: the key
    for number, (field, dims) in enumerate(candidates.items()):
        place = texts.index(field)
        won = number % len(dims)
        assert texts[place + 1] == str(dims[won])
        assert texts[place + 2] == f"{history[-1]['probabilities'][field][won]:.0%}"
    assert {"temperature", "batches of training", "probability of a dim"} <= set(texts)
    assert len(first) < 500_000
    draw_choice(tmp_path, list(candidates), candidates, history)
    assert (tmp_path / "choice.svg").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["choice.svg"]


def test_one_record_is_a_history(tmp_path: Path) -> None:
    draw_choice(tmp_path, ["a"], {"a": (2, 4)}, [record(1, {"a": [0.5, 0.5]}, tau=1.0)])
    assert drawn(tmp_path / "choice.svg")[0][0].shape[0] == 2


def test_dims_are_told_with_the_ids_of_the_field(tmp_path: Path) -> None:
    fields = ["user", "item", "hour"]
    counts, dims = {"user": 5_123_456, "item": 2, "hour": 24}, {"user": 32, "item": 3, "hour": 7}
    draw_dims(tmp_path, fields, counts, dims, {"user": FIVE, "item": (3, 4)})
    first = (tmp_path / "dims.svg").read_bytes()
    texts = drawn(tmp_path / "dims.svg")[1]
    assert {"user", "item", "hour", "32", "3", "7", "5,123,456", "2", "24"} <= set(texts)
    draw_dims(tmp_path, fields, counts, dims, {"user": FIVE, "item": (3, 4)})
    assert (tmp_path / "dims.svg").read_bytes() == first
    draw_dims(tmp_path, fields, counts, dims, {})  # as the mixed method has it


def test_any_name_of_a_feature_can_be_drawn(tmp_path: Path) -> None:
    names = ["$x_1$ and $", "ユーザー", "a<b&c>--d", "n" * 128, r"back\slash {", "_"]
    candidates = dict.fromkeys(names, (2, 4))
    draw_choice(tmp_path, names, candidates, drift(candidates, [1, 2, 3]))
    draw_dims(tmp_path, names, dict.fromkeys(names, 9), dict.fromkeys(names, 4), candidates)
    for figure in ("choice.svg", "dims.svg"):
        assert "n" * 23 + "…" in drawn(tmp_path / figure)[1]
