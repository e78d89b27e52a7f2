"""Mutations: a bundle whose graphs or tables are wrong in one place, its digests right, does not pass parity.

The bounds of int8 are wide beside those of float16, but not so wide that a wrong scale or a swapped field stays within.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import runs
from onnx import numpy_helper
from quorem.export.bundle import export, prove_bundle
from quorem.export.precision import parse
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import ParityError

ROWS, FIELDS, DIM = 96, 12, 8
FEW = "few bits"
Change = Callable[[runs.Array], runs.Array]


def doubled(array: runs.Array) -> runs.Array:
    return array * array.dtype.type(2)


def a_tenth_more(array: runs.Array) -> runs.Array:
    return array * np.float32(1.1)


def one_doubled(array: runs.Array) -> runs.Array:
    return array * (1 + (np.arange(len(array)) == 1)).astype(array.dtype)


def zeros(array: runs.Array) -> runs.Array:
    return np.zeros_like(array)


def columns_swapped(array: runs.Array) -> runs.Array:
    """Weights [O, K] of two inputs."""
    return array[:, [DIM, *range(1, DIM), 0, *range(DIM + 1, array.shape[1])]]


def fields_swapped(array: runs.Array) -> runs.Array:
    """Weights [K, O] of the inputs that are two vectors."""
    return array[[*range(DIM, 2 * DIM), *range(DIM), *range(2 * DIM, len(array))]]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A DLRM in three precisions, and one of few bits."""
    directory, rng = tmp_path_factory.mktemp("mutations"), np.random.default_rng(3)
    features = [runs.categorical(f"c{k}", "id", 200 + k) for k in range(FIELDS)]
    numbers = [runs.number(f"n{k}", pb.STANDARD, 0, 2) for k in range(4)]
    for k, each in enumerate([*features, *numbers]):
        each.side = pb.CONTEXT if k % 2 else pb.CANDIDATE
    for bits in (0, 3):
        fields = [
            runs.field(each, "qr" if k % 3 else "full", pb.MULT, DIM, bits=bits) for k, each in enumerate(features)
        ]
        manifest = runs.model([*features, *numbers], fields, "dlrm", bottom=[64, 16], top=[64, 16])
        weights = runs.weights(manifest, rng)
        for layer in manifest.net.layers:
            if layer.HasField("linear"):
                weights[f"{layer.name}.weight"] *= np.float32(4 / np.sqrt(layer.linear.inputs))
        runs.write(directory / f"run.{bits}", manifest, weights, runs.scored(manifest, weights, rng, ROWS))
    found = {
        name: export(directory / "run.0", directory / name, precision=parse(name))
        for name in ("fp32", "fp16", "int8+int8")
    }
    return found | {FEW: export(directory / "run.3", directory / FEW)}


def mutated(bundle: Path, directory: Path, file: str, change: Callable[[Path], None]) -> Path:
    """A copy of a bundle, one file of which is changed, with the changed file's digest in its manifest."""
    copy = directory / "1"
    copy.mkdir()
    for each in bundle.iterdir():
        (copy / each.name).write_bytes(each.read_bytes())
    change(copy / file)
    manifest = manifests.read(copy, verify_digests=False)
    names = [each.name for each in manifest.files]
    del manifest.files[:]
    manifest.files.extend(manifests.describe_files(copy, names))
    manifests.write(copy, manifest)
    return copy


def in_constant(name: str, change: Change) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        model = onnx.load(str(path), load_external_data=False)
        (constant,) = (each for each in model.graph.initializer if each.name == name)
        before = numpy_helper.to_array(constant)
        after = np.asarray(change(before), before.dtype)
        assert after.shape == before.shape
        assert not np.array_equal(after, before)
        constant.CopyFrom(numpy_helper.from_array(after, name))
        path.write_bytes(model.SerializeToString(deterministic=True))

    return changed


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8+int8"])
def test_a_bundle_written_again_passes(tmp_path: Path, bundles: dict[str, Path], precision: str) -> None:
    for file in ("model.onnx", "rank.onnx", "tables.bin"):
        directory = tmp_path / file
        directory.mkdir()
        prove_bundle(mutated(bundles[precision], directory, file, lambda path: None))


LAYERS = ("bottom.1", "top.0", "top.1")
WRONG = [
    *(("fp32", f"weight.layer/{name}", columns_swapped) for name in LAYERS),
    *(("fp32", f"weight.layer/{name}", a_tenth_more) for name in LAYERS),
    *(("fp16", f"weight.layer/{name}", columns_swapped) for name in LAYERS),
    *(("fp16", f"weight.layer/{name}", a_tenth_more) for name in LAYERS),
    *(("int8+int8", f"weight.int8.layer/{name}", fields_swapped) for name in LAYERS),
    *(("int8+int8", f"weight.scale.layer/{name}", doubled) for name in LAYERS),
    *(("int8+int8", f"addend.layer/{name}", zeros) for name in LAYERS),
    *(("int8+int8", f"scale.layer/{name}", doubled) for name in ("bottom.1", "top.0")),
    ("int8+int8", "zero.layer/top.0", zeros),
    ("int8+int8", "output.layer/top.0", doubled),
    ("int8+int8", "embedding.0/vectors.0/scales", one_doubled),
    ("int8+int8", "embedding.0/vectors.1/scales", one_doubled),
    (FEW, "embedding.0/vectors.0/plane.2/known", doubled),
    (FEW, "embedding.0/vectors.0/plane.1/known", doubled),
]


@pytest.mark.parametrize(("precision", "constant", "change"), WRONG)
def test_a_wrong_constant_is_found(
    tmp_path: Path, bundles: dict[str, Path], precision: str, constant: str, change: Change
) -> None:
    copy = mutated(bundles[precision], tmp_path, "model.onnx", in_constant(constant, change))
    with pytest.raises(ParityError):
        prove_bundle(copy)


WRONG_RANKING = [
    ("fp32", "weight.context.layer/top.0", columns_swapped),
    ("fp32", "weight.layer/top.0", columns_swapped),
    ("int8+int8", "weight.context.layer/top.0", columns_swapped),
    ("int8+int8", "weight.int8.layer/top.0", fields_swapped),
    ("int8+int8", "weight.scale.layer/top.0", doubled),
    ("int8+int8", "steps.layer/top.0", doubled),
    ("int8+int8", "context.embedding.0/vectors.0/scales", one_doubled),
    ("int8+int8", "embedding.0/vectors.0/scales", one_doubled),
]


@pytest.mark.parametrize(("precision", "constant", "change"), WRONG_RANKING)
def test_a_wrong_constant_of_the_ranking_graph_is_found(
    tmp_path: Path, bundles: dict[str, Path], precision: str, constant: str, change: Change
) -> None:
    copy = mutated(bundles[precision], tmp_path, "rank.onnx", in_constant(constant, change))
    with pytest.raises(ParityError):
        prove_bundle(copy)


@pytest.mark.parametrize("change", ["rows moved by one", "numbers of vectors in another order"])
@pytest.mark.parametrize("partition", [0, 1])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8+int8", FEW])
def test_wrong_tables_are_found(
    tmp_path: Path, bundles: dict[str, Path], precision: str, partition: int, change: str
) -> None:
    graph = onnx.load(str(bundles[precision] / "model.onnx"), load_external_data=False).graph
    (table,) = (each for each in graph.initializer if each.name == f"embedding.0/table.{partition}")
    places = {each.key: int(each.value) for each in table.external_data if each.key != "location"}

    def changed(path: Path) -> None:
        whole = np.fromfile(path, np.uint8)
        part = slice(places["offset"], places["offset"] + places["length"])
        rows = whole[part].view(onnx.helper.tensor_dtype_to_np_dtype(table.data_type)).reshape(table.dims)
        wrong = np.roll(rows, 1, axis=0) if change.startswith("rows") else np.roll(rows, 1, axis=1)
        whole[part] = wrong.reshape(-1).view(np.uint8)
        whole.tofile(path)

    with pytest.raises(ParityError):
        prove_bundle(mutated(bundles[precision], tmp_path, "tables.bin", changed))
