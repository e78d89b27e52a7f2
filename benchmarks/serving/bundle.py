"""The bundle that serving is measured on: a DLRM over Criteo's cardinalities at four collisions."""

import shutil
from pathlib import Path

from ..graphs import rank

PRECISIONS = {"fp32": "fp32", "int8": "int8 layers"}


def build(work: Path, precision: str) -> Path:
    """The version's directory, its wide layers in a precision, built where there is none."""
    version = work / "models" / "ctr" / "1"
    if not version.is_dir():
        build, candidate_numbers, scale = rank.NETS["dlrm"]
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        rank.write_run(work / "run", build(), candidate_numbers, scale)
        rank.publish(work / "run", version.parent, precision=rank.PRECISIONS[PRECISIONS[precision]])
        shutil.rmtree(work / "run")
    return version
