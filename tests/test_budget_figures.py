"""The figures of a budget search: what they tell, with the same bytes each time, for any names."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import searched
from quorem.protos import manifest_pb2 as pb
from quorem.train.budget.figures import draw_map, draw_pareto

TEXT = re.compile(r"<!-- (.*?) -->", re.DOTALL)  # letters are drawn as paths, each text after a comment that says it


def drawn(path: Path) -> tuple[ET.Element, list[str]]:
    """A well-formed SVG and its texts."""
    text = path.read_text("utf-8")
    tree = ET.fromstring(text)
    assert tree.tag.endswith("svg")
    return tree, TEXT.findall(text)


def height_of(path: Path, colour: str) -> list[float]:
    """The heights of the filled shapes of a colour, as they stand, in points."""
    heights = list[float]()
    for shape in re.findall(rf'<path d="([^"]*)"[^>]*style="fill: {colour}', path.read_text("utf-8")):
        ys = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", shape)]
        heights.append(max(ys) - min(ys))
    return heights


def test_a_map_tells_the_tables_and_the_bytes_of_each_field(tmp_path: Path) -> None:
    made = searched.make_plan(bits=searched.BITS)
    search = searched.make_budget(made)
    draw_map(tmp_path, made, search)
    first, (_, texts) = (tmp_path / "map.svg").read_bytes(), drawn(tmp_path / "map.svg")
    assert {"10x: 9,536 of 9,552 bytes", "user", "4 x 4 bit", "25+4 rows", "206  2.2%"} <= set(texts)
    assert {"ad", "4 x 8 bit", "1,000 rows", "8,016  84.1%", "zone", "4 x 32 bit", "3+3+3 rows"} <= set(texts)
    assert {"full", "hashed", "quotient remainder", "semantic", "chinese remainder", "mixed radix"} <= set(texts)
    draw_map(tmp_path, made, search)
    assert (tmp_path / "map.svg").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["map.svg"]


def test_a_vector_is_as_tall_as_its_bits(tmp_path: Path) -> None:
    made = searched.make_plan(bits=searched.BITS)
    draw_map(tmp_path, made, searched.make_budget(made))
    gray = height_of(tmp_path / "map.svg", "#7f7f7f")  # ad is hashed: its vector, its bytes and the key
    blue = height_of(tmp_path / "map.svg", "#1f77b4")  # price is full
    assert len(gray) == len(blue) == 3
    assert abs(gray[0] / blue[0] - 8) < 0.01


def test_budgets_are_told_against_their_bytes(tmp_path: Path) -> None:
    found = [
        pb.Search(budget=pb.Budget(asked=asked, taken=taken), valid_metrics={"auc": auc, "logloss": 1 - auc})
        for asked, taken, auc in (("4x", 50_000, 0.75), ("20KB", 20_000, 0.74), ("50x", 4_000, 0.7))
    ]
    draw_pareto(tmp_path, found)
    first, (_, texts) = (tmp_path / "pareto.svg").read_bytes(), drawn(tmp_path / "pareto.svg")
    assert [text for text in texts if text in ("4x", "20KB", "50x")] == 2 * ["4x", "20KB", "50x"]
    assert {"bytes of tables.bin", "validation AUC", "validation logloss"} <= set(texts)
    draw_pareto(tmp_path, found)
    assert (tmp_path / "pareto.svg").read_bytes() == first


def test_any_name_of_a_feature_can_be_drawn(tmp_path: Path) -> None:
    made = searched.make_plan(bits=searched.BITS)
    search = searched.make_budget(made)
    strange = ["$x_1$ and $", "ユーザー", "a<b&c>--d", "n" * 128, r"back\slash {", "_", "^"]
    names = dict(zip(searched.DIMS, strange, strict=True))
    for part in (made.fields, made.first_order, search.choices):
        for each in part:
            each.feature = names[each.feature]
    for feature in search.schema.features:
        feature.name = names.get(feature.name, feature.name)
    draw_map(tmp_path, made, search)
    assert "n" * 23 + "…" in drawn(tmp_path / "map.svg")[1]
