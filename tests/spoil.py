"""Spoil: changes that make a bundle hostile, each of one thing, with digests written anew."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import runs
from onnx import helper
from quorem.protos import manifest as manifests
from quorem.protos import manifest_pb2 as pb
from safetensors.numpy import load_file, save

Change = Callable[[Path, pb.Manifest], object]


def spoilt(version: Path, tmp_path: Path, change: Change) -> Path:
    """A copy of a version, changed and signed."""
    bundle = tmp_path / "models" / "ctr" / "2"
    shutil.copytree(version, bundle.with_name("1"))
    shutil.copytree(version, bundle)
    found = manifests.read(bundle)
    change(bundle, found)
    sign(bundle, found)
    return bundle


def sign(bundle: Path, manifest: pb.Manifest) -> None:
    """Write the manifest, with the digests of the files as they are now."""
    for file in manifest.files:
        path = bundle / file.name
        if path.is_file():
            file.bytes, file.sha256 = path.stat().st_size, manifests.sha256_of(path)
    manifests.write(bundle, manifest)


def unlink(name: str) -> Change:
    return lambda bundle, _: (bundle / name).unlink()


def unlisted(name: str) -> Change:
    def change(_: Path, found: pb.Manifest) -> None:
        kept = [file for file in found.files if file.name != name]
        del found.files[:]
        found.files.extend(kept)

    return change


def twice(_: Path, found: pb.Manifest) -> None:
    found.files.append(found.files[0])


def facts(**changes: Any) -> Change:
    """Facts of the export that are overwritten; messages by a dict, lists by a list."""

    def change(_: Path, found: pb.Manifest) -> None:
        for name, value in changes.items():
            found.export.ClearField(name)
            found.export.MergeFrom(pb.Export(**{name: value}))

    return change


def told(kind: str, position: int, **changes: Any) -> Change:
    """Fields of one of the export's messages that are overwritten."""

    def change(_: Path, found: pb.Manifest) -> None:
        each = getattr(found.export, kind)[position]
        for key, value in changes.items():
            setattr(each, key, value)

    return change


def doubled(name: str) -> Change:
    return lambda _, found: getattr(found.export, name).append(getattr(found.export, name)[0])


def more(name: str, value: Any) -> Change:
    return lambda _, found: getattr(found.export, name).append(value)


def number(kind: str, value: int) -> Change:
    """A number kept in no known way."""
    return lambda _, found: setattr(found.export.precision, kind, value)


def stage(name: str) -> Change:
    return lambda _, found: setattr(found.export.graphs[0].stages[0], "name", name)


def chosen_from_others(_: Path, found: pb.Manifest) -> None:
    found.export.candidates.add(precision=pb.Precision(tables=pb.FP16, dense=pb.FP32))


def one_side(_: Path, found: pb.Manifest) -> None:
    for feature in found.schema.features:
        feature.side = pb.CANDIDATE


def no_export(_: Path, found: pb.Manifest) -> None:
    found.ClearField("export")


def field(change: Callable[[pb.Field], object]) -> Change:
    """Another user, of tables of quotients and remainders, in both lists of fields."""

    def spoil(_: Path, found: pb.Manifest) -> None:
        for fields in (found.plan.fields, found.plan.first_order):
            change(next(each for each in fields if each.feature == "user"))

    return spoil


def no_layers(_: Path, found: pb.Manifest) -> None:
    del found.net.layers[:]


def tables(change: Callable[[bytearray, pb.Manifest], object]) -> Change:
    def spoil(bundle: Path, found: pb.Manifest) -> None:
        data = bytearray((bundle / "tables.bin").read_bytes())
        change(data, found)
        (bundle / "tables.bin").write_bytes(data)

    return spoil


def shortened(data: bytearray, _: pb.Manifest) -> None:
    del data[-64:]


def shortened_in_all(data: bytearray, found: pb.Manifest) -> None:
    """With parts that add up."""
    del data[-64:]
    max(found.export.parts, key=lambda part: part.bytes).bytes -= 64


def other_vectors(bundle: Path, found: pb.Manifest) -> None:
    """Every table of vectors."""
    places = list[tuple[int, int]]()
    for each in onnx.load(bundle / "model.onnx", load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in each.external_data}
        if place and each.name.startswith("embedding."):
            places.append((int(place["offset"]), int(place["length"])))

    def change(data: bytearray, _: pb.Manifest) -> None:
        for offset, length in places:
            data[offset : offset + length] = b"\x3c" * length

    tables(change)(bundle, found)


def few_bits(change: Callable[[list[pb.TableCode]], object]) -> Change:
    """Other codes of the tables of few bits, which stand behind those of the other tables."""

    def spoil(_: Path, found: pb.Manifest) -> None:
        codes = list(found.export.codes)
        few = [code for code in codes if code.code == pb.COLUMN_SCALE]
        assert few
        change(few)
        found.export.ClearField("codes")
        found.export.codes.extend([*(code for code in codes if code.code != pb.COLUMN_SCALE), *few])

    return spoil


def recoded(code: pb.Code) -> Callable[[list[pb.TableCode]], None]:
    def change(few: list[pb.TableCode]) -> None:
        few[0] = pb.TableCode(tensor=few[0].tensor, code=code)

    return change


def levels(factor: float) -> Change:
    """Scales of few bits times a number."""

    def spoil(bundle: Path, found: pb.Manifest) -> None:
        inside = onnx.load(bundle / "model.onnx", load_external_data=False).graph.initializer
        (place, *_) = ({e.key: e.value for e in each.external_data} for each in inside if each.name.endswith(".scales"))
        offset, length = int(place["offset"]), int(place["length"])

        def change(data: bytearray, _: pb.Manifest) -> None:
            numbers = np.frombuffer(data, "<f4", length // 4, offset) * np.float32(factor)
            data[offset : offset + length] = numbers.astype("<f4").tobytes()

        tables(change)(bundle, found)

    return spoil


def other_stride(model: onnx.ModelProto) -> None:
    """Rows of as many bytes as there were rows."""
    inside = [each for each in model.graph.initializer if each.name.startswith("embedding.")]
    packed = max((each for each in inside if each.data_type == each.UINT8), key=lambda each: each.dims[0])
    packed.dims[:] = reversed(packed.dims)


def class_beyond(data: bytearray, found: pb.Manifest) -> None:
    offset = found.export.class_arrays[0].offset
    data[offset : offset + 4] = np.int32(9999).tobytes()


def classes_alike(data: bytearray, found: pb.Manifest) -> None:
    for each in found.export.class_arrays:
        data[each.offset : each.offset + 4 * 30] = bytes(4 * 30)


def golden(change: Callable[[dict[str, runs.Array]], object]) -> Change:
    def spoil(bundle: Path, _: pb.Manifest) -> None:
        tensors = load_file(bundle / "golden.safetensors")
        change(tensors)
        (bundle / "golden.safetensors").write_bytes(save(tensors))

    return spoil


def logit(value: float) -> Change:
    return golden(lambda tensors: tensors["logit"].__setitem__(5, value))


def no_golden(bundle: Path, _: pb.Manifest) -> None:
    (bundle / "golden.safetensors").write_bytes(b"\x10" + bytes(40))


def graph(change: Callable[[onnx.ModelProto], object], name: str = "rank.onnx") -> Change:
    def spoil(bundle: Path, _: pb.Manifest) -> None:
        model = onnx.load(bundle / name, load_external_data=False)
        change(model)
        (bundle / name).write_bytes(model.SerializeToString())

    return spoil


def outside(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for entry in (entry for each in model.graph.initializer for entry in each.external_data if entry.key == key):
            entry.value = value

    return change


def elsewhere(bundle: Path, found: pb.Manifest) -> None:
    """The tables above the version, where no digest is of them."""
    shutil.copy(bundle / "tables.bin", bundle.parent / "tables.bin")
    graph(outside("location", "../tables.bin"))(bundle, found)


def absolute(bundle: Path, found: pb.Manifest) -> None:
    graph(outside("location", str(bundle / "tables.bin")))(bundle, found)


def another(bundle: Path, found: pb.Manifest) -> None:
    """A file of the version's own directory, as long as the tables."""
    data = (bundle / "tables.bin").read_bytes()
    (bundle / "other.bin").write_bytes(bytes(len(data)))
    graph(outside("location", "other.bin"))(bundle, found)


def renamed(model: onnx.ModelProto) -> None:
    old = model.graph.input[0].name
    model.graph.input[0].name = "others"
    for node in model.graph.node:
        node.input[:] = ["others" if name == old else name for name in node.input]


def unnamed_output(model: onnx.ModelProto) -> None:
    del model.graph.output[0]


def looping(model: onnx.ModelProto) -> None:
    """A loop of 2^40 turns before the logit."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(helper.make_tensor("turns", onnx.TensorProto.INT64, [], [2**40]))
    position = next(k for k, node in enumerate(model.graph.node) if node.output[0] == "logit")
    model.graph.node[position].output[0] = "before"
    model.graph.node.insert(position + 1, helper.make_node("Loop", ["turns", "", "before"], ["logit"], body=body))


def no_graph(name: str) -> Change:
    return lambda bundle, _: (bundle / name).write_bytes(b"no graph")
