"""Codes of tables: what a kept row may be wrong by, which code is chosen, graphs that decode the bytes of the file."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import runs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from quorem.export import tables, tensors
from quorem.export.codes import HALF_ERROR, INT8_ERROR, Codes, Kept, choose
from quorem.export.graph import Graph, Store, value_info
from quorem.export.grids import pack
from quorem.export.lookup import _join
from quorem.export.rows import Partition, classes_of, partitions
from quorem.protos import low_bits, packing, plan
from quorem.protos import manifest_pb2 as pb
from quorem.protos.low_bits import BITS
from safetensors.numpy import save_file

CODES = {"half": pb.HALF, "field": pb.FIELD_SCALE, "row": pb.ROW_SCALE}
FEW_BITS = "few bits"
finite = st.floats(-(2.0**100), 2.0**100, width=32)
matrices = arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=finite)


def exactly(rows: runs.Array) -> runs.Array:
    return rows.astype(np.float64)


@given(matrices)
def test_one_scale_is_wrong_by_half_of_itself(rows: runs.Array) -> None:
    kept = Kept(pb.FIELD_SCALE, {"a": max(float(np.abs(rows).max() / np.float32(127)), 2.0**-126)})
    codes = kept.encode("a", rows)
    assert (codes.dtype, codes.shape, kept.width(rows.shape[1])) == (np.int8, rows.shape, rows.shape[1])
    assert codes.min() >= -127
    wrong = np.abs(exactly(kept.decode("a", codes)) - rows)
    assert (wrong <= kept.scales["a"] * 0.50001).all()
    assert (kept.decode("a", codes)[rows == 0] == 0).all()
    assert (kept.encode("a", -rows) == -codes).all()


@given(matrices)
def test_a_scale_a_row_is_the_least_that_clips_nothing(rows: runs.Array) -> None:
    greatest = max(float(np.abs(rows).max() / np.float32(127)), 2.0**-126)
    kept = Kept(pb.ROW_SCALE, greatest=greatest)
    codes = kept.encode("a", rows)
    assert (codes.dtype, codes.shape) == (np.int8, (len(rows), kept.width(rows.shape[1])))
    assert kept.width(rows.shape[1]) == rows.shape[1] + 1
    steps = codes[:, -1].view(np.uint8).astype(int)
    assert steps.max() <= 254, "the last scale is the neutral row's"
    wanted = np.abs(rows).max(axis=1) / np.float32(127)
    assert (kept.ladder[steps] >= wanted).all()
    assert ((steps == 254) | (kept.ladder[np.minimum(steps + 1, 254)] < wanted) | (greatest < 1e-30)).all()
    wrong = np.abs(exactly(kept.decode("a", codes)) - rows)
    assert (wrong <= kept.ladder[steps, None] * 0.50001).all()
    assert (kept.decode("a", codes)[rows == 0] == 0).all()


@given(arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(-65504, 65504, width=32)))
def test_halves_are_wrong_by_their_last_bit(numbers: runs.Array) -> None:
    kept = Kept(pb.HALF)
    codes = kept.encode("a", numbers[:, None])
    assert codes.dtype == np.float16
    wrong = np.abs(exactly(kept.decode("a", codes))[:, 0] - numbers)
    assert (wrong <= np.maximum(np.abs(exactly(numbers)) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.parametrize("code", [pb.HALF, pb.FIELD_SCALE, pb.ROW_SCALE])
@pytest.mark.parametrize("ones", [True, False])
def test_neutral_rows_are_exact(code: pb.Code, ones: bool) -> None:
    kept = Kept(code, {"a": 1.0}, greatest=0.37)
    row = kept.neutral(3, ones=ones)
    assert (row.dtype, row.shape) == (kept.dtype, (1, kept.width(3)))
    assert kept.decode("a", row).tolist() == [[float(ones)] * 3]


def test_scales_of_rows_fall_by_a_sixteenth_of_an_octave() -> None:
    found = Kept(pb.ROW_SCALE, greatest=0.75).ladder
    assert found.dtype == np.float32
    assert (len(found), found[0], found[255]) == (256, 0.75, 1)
    np.testing.assert_allclose(found[:255], 0.75 * 2 ** (-np.arange(255) / 16), rtol=1e-7)


# ---------------------------------------------------------------- the choice


def chosen(directory: Path, number: pb.Number, fields: Sequence[pb.Field], weights: Mapping[str, runs.Array]) -> Codes:
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, directory / "weights.safetensors")
    with tensors.open_tensors(directory / "weights.safetensors") as opened:
        return choose(number, {"embedding": packing.pack(fields)}, opened)


def full(name: str, rows: int, dim: int) -> pb.Field:
    return pb.Field(feature=name, cardinality=rows, combine=pb.ALONE, dim=dim, tables=[pb.Table(rows=rows, dim=dim)])


def drawn(kind: str, rows: int, dim: int) -> runs.Array:
    rng = np.random.default_rng(len(kind) + rows)
    found = rng.normal(size=(rows, dim)) * 0.05
    if kind == "heavy":  # most rows are far below the few greatest
        found *= np.exp(rng.normal(size=(rows, 1)) * 2)
    elif kind != "normal":
        at = {"large": 65520, "tiny": None, "infinite": np.inf, "none": np.nan}[kind]
        found = found * 1e-7 if at is None else np.where(np.arange(rows)[:, None] == rows - 1, at, found)
    return found.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "dim", "number", "code"),
    [
        ("normal", 8, pb.FP32, 0),
        ("normal", 8, pb.FP16, pb.HALF),
        ("normal", 8, pb.INT8, pb.FIELD_SCALE),
        ("normal", 1, pb.INT8, pb.FIELD_SCALE),
        ("heavy", 8, pb.FP16, pb.HALF),
        ("heavy", 8, pb.INT8, pb.ROW_SCALE),
        ("heavy", 2, pb.INT8, pb.ROW_SCALE),
        ("heavy", 1, pb.INT8, pb.HALF),  # two bytes a row either way
        ("large", 8, pb.FP16, 0),
        ("tiny", 8, pb.FP16, 0),
        ("tiny", 8, pb.INT8, pb.FIELD_SCALE),
        *((kind, 8, number, 0) for kind in ("infinite", "none") for number in (pb.FP16, pb.INT8)),
    ],
)
def test_the_code_of_fewest_bytes_within_its_error(
    tmp_path: Path, kind: str, dim: int, number: pb.Number, code: pb.Code
) -> None:
    """One bad table among good ones decides for the packed table."""
    fields = [full(name, 4000, dim) for name in "abc"]
    weights = {f"embedding.{name}.0": drawn("normal" if name != "b" else kind, 4000, dim) for name in "abc"}
    codes = chosen(tmp_path, number, fields, weights)
    assert codes.of("embedding.0", 0).code == code
    assert [each.tensor for each in codes.tables] == (list(weights) if code else [])
    kept = codes.of("embedding.0", 0)
    for each in codes.tables:
        rows, feature = weights[each.tensor], each.tensor.split(".")[1]
        wrong = exactly(kept.decode(feature, kept.encode(feature, rows))) - rows
        assert each.code == code
        assert each.error == pytest.approx(np.sqrt(np.square(wrong).sum() / np.square(exactly(rows)).sum()), rel=6e-3)
        assert 0 < each.error <= (HALF_ERROR if code == pb.HALF else INT8_ERROR)


def test_functions_stay_float32_and_zeros_are_kept_exactly(tmp_path: Path) -> None:
    path = runs.field(runs.categorical("walk", "hash", 12), "qr", pb.PATH, 4)
    weights = {f"embedding.walk.{j}": drawn("normal", each.rows, each.dim) for j, each in enumerate(path.tables)}
    weights["embedding.zero.0"] = np.zeros((9, 4), np.float32)
    for number in (pb.FP16, pb.INT8):
        codes = chosen(tmp_path, number, [path, full("zero", 9, 4)], weights)
        assert [(each.tensor, each.error) for each in codes.tables] == [("embedding.zero.0", 0)]


def test_stretches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"embedding.a.0": drawn("heavy", 999, 8), "embedding.b.0": drawn("none", 999, 8)}
    fields = [full("a", 999, 8)]
    whole = chosen(tmp_path, pb.INT8, fields, weights)
    monkeypatch.setattr(tensors, "STRETCH_BYTES", 7 * 32)
    assert chosen(tmp_path, pb.INT8, fields, weights) == whole
    assert not chosen(tmp_path, pb.INT8, [full("b", 999, 8)], weights).tables, "one number that is none, in any stretch"


# ---------------------------------------------------------------- graphs

SCHEMES = ("qr", "mixed_radix", "chinese_remainder", "semantic", "completed")
COMBINES = {"mult": pb.MULT, "add": pb.ADD, "concat": pb.CONCAT, "feature": pb.FEATURE}


class Lookup:
    """A group's tables on disk, and graphs of its vectors: rows.<j> int64 [B, columns] -> vectors [B, columns, D]."""

    def __init__(self, directory: Path, fields: Sequence[pb.Field], kind: str, sides: Sequence[Sequence[int]]) -> None:
        self.fields, self.directory = packing.pack(fields), directory
        (group,) = packing.groups(self.fields)
        self.weights, rng = dict[str, runs.Array](), np.random.default_rng(len(directory.name))
        for each in self.fields:
            for j, table in enumerate(each.tables):
                few = runs.few_bits(each.feature, j, table, rng) if kind == FEW_BITS else None
                self.weights |= few or {f"embedding.{each.feature}.{j}": drawn("normal", table.rows, table.dim)}
        save_file(self.weights, directory / "weights.safetensors")
        self.code = CODES.get(kind, pb.COLUMN_SCALE)
        self.columns = [
            [f.feature for f, n in zip(self.fields, counts, strict=True) for _ in range(n)] for counts in sides
        ]
        store, self.sessions = Store(), list[onnxruntime.InferenceSession]()
        self.parts = [partitions(self.fields, counts, classes_of(self.fields)) for counts in sides]
        with tensors.open_tensors(directory / "weights.safetensors") as opened:
            codes = choose(pb.INT8, {"embedding": self.fields}, opened)
            if kind != FEW_BITS:
                codes = Codes({("embedding.0", j): Kept(self.code, *self.scales(j)) for j in range(group.depth)})
            for s, (parts, columns) in enumerate(zip(self.parts, self.columns, strict=True)):
                graph, names = Graph(store), [f"rows.{j}" for j in range(group.depth)]
                head = self.fields[0]
                found = _join(graph, "embedding.0", "embedding", head, parts, names, codes, columns)
                graph.nodes.append(onnx.helper.make_node("Identity", [found], ["vectors"], name="vectors"))
                inputs = [value_info(name, "int64", len(columns)) for name in names]
                outputs = [value_info("vectors", "float32", len(columns), head.dim)]
                onnx.save(graph.model(inputs, outputs), str(directory / f"{s}.onnx"))
            self.packed = list(store.packed.values())
            tables.write(directory / "tables.bin", self.packed, opened)
        for s in range(len(sides)):
            onnx.checker.check_model(str(directory / f"{s}.onnx"), full_check=True)
            self.sessions.append(
                onnxruntime.InferenceSession(str(directory / f"{s}.onnx"), providers=["CPUExecutionProvider"])
            )

    def scales(self, j: int) -> tuple[dict[str, float], float]:
        """The scale of each feature's table in a partition, and the greatest."""
        ends, found = f".{j}", dict[str, float]()
        for name, rows in self.weights.items():
            if name.endswith(ends):
                found[name.removeprefix("embedding.").removesuffix(ends)] = float(np.abs(rows).max() / np.float32(127))
        return found, max(found.values())

    def bytes_of(self, j: int) -> runs.Array:
        """The packed table as the file has it: int8 or float16 [rows, width]."""
        packed = self.packed[j]
        whole = np.fromfile(self.directory / "tables.bin", np.uint8)[packed.offset : packed.offset + packed.size]
        return whole.view({"int8": "i1", "float16": "<f2"}[packed.dtype]).reshape(packed.shape)

    def decoded(self, j: int, rows: runs.Array, columns: Sequence[str]) -> runs.Array:
        """What the file's bytes mean, by the definition of the codes: float64 [B, columns, D]."""
        found, (scales, greatest) = exactly(self.bytes_of(j)[rows]), self.scales(j)
        if self.code == pb.FIELD_SCALE:
            return found * np.array([scales.get(feature, 1) for feature in columns])[:, None]
        if self.code == pb.ROW_SCALE:
            steps = found[..., -1:].astype(np.int8).view(np.uint8)
            return found[..., :-1] * np.where(steps == 255, 1, greatest * 2 ** (-steps.astype(float) / 16))
        return found

    def trained(self, j: int, rows: runs.Array, neutral: float) -> runs.Array:
        """The vectors before they were kept."""
        names = [f"embedding.{each.feature}.{j}" for each in self.fields if len(each.tables) > j]
        tables = [exactly(self.weights[name]) for name in names]
        return np.concatenate([*tables, np.full((1, tables[0].shape[1]), neutral)])[rows]

    def rows_of(self, parts: Sequence[Partition], columns: Sequence[str], rng: np.random.Generator) -> list[runs.Array]:
        """Rows of each packed table, int64 [32, columns], the first and the last of each table among them."""
        rows = [np.array(part.offsets) + rng.integers(0, part.rows, (32, len(columns))) for part in parts]
        for part, each in zip(parts, rows, strict=True):
            each[0], each[1] = part.offsets, np.array(part.offsets) + part.rows - 1
        return rows

    def compare_bits(self) -> None:
        """Compare both sides' vectors with those of the trained tables, bit for bit."""
        combine = self.fields[0].combine
        for parts, columns, session in zip(self.parts, self.columns, self.sessions, strict=True):
            rows = self.rows_of(parts, columns, np.random.default_rng(0))
            trained = [self.trained(j, each, combine == pb.MULT).astype(np.float32) for j, each in enumerate(rows)]
            if combine in (pb.CONCAT, pb.FEATURE):
                expected = np.concatenate(trained, axis=2)
            else:
                expected = functools.reduce(np.add if combine == pb.ADD else np.multiply, trained)
            (vectors,) = session.run(["vectors"], {f"rows.{j}": each for j, each in enumerate(rows)})
            assert (np.asarray(vectors).view(np.uint32) == expected.view(np.uint32)).all()

    def compare(self, seed: int = 0) -> None:
        """Compare both sides' vectors with the decoded bytes, and those with the trained tables."""
        rng, combine = np.random.default_rng(seed), self.fields[0].combine
        for parts, columns, session in zip(self.parts, self.columns, self.sessions, strict=True):
            rows = self.rows_of(parts, columns, rng)
            kept = [self.decoded(j, each, columns) for j, each in enumerate(rows)]
            for j, each in enumerate(rows):
                trained = self.trained(j, each, combine == pb.MULT)
                bound = HALF_ERROR if self.code == pb.HALF else INT8_ERROR
                assert np.sqrt(np.square(kept[j] - trained).sum() / np.square(trained).sum()) <= bound
            if combine in (pb.CONCAT, pb.FEATURE):
                expected = np.concatenate(kept, axis=2)
            else:
                expected = math.prod(kept) if combine in (pb.MULT, pb.ALONE) else sum(kept)
            feeds = {f"rows.{j}": each for j, each in enumerate(rows)}
            (vectors,) = session.run(["vectors"], feeds)
            scale = max(np.abs(each).max() for each in kept)
            np.testing.assert_allclose(vectors, expected, rtol=2e-6, atol=1e-6 * scale)


@pytest.mark.parametrize(("kind", "bits"), [*((kind, 0) for kind in CODES), *((FEW_BITS, bits) for bits in BITS)])
@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_graphs_decode_the_bytes(tmp_path: Path, scheme: str, combine: str, kind: str, bits: int) -> None:
    """All columns, those of bags and of absent features, and one column alone, on the same tables."""
    schemes = dict.fromkeys("abc", scheme)
    if combine in ("mult", "add") and scheme in ("qr", "mixed_radix", "chinese_remainder"):
        schemes["d"] = "hash"  # of one table: it takes no part in the others
    dim = 6 + SCHEMES.index(scheme) + bits  # of few bits: whole bytes and parts of them
    fields = [
        runs.field(runs.categorical(name, "hash", 30 + k), each, COMBINES[combine], dim if bits else 6, bits=bits)
        for k, (name, each) in enumerate(schemes.items())
    ]
    count = len(fields)
    found = Lookup(tmp_path, fields, kind, [[1] * count, [3, 0, 1, 1][:count], [0, 1, 0, 0][:count]])
    (found.compare_bits if bits else found.compare)()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dim", range(1, 18))
def test_a_packed_row_is_its_codes_plane_by_plane(dim: int, bits: int) -> None:
    """In Python's integers: neighbours in a byte, the first lowest; of 4 bits those of the two halves of the row."""
    codes = np.random.default_rng(dim).integers(0, 2**bits, (9, dim)).astype(np.uint8)
    kept = pack(codes, bits)
    assert (kept.dtype, kept.shape) == (np.uint8, (9, low_bits.stride(bits, dim)))
    for row, expected in zip(kept.tolist(), codes.tolist(), strict=True):
        found, start, below = [0] * dim, 0, 0
        for plane in low_bits.PLANES[bits]:
            size = low_bits.stride(plane, dim)
            for d in range(dim):
                byte, place = (d % size, d // size) if plane == 4 else (d * plane // 8, d % (8 // plane))
                found[d] += (row[start + byte] >> place * plane) % 2**plane << below
            start, below = start + size, below + plane
        assert found == expected


@pytest.mark.parametrize("bits", BITS)
def test_few_bits_take_the_bytes_of_the_plan(tmp_path: Path, bits: int) -> None:
    """And those of a row for fields that take no part, and of its scales."""
    fields = [runs.field(runs.categorical(f"f{k}", "hash", 901 + k), "qr", pb.ADD, 5, bits=bits) for k in range(3)]
    fields.append(runs.field(runs.categorical("one table", "hash", 50), "full", pb.ADD, 5, bits=bits))
    found = Lookup(tmp_path, fields, FEW_BITS, [[1] * len(fields)])
    absent = low_bits.stride(bits, 5) + 5 * 4
    assert sum(each.size for each in found.packed) == sum(map(plan.table_bytes, fields)) + absent


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("count", [1, 4])
def test_sizes_to_the_byte(tmp_path: Path, kind: str, count: int) -> None:
    fields = [runs.field(runs.categorical(f"f{k}", "hash", 9001 + k), "qr", pb.MULT, 5) for k in range(count)]
    fields.append(runs.field(runs.categorical("one table", "hash", 50), "full", pb.MULT, 5))
    found, end = Lookup(tmp_path, fields, kind, [[1] * len(fields)]), 0
    first, second = found.packed
    assert (first.size >= 4096, second.size >= 4096) == (True, False)
    for j, packed in enumerate(found.packed):
        rows = sum(each.tables[j].rows for each in found.fields if len(each.tables) > j) + j  # a neutral row of ones
        assert packed.offset == end
        assert packed.size == rows * {pb.HALF: 10, pb.FIELD_SCALE: 5, pb.ROW_SCALE: 6}[found.code]
        end += -(-packed.size // (16 if j else 64)) * (16 if j else 64)
    assert (tmp_path / "tables.bin").stat().st_size == end
    before = (tmp_path / "tables.bin").read_bytes()
    with tensors.open_tensors(tmp_path / "weights.safetensors") as opened:
        tables.write(tmp_path / "tables.bin", found.packed, opened)
    assert (tmp_path / "tables.bin").read_bytes() == before


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("operators", [("Transpose", "MatMul"), ("Reshape", "MatMul")])
def test_no_optimisation_moves_a_scale_to_another_axis(
    tmp_path: Path, columns: int, operators: tuple[str, str]
) -> None:
    """ONNX Runtime moves a DequantizeLinear whose scale is one number past these, axis 1 and all."""
    fields = [full(f"f{k}", 40, 6) for k in range(columns)]
    found = Lookup(tmp_path, fields, "field", [[1] * columns])
    model = onnx.load(str(tmp_path / "0.onnx"), load_external_data=False)
    vectors = model.graph.node[-1].input[0]
    del model.graph.node[-1]
    moved = {"perm": [0, 2, 1]} if operators[0] == "Transpose" else {}
    given = [vectors] if moved else [vectors, "shape"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 6, columns]), "shape"))
    model.graph.node.extend(
        [
            onnx.helper.make_node(operators[0], given, ["turned"], **moved),
            onnx.helper.make_node(operators[1], [vectors, "turned"], ["vectors"]),
        ]
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, str(tmp_path / "moved.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "moved.onnx"), providers=["CPUExecutionProvider"])
    offsets = np.array(found.parts[0][0].offsets)
    rows = offsets + np.random.default_rng(1).integers(0, 40, (8, columns))
    expected = found.decoded(0, rows, found.columns[0])
    turned = expected.transpose(0, 2, 1) if moved else expected.reshape(8, 6, columns)
    np.testing.assert_allclose(session.run(None, {"rows.0": rows})[0], expected @ turned, rtol=1e-5, atol=1e-7)
