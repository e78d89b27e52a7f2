"""Classes: those of a bundle's semantic fields, found in tables.bin and proved."""

from pathlib import Path

import numpy as np

from . import manifest_pb2 as pb
from .collisions import Int32s
from .errors import Malformed
from .plan import CLASS_BYTES, check_classes, class_tables

AGAIN = "Export the run again, as a new version"


def check_stored(tables: Path, manifest: pb.Manifest) -> None:
    """Prove from the classes that stand in a bundle's tables.bin what its plan says of semantic fields.

    Raises:
        Malformed: the bundle does not say where each of them stands, or they leave the file.
        WrongClasses, NotComplementary: see plan.check_classes.
    """
    fields = [field for field in (*manifest.plan.fields, *manifest.plan.first_order) if class_tables(field)]
    wanted = {(field.feature, j): field.cardinality for field in fields for j in class_tables(field)}
    told = [(each.feature, each.table) for each in manifest.export.class_arrays]
    if len(told) != len(wanted) or set(told) != set(wanted):
        raise Malformed(
            "a bundle says once where the classes of each semantic table stand",
            found=f"{sorted(told)} for {sorted(wanted)}",
            where=str(tables),
            remedy=AGAIN,
        )
    size, arrays = tables.stat().st_size, dict[tuple[str, int], Int32s]()
    if sum(wanted.values()) * CLASS_BYTES > size:  # arrays that overlap would cost time without end
        raise Malformed(
            "tables.bin has room for the classes of every semantic table",
            found=f"{sum(wanted.values())} classes in {size} bytes",
            where=str(tables),
            remedy=AGAIN,
        )
    for each in manifest.export.class_arrays:
        count = wanted[each.feature, each.table]
        if each.offset + count * CLASS_BYTES > size:
            raise Malformed(
                "classes stand within tables.bin",
                found=f"{count} of them at byte {each.offset} of {size}",
                where=f"{tables}, feature {each.feature!r}, table {each.table}",
                remedy=AGAIN,
            )
        arrays[each.feature, each.table] = np.memmap(tables, "<i4", "r", each.offset, (count,))
    proved = list[pb.Field]()
    for field in fields:
        twin = next((each for each in proved if _alike(each, field)), None)
        if twin is not None:
            continue  # first-order tables share rows and classes with the others
        proved.append(field)
        given = {j: arrays[field.feature, j] for j in class_tables(field)}
        check_classes(field, given, f"{tables}, feature {field.feature!r}")


def _alike(one: pb.Field, other: pb.Field) -> bool:
    """Whether two fields have the same rows and say the same of them."""
    same = (one.feature, one.cardinality, one.collisions, one.complementary)
    return same == (other.feature, other.cardinality, other.collisions, other.complementary) and [
        (table.divide, table.rows, table.classes) for table in one.tables
    ] == [(table.divide, table.rows, table.classes) for table in other.tables]
