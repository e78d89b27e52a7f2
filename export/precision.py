"""Precision: how numbers are kept, named `fp16` or `int8+int8`, tables first; `auto` tries all on validation rows."""

from collections.abc import Iterator, Sequence
from itertools import product

from ..protos import manifest_pb2 as pb
from ..protos.errors import ArtifactError

AUTO = "auto"
TABLES = {"fp32": pb.FP32, "fp16": pb.FP16, "int8": pb.INT8}
DENSE = {"fp32": pb.FP32, "int8": pb.INT8}
MOST_AUC_LOSS = 1e-4


def parse(text: str) -> pb.Precision | None:
    """A precision from TABLES or TABLES+DENSE; None for `auto`.

    Raises:
        ArtifactError: no such precision.
    """
    if text == AUTO:
        return None
    tables, plus, dense = text.partition("+")
    dense = dense if plus else "fp32"
    if tables not in TABLES or dense not in DENSE:
        raise ArtifactError(
            f"a precision is {AUTO}, or that of tables ({', '.join(TABLES)}), or with that of dense layers behind a "
            f"plus ({', '.join(DENSE)})",
            found=repr(text),
            where="--precision",
            remedy="Name one, as in fp16 or int8+int8",
        )
    return pb.Precision(tables=TABLES[tables], dense=DENSE[dense])


def told(precision: pb.Precision) -> str:
    """A precision as `parse` reads it."""
    tables, dense = (pb.Number.Name(number).lower() for number in (precision.tables, precision.dense))
    return tables if precision.dense == pb.FP32 else f"{tables}+{dense}"


def every(*, dense: bool) -> Iterator[pb.Precision]:
    """All precisions, float32 first; with int8 layers only if there are any to be."""
    for layers, tables in product(DENSE.values() if dense else (pb.FP32,), TABLES.values()):
        yield pb.Precision(tables=tables, dense=layers)


def by_size(candidates: Sequence[pb.Candidate], most_auc_loss: float) -> list[pb.Precision]:
    """The precisions whose AUC is at most so much below that of float32, the first candidate; fewest bytes first."""
    least = candidates[0].auc - most_auc_loss
    kept = [each for each in candidates if each.auc >= least]
    return [each.precision for each in sorted(kept, key=lambda each: each.bytes)]
