"""The manifest on disk: read, written and verified, with a named error for each way in which it can be wrong."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from . import low_bits, nets, packing, plan, schema
from . import manifest_pb2 as pb
from .errors import Malformed, MissingFile, NetError, NewerFormat, PlanError, UnsafePath, WrongDigest, WrongShape

NAME = "manifest.json"
FORMAT_VERSION = 1
MAX_BYTES = 64 << 20
QUOTED = 200  # characters of a parser's message that an error repeats
NAME_BYTES = 255  # of a file's name, as file systems have it
AGAIN = "Write it again with `quorem train` or `quorem export`; manifests are not edited by hand"
AnyMessage = TypeVar("AnyMessage", bound=Message)
Versioned = TypeVar("Versioned", pb.Manifest, pb.Search, pb.Pareto)


def sha256_of(path: Path) -> str:
    """The digest of a whole file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(directory: Path, names: Sequence[str]) -> list[pb.File]:
    """Name, size and digest of files of a directory, for a manifest."""
    return [
        pb.File(name=name, bytes=(directory / name).stat().st_size, sha256=sha256_of(directory / name))
        for name in names
    ]


def write(directory: Path, manifest: pb.Manifest) -> None:
    """Write `manifest.json`: the same manifest gives the same bytes."""
    write_message(directory / NAME, manifest)


def write_message(path: Path, message: Message) -> None:
    """Write a message as JSON with the names of its .proto: the same message gives the same bytes."""
    text = json_format.MessageToJson(message, preserving_proto_field_name=True, sort_keys=True, indent=1)
    write_atomically(path, text.encode() + b"\n")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, then rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a power cut, where directories can be opened."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def directory_in_place(target: Path) -> Iterator[Path]:
    """A directory under a temporary name that takes its place at the end, whole, or vanishes on an error.

    Raises:
        FileExistsError: the target is there and not empty.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(target)
    holder = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True)
    try:
        with holder as name:
            work = Path(name) / target.name
            work.mkdir()
            yield work
            for file in work.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            sync_directory(work)
            work.replace(target)
    except BaseException:
        for parent in made:  # leave nothing behind, but what others put there meanwhile
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
    sync_directory(target.parent)


def version_numbers(model: Path) -> list[int]:
    """The versions of a model's directory, latest first: directories named 1, 2, … without a leading zero, in 63 bits.

    Other names are no versions: temporary directories, notes, labels.
    """
    names = [path.name for path in model.iterdir() if path.is_dir()] if model.is_dir() else []
    numbers = [int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0" and len(name) < 20]
    return sorted((number for number in numbers if number < 2**63), reverse=True)


def read(directory: Path, *, verify_digests: bool = True) -> pb.Manifest:
    """Read and check a run's or a bundle's manifest and the files that it names.

    Digests are verified unless the caller did so before (sizes always are).

    Raises:
        MissingFile, Malformed, NewerFormat, UnsafePath, WrongDigest, PlanError, NotComplementary, NetError: see errors.
    """
    path = directory / NAME
    if not path.is_file():
        raise MissingFile(
            "a run directory and a bundle hold manifest.json",
            found="none",
            where=str(directory),
            remedy="Name the directory that `quorem train` or `quorem export` wrote",
        )
    manifest = parse(read_bytes(path), str(path))
    check(manifest, str(path))
    for file in manifest.files:
        check_file(path, file, verify_digest=verify_digests)
    return manifest


def read_bytes(path: Path) -> bytes:
    """The bytes of a JSON file, unless there are more than any of quorem's has.

    Raises:
        Malformed.
    """
    if path.stat().st_size > MAX_BYTES:
        raise Malformed(
            f"{path.name} has at most {MAX_BYTES} bytes",
            found=f"{path.stat().st_size} bytes",
            where=str(path),
            remedy="Write the directory again; this is no file of quorem's",
        )
    return path.read_bytes()


def parse(data: bytes, where: str) -> pb.Manifest:
    """A manifest from its JSON bytes.

    Raises:
        Malformed, NewerFormat.
    """
    return parse_versioned(data, pb.Manifest, where, AGAIN)


def parse_versioned(data: bytes, kind: type[Versioned], where: str, remedy: str) -> Versioned:
    """A message that states its format_version, from its JSON bytes.

    Raises:
        Malformed, NewerFormat.
    """
    version = parse_message(data, kind, where, remedy, ignore_unknown=True).format_version
    if version > FORMAT_VERSION:
        raise NewerFormat(
            f"this version of quorem reads format {FORMAT_VERSION} and older",
            found=f"format {version}",
            where=where,
            remedy="Install the quorem that wrote it, or a later one",
        )
    if version < 1:
        raise Malformed(
            f"a {kind.DESCRIPTOR.name.lower()} states its format_version", found="none", where=where, remedy=remedy
        )
    return parse_message(data, kind, where, remedy)


def parse_message(
    data: bytes, kind: type[AnyMessage], where: str, remedy: str, *, ignore_unknown: bool = False
) -> AnyMessage:
    """A message from its JSON bytes.

    Raises:
        Malformed.
    """
    try:
        return json_format.Parse(data, kind(), ignore_unknown_fields=ignore_unknown)
    except (json_format.ParseError, RecursionError, ValueError) as error:
        name = kind.DESCRIPTOR
        raise Malformed(
            f"a {name.name.lower()} is the JSON form of {name.full_name}",
            found=_short(error),
            where=where,
            remedy=remedy,
        ) from None


def _short(error: Exception) -> str:
    """The first line of the parser's message, which may quote a whole file."""
    line = str(error).partition("\n")[0]
    return line if len(line) <= QUOTED else line[:QUOTED] + " …"


def check(manifest: pb.Manifest, where: str) -> None:
    """Check that schema, plan and net fit together, and that no file is listed twice.

    Raises:
        Malformed, PlanError, NotComplementary, NetError.
    """
    if len({file.name for file in manifest.files}) < len(manifest.files):  # each entry costs a digest
        raise Malformed("a manifest lists a file once", found="a name twice", where=f"{where}, files", remedy=AGAIN)
    schema.check(manifest.schema, where)
    check_plan(manifest.plan, manifest.schema, f"{where}, plan")
    try:
        nets.widths(manifest.net, nets.input_widths(manifest.plan, len(schema.dense_features(manifest.schema))))
    except NetError as error:
        raise NetError(
            error.rule, found=error.found, where=f"{where}, {error.where}", remedy=error.remedy or AGAIN
        ) from None


def check_plan(made: pb.Plan, features: pb.Schema, where: str) -> None:
    """Check a plan's fields, and that they are those of a schema.

    Raises:
        PlanError, NotComplementary.
    """
    sizes = {feature.name: schema.cardinality(feature) for feature in features.features if schema.has_ids(feature)}
    for kind, fields in (("fields", made.fields), ("first_order", made.first_order)):
        for field in fields:
            plan.check_field(field, f"{where}.{kind}, feature {field.feature!r}")
            if sizes.get(field.feature) != field.cardinality:
                raise PlanError(
                    "a field has as many ids as its feature",
                    found=f"{field.cardinality} ids, feature has {sizes.get(field.feature, 'no')} ids",
                    where=f"{where}.{kind}, feature {field.feature!r}",
                    remedy="Use the plan with the schema it was made for",
                )
        if (kind == "fields" or fields) and sorted(field.feature for field in fields) != sorted(sizes):
            raise PlanError(
                "a plan has every feature that has ids, once",
                found=str(sorted(field.feature for field in fields)),
                where=f"{where}.{kind}",
                remedy=f"The schema has {sorted(sizes)}",
            )
        if list(fields) != packing.pack(fields):
            raise PlanError("a plan's fields stand in packing order", found="another order", where=f"{where}.{kind}")
    if any(field.dim != 1 for field in made.first_order):
        raise PlanError("first-order tables have dim 1", found="another", where=f"{where}.first_order")
    if any(table.bits for field in made.first_order for table in field.tables):
        raise PlanError("first-order tables are float32", found="bits", where=f"{where}.first_order")


def check_file(listing: Path, file: pb.File, *, verify_digest: bool = True) -> None:
    """Check a file that the manifest (or search) `listing`, which stands beside it, names.

    Raises:
        UnsafePath, MissingFile, WrongDigest.
    """
    if not is_plain(file.name):
        raise UnsafePath(
            "a manifest names plain files of its own directory",
            found=repr(file.name),
            where=str(listing),
            remedy="Do not use this directory; it was not written by quorem",
        )
    path = listing.with_name(file.name)
    again = "Copy the directory again from where it was written"
    if path.is_symlink():
        raise UnsafePath(
            "files of a directory are no symbolic links", found=str(path), where=str(listing), remedy=again
        )
    if not path.is_file():
        raise MissingFile("every file that a manifest names is there", found="none", where=str(path), remedy=again)
    if path.stat().st_size != file.bytes:
        raise WrongDigest(
            "a file is as long as its manifest says",
            found=f"{path.stat().st_size} bytes instead of {file.bytes}",
            where=str(path),
            remedy=again,
        )
    if verify_digest and sha256_of(path) != file.sha256:
        raise WrongDigest("a file has the digest its manifest says", found="another", where=str(path), remedy=again)


def is_plain(name: str) -> bool:
    """Whether a name is one of a file or directory right here: no path, nothing that a terminal would obey."""
    plain = Path(name).name == name and "\\" not in name and name not in ("", ".", "..")
    return plain and name.isprintable() and len(name.encode()) <= NAME_BYTES


def class_name(feature: str, table: int) -> str:
    """The tensor of the classes of a semantic field's table; tables and first-order tables share it."""
    return f"classes.{feature}.{table}"


def tensor_shapes(manifest: pb.Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor of `weights.safetensors`; dtypes as numpy names them."""
    shapes = {name: ("float32", shape) for name, shape in nets.weight_shapes(manifest.net).items()}
    for prefix, fields in (("embedding", manifest.plan.fields), ("first_order", manifest.plan.first_order)):
        for field in fields:
            for j, table in enumerate(field.tables):
                shapes[f"{prefix}.{field.feature}.{j}"] = ("float32", (table.rows, table.dim))
                if table.bits:
                    shapes[low_bits.scale_name(field.feature, j)] = ("float32", (table.dim,))
                    shapes[low_bits.offset_name(field.feature, j)] = ("float32", (table.dim,))
                if table.classes:
                    shapes[class_name(field.feature, j)] = ("int32", (field.cardinality,))
    for feature in manifest.schema.features:
        if feature.WhichOneof("encoding") == "vocabulary":
            shapes[f"vocabulary.{feature.name}.values"] = ("int64", (feature.vocabulary.size,))
            shapes[f"vocabulary.{feature.name}.ids"] = ("int32", (feature.vocabulary.size,))
    return shapes


def check_tensors(
    expected: Mapping[str, tuple[str, tuple[int, ...]]], found: Mapping[str, tuple[str, tuple[int, ...]]], where: str
) -> None:
    """Refuse tensors that are not exactly the expected ones.

    Raises:
        WrongShape: absent, superfluous, or of another dtype or shape.
    """
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            told = [
                f"{each[0]} {list(each[1])}" if each else "no such tensor"
                for each in (expected.get(name), found.get(name))
            ]
            raise WrongShape(
                f"the manifest says {told[0]}",
                found=told[1],
                where=f"{where}, tensor {name!r}",
                remedy="Write the directory again; its files do not belong together",
            )
