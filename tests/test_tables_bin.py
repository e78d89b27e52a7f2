"""`tables.bin`: its constants never overlap, and a plan says to the byte how large the file is that export writes."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import every_kind
import numpy as np
import onnx
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st
from quorem.export.bundle import export, prove_bundle
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos import tables_bin
from quorem.protos.low_bits import BITS
from quorem.serve.model import Model
from quorem.serve.survey import survey

FLOATS = 0


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 20_000)), st.randoms())
def test_constants_stand_apart_on_their_lines_in_any_order(sizes: dict[str, int], draw: Random) -> None:
    offsets, end = tables_bin.lay_out(sizes), 0
    assert offsets.keys() == sizes.keys()
    for name, offset in offsets.items():
        assert offset == end, "no more is lost than lines need"
        line = 64 if sizes[name] >= 4096 else 16
        assert offset % line == 0
        end = offset + -(-sizes[name] // line) * line
        assert end == offset + tables_bin.padded(sizes[name])
    parts = tables_bin.part_bytes(("tables", size) for size in sizes.values())
    assert sum(parts.values()) == end
    names = list(sizes)
    draw.shuffle(names)
    moved = tables_bin.lay_out({name: sizes[name] for name in names})
    assert max((moved[name] + tables_bin.padded(sizes[name]) for name in names), default=0) == end


def test_a_file_counted_by_hand() -> None:
    assert tables_bin.lay_out({"a": 1, "b": 4097, "c": 4095, "d": 4096}) == {"b": 0, "d": 4160, "a": 8256, "c": 8272}
    schema = pb.Schema(features=[runs.categorical("user", "hash", 100), runs.categorical("item", "vocabulary", 3)])
    fields = [
        runs.field(schema.features[0], "qr", pb.MULT, 5, 25, bits=3),  # 25 + 4 rows
        runs.field(schema.features[1], "full", pb.ALONE, 5, bits=3),  # 4 rows, beside the first ones
    ]
    made = runs.model(schema.features, fields, "deepfm").plan
    packed, scales = [(25 + 4) * 3, (4 + 1) * 3], 2 * 20 + 2 * 20  # a row, and scales, of what takes no part
    assert tables_bin.plan_bytes(schema, made) == {
        "tables": sum(packed) + scales,
        "first_order": (25 + 4) * 4 + (4 + 1) * 4,
        "vocabularies": 33 * 4 + 3 * 8,
        "alignment": (96 - 87) + (16 - 15) + 2 * (48 - 40) + (128 - 116) + (32 - 20) + (144 - 132) + (32 - 24),
    }


def written(tmp_path: Path, manifest: pb.Manifest) -> None:
    """Export a run of a manifest, and compare its file and its parts with what the plan says."""
    runs.make_run(tmp_path / "run", manifest, np.random.default_rng(0), 20)
    compare(tmp_path, manifest)


def compare(tmp_path: Path, manifest: pb.Manifest) -> None:
    """The file and its parts, as the manifest has them and as the plan says."""
    bundle = export(tmp_path / "run", tmp_path / "ctr")
    told = tables_bin.plan_bytes(manifest.schema, manifest.plan)
    assert {part.name: part.bytes for part in manifests.read(bundle).export.parts} == told
    assert sum(told.values()) == (bundle / "tables.bin").stat().st_size


SCHEMES = ("full", "hash", "qr", "mixed_radix", "chinese_remainder", "semantic", "completed")
COMBINES = (pb.MULT, pb.ADD, pb.CONCAT, pb.PATH, pb.FEATURE)


def mixed(bits: Sequence[int], combine: pb.Combine, model: str, rows: int) -> pb.Manifest:
    """Fields of all schemes, joined alike where they have several tables, of dims and bits in turn."""
    features, fields = list[pb.Feature](), list[pb.Field]()
    for k, scheme in enumerate(SCHEMES):
        encoding = ("hash", "vocabulary", "id")[k % 3]
        features.append(runs.categorical(scheme, encoding, rows + 3 * k, bag=2 if scheme == "mixed_radix" else 0))
        joined = pb.ALONE if scheme in ("full", "hash") else combine
        few = bits[k % len(bits)]
        fields.append(runs.field(features[-1], scheme, joined, (5, 6, 8)[k % 3], bits=few))
    features.append(runs.categorical("beside", "bucket", 4))
    fields.append(runs.field(features[-1], "full", pb.ALONE, 5, bits=bits[0]))
    return runs.model(features, fields, model)


@pytest.mark.parametrize("bits", [FLOATS, *BITS])
@pytest.mark.parametrize("combine", COMBINES)
def test_the_plan_says_what_export_writes(tmp_path: Path, combine: pb.Combine, bits: int) -> None:
    rows = 30 if bits % 2 else 400  # constants below 4096 bytes and above
    written(tmp_path, mixed([bits], combine, "deepfm" if bits % 4 else "wide_deep", rows))


@pytest.mark.parametrize("combine", COMBINES)
def test_of_many_bits_in_one_plan(tmp_path: Path, combine: pb.Combine) -> None:
    written(tmp_path, mixed([4, FLOATS, 1, 8, 3, 2], combine, "dcnv2" if combine == pb.ADD else "wide", 60))


def test_of_functions_with_a_hidden_layer(tmp_path: Path) -> None:
    features = [runs.categorical(name, "hash", 40 + k) for k, name in enumerate("abc")]
    fields = [runs.field(one, "qr", pb.PATH, 4, hidden=3, bits=4 * (one.name == "c")) for one in features]
    written(tmp_path, runs.model(features, fields, "deepfm"))


def test_of_reserves_and_empty_vocabularies(tmp_path: Path) -> None:
    """Ids that are held free have rows, but no values."""
    features = [runs.categorical(name, "vocabulary", size) for name, size in (("a", 0), ("b", 9), ("c", 700))]
    features[1].vocabulary.reserve = 30
    written(tmp_path, runs.model(features, [runs.field(one, "full", pb.ALONE, 3) for one in features], "deepfm"))


def test_files_of_pages_are_read_still(tmp_path: Path) -> None:
    """Bundles of earlier versions, each of whose constants begins on a page of its own."""
    written(tmp_path, mixed([4], pb.MULT, "deepfm", 60))
    bundle = tmp_path / "ctr" / "1"
    found, data, pages, starts = (
        manifests.read(bundle),
        (bundle / "tables.bin").read_bytes(),
        bytearray(),
        dict[int, int](),
    )
    for graph in found.export.graphs:
        model = onnx.load(str(bundle / graph.file), load_external_data=False)
        for each in model.graph.initializer:
            place = {entry.key: entry for entry in each.external_data}
            if place:
                old, length = int(place["offset"].value), int(place["length"].value)
                if old not in starts:
                    starts[old] = -(-len(pages) // 4096) * 4096
                    pages.extend(bytes(starts[old] - len(pages)) + data[old : old + length])
                place["offset"].value = str(starts[old])
        (bundle / graph.file).write_bytes(model.SerializeToString())
    (bundle / "tables.bin").write_bytes(pages)
    classes = found.export.class_arrays
    moved = starts[classes[0].offset] - classes[0].offset
    for each in classes:
        each.offset += moved
    found.export.parts[-1].bytes += len(pages) - len(data)
    names = [file.name for file in found.files]
    del found.files[:]
    found.files.extend(manifests.describe_files(bundle, names))
    manifests.write(bundle, found)
    prove_bundle(bundle)
    (served,) = survey(tmp_path).versions
    Model(served, "cpu").warm()


def test_of_every_kind_of_feature(tmp_path: Path) -> None:
    manifest = every_kind.model()
    found = runs.weights(manifest, rng := np.random.default_rng(0)) | every_kind.CLASSES
    runs.write(tmp_path / "run", manifest, found, runs.scored(manifest, found, rng, 20))
    compare(tmp_path, manifest)
    assert set(tables_bin.plan_bytes(manifest.schema, manifest.plan)) == set(tables_bin.PARTS)
