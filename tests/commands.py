"""Commands of quorem, run in the process of the tests, and a small recipe on made rows for them."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from quorem.command import main

RECIPE = """
[data]
source = "synthetic"
[data.synthetic]
rows = { train = 4000, valid = 1000, test = 1000 }
scale = 0.0005
dense = 3
bag = 3
[features]
"I1..I3" = { kind = "dense", transform = "standard" }
"C1..C6" = { kind = "categorical", encoding = "vocabulary", values = "integer", side = "context" }
C7 = { kind = "categorical", encoding = "hash", values = "integer", buckets = 500 }
B1 = { kind = "bag", encoding = "vocabulary", values = "integer", max_length = 2 }
[embedding]
scheme = "qr"
dim = 4
[model]
name = "deepfm"
mlp = [16]
dropout = 0.1
[train]
batch = 256
epochs = 3
l2 = 1e-4
"""


@dataclass(frozen=True)
class Done:
    """What a command said."""

    stdout: str
    stderr: str


def quorem(*arguments: str | Path, check: int = 0) -> Done:
    """Run the command in this process; its exit code must be `check`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    assert code == check, err.getvalue()
    return Done(out.getvalue(), err.getvalue())
