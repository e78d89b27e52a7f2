"""`python -m benchmarks.budget.rounded RUN BITS`: a finished run's metrics, its tables rounded to so few bits after it.

Each column of a field's table stands on 2^bits levels, as many below zero as above it, whose distance is that of the
least squared error over the table's rows: what `tables.bin` of a plan with these bits holds, so its bytes are counted
as theirs. Nothing is trained after it.
Legend: R rows; D columns.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from quorem.protos import low_bits, manifest_pb2
from quorem.protos.tables_bin import plan_bytes
from quorem.train.loop import evaluate_rows
from quorem.train.model import Model
from quorem.train.origin import RECIPE, read_finished
from quorem.train.prepare import prepare
from quorem.train.recipe_file import read_recipe
from quorem.train.yesterday import with_weights

SHARES = np.linspace(0.02, 1.0, 99)  # of a column's greatest value, at which its last level is tried
REFITS = 3  # of the distance of levels to the values that went to each
Floats = npt.NDArray[np.float32]


def main() -> None:
    """Round, score, print JSON."""
    run, bits = Path(sys.argv[1]), int(sys.argv[2])
    found = with_weights(read_finished(run))
    manifest, weights = found.manifest, dict(found.weights)
    for field in manifest.plan.fields:
        for number, table in enumerate(field.tables):
            if table.classes or field.combine != manifest_pb2.ALONE:
                raise SystemExit(f"full tables are rounded; field {field.feature!r} of {run} has others")
            name = f"embedding.{field.feature}.{number}"
            weights[name] = torch.from_numpy(rounded(weights[name].numpy(), bits))
    recipe, base = read_recipe(str(run / RECIPE))
    prepared = prepare(recipe, base)
    model = Model(manifest.schema, manifest.plan, manifest.net, {})
    replace(found, weights=weights).hand_over(model, 1.0)
    plan = manifest_pb2.Plan()
    plan.CopyFrom(manifest.plan)
    for field in plan.fields:
        for table in field.tables:
            table.bits = bits
    told = {
        "run": str(run),
        "bits": bits,
        "bytes": sum(plan_bytes(manifest.schema, plan).values()),
        "valid": evaluate_rows(model, prepared.valid),
        "test": evaluate_rows(model, prepared.heldout),
    }
    print(json.dumps(told))


def rounded(table: Floats, bits: int) -> Floats:
    """A table [R, D] on its levels, in float32 as a graph has them."""
    half, values = low_bits.half(bits), table.astype(np.float64)
    greatest = np.maximum(np.abs(values).max(0), low_bits.LEAST)
    best, least = greatest / half, np.full(table.shape[1], np.inf)
    for share in SHARES:
        scale = share * greatest / half
        for _ in range(REFITS):
            levels = np.clip(np.rint(values / scale + half), 0, 2 * half) - half
            scale = np.maximum((values * levels).sum(0) / (levels * levels).sum(0), low_bits.LEAST)
        levels = np.clip(np.rint(values / scale + half), 0, 2 * half) - half
        error = ((levels * scale - values) ** 2).sum(0)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    scale = best.astype(np.float32)
    codes = np.clip(np.rint(table / scale + half), 0, 2 * half).astype(np.uint8)
    return low_bits.decode(codes, scale, low_bits.offsets(scale, bits, 0.0))


if __name__ == "__main__":
    main()
