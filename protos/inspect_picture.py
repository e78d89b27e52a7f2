"""A picture of a graph: its stages as boxes, from raw values on the left to the logit on the right.

Lanes of boxes run from left to right; where several meet, a vertical line joins them, and what they feed goes on there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .inspect_field import Facts

LANES = (("ids", "lookup"), ("dense",))  # the stages that read slots and buckets, and those that read numbers
CONTEXT = "context."
BOX = 4  # lines
JOINTS = {"ud": "│", "dl": "┐", "ul": "┘", "udl": "┤", "lr": "─", "dlr": "┬", "ulr": "┴", "udlr": "┼"}
ASCII = str.maketrans("─│▶┌┐└┘├┤┬┴┼", "-|>+++++++++")


@dataclass(frozen=True)
class Lane:
    """What flows in, the boxes that it passes, and the line of the picture that it runs along."""

    label: str
    boxes: Sequence[Facts]
    line: int


class Canvas:
    """Characters by line and column."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []

    def put(self, line: int, column: int, text: str) -> int:
        """Write text; the column behind it."""
        while len(self.lines) <= line:
            self.lines.append([])
        row, end = self.lines[line], column + len(text)
        row.extend(" " * (end - len(row)))
        row[column:end] = text
        return end

    def box(self, line: int, column: int, stage: Facts) -> int:
        """Draw a stage whose middle is at a line, with an arrow into it; the column behind it."""
        column = self.put(line, column, "──▶")
        texts = (stage["name"], "1 node" if stage["nodes"] == 1 else f"{stage['nodes']:,} nodes")
        wide = max(map(len, texts))
        self.put(line - 1, column, f"┌{'─' * (wide + 2)}┐")
        self.put(line, column, f"│ {texts[0]:<{wide}} ├")
        self.put(line + 1, column, f"│ {texts[1]:<{wide}} │")
        return self.put(line + 2, column, f"└{'─' * (wide + 2)}┘")

    def join(self, column: int, ends: dict[int, int], onward: int) -> None:
        """Join lines that end at `ends` (line -> column) by a vertical one, from which the line `onward` goes on."""
        top, bottom = min(*ends, onward), max(*ends, onward)
        for line in range(top, bottom + 1):
            if line in ends:
                self.put(line, ends[line], "─" * (column - ends[line]))
            ways = zip("udlr", (line > top, line < bottom, line in ends, line == onward), strict=True)
            self.put(line, column, JOINTS["".join(way for way, goes in ways if goes)])


def draw(graph: Facts) -> list[str]:
    """The lines of a graph's picture; `graph` has the inputs and the stages that inspect_graphs.py tells."""
    canvas, line, ends, onward = Canvas(), 0, dict[int, int](), 0
    sides = [_side(graph, side) for side in graph["inputs"]]
    margin = max((len(label) for labels, _ in sides for label, _ in labels), default=0) + 1
    trunk: Sequence[Facts] = ()
    for facts, (labels, trunk) in zip(graph["inputs"], sides, strict=True):
        if facts["side"] != "row":
            canvas.put(line, 0, {"context": "once per request", "candidate": "per candidate"}[facts["side"]])
            line += 1
        lanes = [Lane(label, boxes, line + BOX * i + 1) for i, (label, boxes) in enumerate(labels)]
        line, onward = line + BOX * len(lanes), lanes[0].line
        reached = {lane.line: _run(canvas, lane, margin) for lane in lanes}
        if facts["side"] == "context" and trunk:
            reached = {onward: _meet(canvas, reached, onward, trunk)}
        ends |= reached
    canvas.put(onward, _meet(canvas, ends, onward, trunk), "──▶ logit, ctr")
    return ["".join(row).rstrip() for row in canvas.lines]


def _side(graph: Facts, inputs: Facts) -> tuple[list[tuple[str, list[Facts]]], list[Facts]]:
    """The lanes of one side's inputs with their boxes, and the boxes of what they feed."""
    ours = inputs["side"] == "context"
    stages = [each for each in graph["stages"] if inputs["side"] == "row" or each["name"].startswith(CONTEXT) == ours]
    short = [each["name"].removeprefix(CONTEXT if ours else "") for each in stages]
    named = {name: each | {"name": name} for name, each in zip(short, stages, strict=True)}
    counts = (("slots", "id", "ids"), ("buckets", "bucket", "buckets")), (("numbers", "number", "numbers"),)
    lanes = list[tuple[str, list[Facts]]]()
    for kinds, names in zip(counts, LANES, strict=True):
        told = [f"{inputs[key]:,} {one if inputs[key] == 1 else more}" for key, one, more in kinds if inputs[key]]
        boxes = [named.pop(name) for name in names if name in named]
        if told:
            lanes.append((", ".join(told), boxes))
    return lanes, list(named.values())


def _run(canvas: Canvas, lane: Lane, margin: int) -> int:
    """Draw a lane; the column behind it."""
    canvas.put(lane.line, 0, lane.label)
    column = margin
    for box in lane.boxes:
        column = canvas.box(lane.line, column, box)
    return column


def _meet(canvas: Canvas, ends: dict[int, int], onward: int, boxes: Sequence[Facts]) -> int:
    """Join lines right of all of them and draw the boxes that they feed; the column behind these."""
    column = max(ends.values()) + 1
    canvas.join(column, ends, onward)
    column += 1
    for box in boxes:
        column = canvas.box(onward, column, box)
    return column
