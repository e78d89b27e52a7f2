"""Hostile runs and bundles: whatever is wrong with a directory, it is refused by name, and nothing else happens."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import every_kind
import pytest
from every_kind import WEIGHTS
from hypothesis import given, settings
from hypothesis import strategies as st
from quorem.protos import manifest, packing
from quorem.protos.errors import (
    ArtifactError,
    Malformed,
    MissingFile,
    NetError,
    NewerFormat,
    NotComplementary,
    PlanError,
    QuoremError,
    TooManyRows,
    UnsafePath,
    WrongDigest,
    WrongDims,
)

Json = dict[str, Any]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return every_kind.write(tmp_path)


def edit(directory: Path, change: Callable[[Json], object]) -> None:
    path = directory / manifest.NAME
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


# ---------------------------------------------------------------- files and bytes


def unlink(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def rewrite(data: bytes, name: str = manifest.NAME) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(data)


def rename_file(to: str) -> Callable[[Path], object]:
    return lambda directory: edit(directory, lambda tree: tree["files"][0].update(name=to))


def replace_by_symlink(directory: Path) -> None:
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    (directory / "weights.safetensors").rename(elsewhere / "weights.safetensors")
    (directory / "weights.safetensors").symlink_to(elsewhere / "weights.safetensors")


def replace_by_directory(directory: Path) -> None:
    (directory / "weights.safetensors").unlink()
    (directory / "weights.safetensors").mkdir()


def huge(directory: Path) -> None:
    with (directory / manifest.NAME).open("r+b") as file:
        file.truncate(manifest.MAX_BYTES + 1)


HOSTILE_FILES: dict[str, tuple[Callable[[Path], object], type[ArtifactError], str]] = {
    "no manifest": (unlink(manifest.NAME), MissingFile, "hold manifest.json"),
    "no weights": (unlink("weights.safetensors"), MissingFile, "weights.safetensors"),
    "a directory instead": (replace_by_directory, MissingFile, "weights.safetensors"),
    "one bit flipped": (rewrite(WEIGHTS.swapcase(), "weights.safetensors"), WrongDigest, "digest"),
    "cut short": (rewrite(WEIGHTS[:-1], "weights.safetensors"), WrongDigest, "bytes instead of"),
    "longer": (rewrite(WEIGHTS + b"\0", "weights.safetensors"), WrongDigest, "bytes instead of"),
    "a symbolic link": (replace_by_symlink, UnsafePath, "symbolic"),
    "up": (rename_file("../weights.safetensors"), UnsafePath, "plain files"),
    "down": (rename_file("sub/weights.safetensors"), UnsafePath, "plain files"),
    "absolute": (rename_file("/etc/hostname"), UnsafePath, "plain files"),
    "backslash": (rename_file("..\\weights.safetensors"), UnsafePath, "plain files"),
    "dots": (rename_file(".."), UnsafePath, "plain files"),
    "dot": (rename_file("."), UnsafePath, "plain files"),
    "no name": (rename_file(""), UnsafePath, "plain files"),
    "a null byte": (rename_file("weights\0"), UnsafePath, "plain files"),
    "a long name": (rename_file("w" * 300), UnsafePath, "plain files"),
    "empty": (rewrite(b""), Malformed, "JSON"),
    "not JSON": (rewrite(b"\x80\x04pickle"), Malformed, "JSON"),
    "another JSON": (rewrite(b"[1]"), Malformed, "JSON"),
    "no object": (rewrite(b"null"), Malformed, "JSON"),
    "a deep one": (rewrite(b'{"schema":' * 100_000), Malformed, "JSON"),
    "a deep list": (rewrite(b"[" * 100_000 + b"]" * 100_000), Malformed, "JSON"),
    "a huge one": (huge, Malformed, "at most"),
    "a key twice": (rewrite(b'{"format_version": 1, "format_version": 1}'), Malformed, "JSON"),
    "a huge number": (rewrite(b'{"format_version": ' + b"9" * 9999 + b"}"), Malformed, "JSON"),
    "half a manifest": (lambda each: rewrite((each / manifest.NAME).read_bytes()[:-40])(each), Malformed, "JSON"),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_hostile_directory_is_refused_by_name(name: str, directory: Path) -> None:
    spoil, error, told = HOSTILE_FILES[name]
    spoil(directory)
    with pytest.raises(QuoremError) as caught:
        manifest.read(directory)
    assert type(caught.value) is error
    assert told in str(caught.value)
    assert caught.value.where
    assert caught.value.remedy
    assert len(str(caught.value)) < 1000


# ---------------------------------------------------------------- what the text says


def feature(position: int, **changes: object) -> Callable[[Json], object]:
    return lambda tree: tree["schema"]["features"][position].update(changes)


def field(name: str, kind: str = "fields", **changes: object) -> Callable[[Json], object]:
    def change(tree: Json) -> None:
        next(each for each in tree["plan"][kind] if each["feature"] == name).update(changes)

    return change


def table(name: str, number: int, **changes: object) -> Callable[[Json], object]:
    def change(tree: Json) -> None:
        next(each for each in tree["plan"]["fields"] if each["feature"] == name)["tables"][number].update(changes)

    return change


def first_order_of_two(tree: Json) -> None:
    for each in tree["plan"]["first_order"]:
        each["dim"] = 2
        for table in each["tables"]:
            table["dim"] = 2


AGE, INCOME, PRICE, USER, AD, CITY = range(6)
QR = [{"divide": "1", "rows": "25", "dim": 4}, {"divide": "25", "rows": "3", "dim": 4}]  # 75 of 100 ids
ZONES = [{"divide": "1", "rows": "5", "dim": 7}, {"divide": "5", "rows": "4", "dim": 5}]  # 12 in all, as there
BAG = {"max_length": 3, "pooling": "SUM"}

HOSTILE_TEXTS: dict[str, tuple[Callable[[Json], object], type[QuoremError], str]] = {
    "newer": (lambda tree: tree.update(format_version=2, later=[1]), NewerFormat, "format 2"),
    "no version": (lambda tree: tree.pop("format_version"), Malformed, "format_version"),
    "unknown key": (lambda tree: tree.update(colour="red"), Malformed, "colour"),
    "unknown key within": (feature(USER, colour="red"), Malformed, "colour"),
    "unknown enum": (feature(USER, side="LEFT"), Malformed, "LEFT"),
    "two encodings": (feature(USER, hash={"buckets": 5}), Malformed, "oneof"),
    "no schema": (lambda tree: tree.pop("schema"), Malformed, "at least one feature"),
    "feature twice": (lambda tree: tree["schema"]["features"].append(tree["schema"]["features"][0]), Malformed, "once"),
    "no name": (feature(USER, name=""), Malformed, "printable"),
    "an escape in a name": (feature(USER, name="\x1b[2J"), Malformed, "printable"),
    "a long name": (feature(USER, name="u" * 129), Malformed, "128"),
    "no side": (feature(USER, side=0), Malformed, "side"),
    "no encoding": (lambda tree: tree["schema"]["features"][USER].pop("id"), Malformed, "encoding"),
    "no values": (feature(USER, values=0), Malformed, "INTEGER or STRING"),
    "values of later": (feature(USER, values=7), Malformed, "INTEGER or STRING"),
    "ids of strings": (feature(USER, values="STRING"), Malformed, "integers"),
    "hash of floats": (feature(AD, values="FLOAT"), Malformed, "INTEGER or STRING"),
    "dense of integers": (feature(AGE, values="INTEGER"), Malformed, "FLOAT"),
    "a dense bag": (feature(AGE, bag=BAG), Malformed, "bags"),
    "a bag of none": (feature(CITY, bag=BAG | {"max_length": 0}), Malformed, "slots"),
    "a bag of many": (feature(CITY, bag=BAG | {"max_length": 65537}), Malformed, "slots"),
    "a bag without pooling": (feature(CITY, bag={"max_length": 3}), Malformed, "pooling"),
    "no ids": (feature(USER, id={"size": 0, "out_of_range": "RARE"}), Malformed, "2^63"),
    "too many ids": (feature(USER, id={"size": 2**63 - 1, "out_of_range": "RARE"}), Malformed, "2^63"),
    "ids past int64": (feature(USER, id={"first": 2, "size": 2**63 - 1, "out_of_range": "RARE"}), Malformed, "2^63"),
    "a range past int64": (
        feature(USER, id={"first": 2**63 - 98, "size": 99, "out_of_range": "RARE"}),
        Malformed,
        "2^63",
    ),
    "a range of missing": (
        feature(USER, id={"first": -(2**63), "size": 99, "out_of_range": "RARE"}),
        Malformed,
        "2^63",
    ),
    "a first past int64": (feature(USER, id={"first": 2**63, "size": 1, "out_of_range": "RARE"}), Malformed, "first"),
    "no rule for outside ids": (feature(USER, id={"size": 99}), Malformed, "outside"),
    "no buckets": (feature(AD, hash={}), Malformed, "2^63"),
    "too many buckets": (feature(AD, hash={"buckets": 2**63}), Malformed, "2^63"),
    "too many words": (feature(CITY, vocabulary={"size": 2**31}), Malformed, "2^31"),
    "falling boundaries": (feature(PRICE, bucket={"boundaries": [1, 0.5, 2]}), Malformed, "rise"),
    "equal boundaries": (feature(PRICE, bucket={"boundaries": [1, 1.00000001, 2]}), Malformed, "rise"),
    "a boundary of nan": (feature(PRICE, bucket={"boundaries": ["NaN"]}), Malformed, "rise"),
    "no transform": (feature(AGE, dense={"scale": 1}), Malformed, "transform"),
    "scale 0": (feature(INCOME, dense={"transform": "STANDARD", "scale": 0}), Malformed, "scale"),
    "a mean for log1p": (feature(AGE, dense={"transform": "LOG1P", "mean": 2, "scale": 1}), Malformed, "STANDARD"),
    "missing is nan": (feature(AGE, dense={"transform": "NONE", "missing": "NaN", "scale": 1}), Malformed, "finite"),
    "not complementary": (field("user", tables=QR), NotComplementary, "own tuple"),
    "collisions owned up": (
        field("user", tables=QR, complementary=False, collisions="25"),
        NotComplementary,
        "hashing trick",
    ),
    "too few owned up": (
        field("user", tables=QR, complementary=False, collisions="24"),
        NotComplementary,
        "counted 25",
    ),
    "collisions allowed but hidden": (field("user", tables=QR, allow_collisions=True), NotComplementary, "counted 25"),
    "called hashed": (field("user", tables=QR, scheme="HASHED"), PlanError, "one table"),
    "hashed but hidden": (
        field("user", tables=QR[:1], scheme="HASHED", combine="ALONE"),
        NotComplementary,
        "counted 75",
    ),
    "classes of another scheme": (field("user", tables=[QR[0], QR[1] | {"classes": True}]), PlanError, "semantic"),
    "no rows": (field("user", tables=[QR[0], QR[1] | {"rows": 0}]), PlanError, "at least one row"),
    "no divide": (field("user", tables=[QR[0], QR[1] | {"divide": 0}]), PlanError, "at least one row"),
    "no tables": (field("user", tables=[]), PlanError, "tables"),
    "a hole in the radix": (field("user", tables=[QR[0], QR[1] | {"divide": 30}]), NotComplementary, "own tuple"),
    "other dims": (field("user", tables=[QR[0], QR[1] | {"dim": 5}]), WrongDims, "dims"),
    "hidden layers of a product": (field("user", hidden=2), WrongDims, "belong to path"),
    "functions of another width": (field("shop", hidden=3), WrongDims, "weights"),
    "functions without a layer": (field("shop", hidden=0), WrongDims, "weights"),
    "a huge hidden layer": (field("shop", hidden=2**32 - 1), WrongDims, "weights"),
    "vectors for functions": (field("user", combine="PATH"), WrongDims, "weights"),
    "features that are missing": (field("zone", dim=8), WrongDims, "add up"),
    "features of several dims": (field("zone", tables=ZONES), WrongDims, "one dim"),
    "classes that are divided": (table("brand", 0, divide=2), PlanError, "not divided"),
    "classes without a scheme": (field("brand", scheme="MIXED_RADIX"), PlanError, "semantic"),
    "more classes than ids": (table("brand", 1, rows=13), TooManyRows, "more rows"),
    "collisions without leave": (field("shop", allow_collisions=False), NotComplementary, "allow_collisions"),
    "leave without collisions": (field("shop", collisions="0", complementary=True), NotComplementary, "counted 12"),
    "cardinality": (field("user", cardinality=99), PlanError, "as many ids"),
    "combine of later": (field("user", combine=9), PlanError, "joined"),
    "another feature": (field("user", feature="visitor"), PlanError, "no ids"),
    "field twice": (lambda tree: tree["plan"]["fields"].append(tree["plan"]["fields"][-1]), PlanError, "once"),
    "field lacks": (lambda tree: tree["plan"]["fields"].pop(), PlanError, "once"),
    "first order lacks": (lambda tree: tree["plan"]["first_order"].pop(), PlanError, "once"),
    "another order": (lambda tree: tree["plan"]["fields"].reverse(), PlanError, "packing order"),
    "first order of two": (first_order_of_two, PlanError, "dim 1"),
    "no net": (lambda tree: tree.pop("net"), NetError, "last layer"),
    "no first layer": (lambda tree: tree["net"]["layers"].pop(0), NetError, "earlier layers"),
    "no last layer": (lambda tree: tree["net"]["layers"].pop(), NetError, "is read"),
    "a wide logit": (
        lambda tree: tree["net"]["layers"].append({"name": "x", "inputs": ["dense"], "sum": {}}),
        NetError,
        "logit",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_a_hostile_manifest_is_refused_by_name(name: str, directory: Path) -> None:
    change, error, told = HOSTILE_TEXTS[name]
    edit(directory, change)
    with pytest.raises(QuoremError) as caught:
        manifest.read(directory)
    assert type(caught.value) is error
    assert told in str(caught.value)
    assert str(directory / manifest.NAME) in caught.value.where


def test_digests_are_verified_unless_the_caller_did_so_before(directory: Path) -> None:
    (directory / "weights.safetensors").write_bytes(WEIGHTS.swapcase())
    manifest.read(directory, verify_digests=False)
    (directory / "weights.safetensors").write_bytes(WEIGHTS[1:])
    with pytest.raises(WrongDigest):
        manifest.read(directory, verify_digests=False)


# ---------------------------------------------------------------- any bytes at all

ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    1.5,
    1e400,
    "",
    "NaN",
    "-1",
    "..",
    "\x00",
    "🦆",
    [],
    {},
    [[]],
    {"a": 1},
]


def read_or_refuse(directory: Path, data: bytes) -> None:
    """Nothing but a manifest or an error of quorem's comes out."""
    (directory / manifest.NAME).write_bytes(data)
    try:
        found = manifest.read(directory)
    except QuoremError:
        return
    manifest.check(found, "again")
    manifest.tensor_shapes(found)
    packing.groups(found.plan.fields)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose manifest is overwritten by every example."""
    return every_kind.write(tmp_path_factory.mktemp("fuzzed"))


@pytest.fixture(scope="module")
def text(fuzzed: Path) -> bytes:
    """The right manifest of that directory."""
    return (fuzzed / manifest.NAME).read_bytes()


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_bytes_are_a_manifest_or_an_error(fuzzed: Path, text: bytes, seed: int) -> None:
    """Slices of the text are dropped, doubled, or overwritten."""
    dice, data = random.Random(seed), bytearray(text)
    for _ in range(dice.randint(1, 4)):
        start = dice.randrange(len(data))
        end = min(len(data), start + dice.choice([1, 1, 2, 5, 40, 400]))
        replaced = dice.choice([b"", bytes(data[start:end]) * 2, dice.randbytes(end - start), b"0", b'"', b"-", b"9e9"])
        data[start:end] = replaced
    read_or_refuse(fuzzed, bytes(data))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in ((tree, key), *places(tree[key]))]


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_values_are_a_manifest_or_an_error(fuzzed: Path, text: bytes, seed: int) -> None:
    """Values of the tree are replaced by odd ones, by each other, or dropped."""
    dice, tree = random.Random(seed), json.loads(text)
    for _ in range(dice.randint(1, 3)):
        container, key = dice.choice(places(tree))
        other, other_key = dice.choice(places(tree))
        action = dice.randrange(4)
        if action == 0:
            container[key] = copy.deepcopy(other[other_key])
        elif action == 1:
            del container[key]
        else:
            container[key] = copy.deepcopy(dice.choice(ODD))
    read_or_refuse(fuzzed, json.dumps(tree).encode())
