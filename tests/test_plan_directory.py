"""The plan directory: what is written is read, the same bytes each time; whatever is wrong is refused by name."""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import every_kind
import pytest
import searched
from quorem.protos import manifest, plan_directory
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import (
    ArtifactError,
    Malformed,
    MissingFile,
    NewerFormat,
    NotComplementary,
    PlanError,
    QuoremError,
    UnsafePath,
    WrongDigest,
    WrongDims,
    WrongSchema,
)
from quorem.protos.plan_directory import PLAN, SEARCH, check_schema, read_plan, write_plan
from tampered import Json, choose, field, plan, tell


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return searched.write(tmp_path / "plan")


# ---------------------------------------------------------------- what is written is read


def test_what_is_written_is_read(directory: Path) -> None:
    made, search = read_plan(directory)
    assert made == searched.make_plan()
    told = searched.make_search(made)
    assert (search.format_version, search.choices, search.schema) == (1, told.choices, told.schema)
    assert (search.method, search.model, search.seed) == ("autodim", "deepfm", 1)
    assert dict(search.valid_metrics) == {"auc": 0.75, "logloss": 0.5}
    assert [file.name for file in search.files] == [PLAN]
    assert search.files[0].sha256 == manifest.sha256_of(directory / PLAN)


def test_the_same_search_gives_the_same_bytes_and_nothing_beside_them(directory: Path, tmp_path: Path) -> None:
    again = searched.write(tmp_path / "again")
    assert {path.name for path in again.iterdir()} == {PLAN, SEARCH}
    for name in (PLAN, SEARCH):
        assert (directory / name).read_bytes() == (again / name).read_bytes()
    assert '"first_order"' in (again / PLAN).read_text()


def test_files_that_a_search_names_are_digested_and_the_caller_keeps_its_message(tmp_path: Path) -> None:
    made = searched.make_plan()
    search = searched.make_search(made)
    search.files.add(name="recipe.toml")
    before = copy.deepcopy(search)
    (tmp_path / "recipe.toml").write_text("[train]\n")
    write_plan(tmp_path, made, search)
    assert search == before
    files = read_plan(tmp_path)[1].files
    assert [(file.name, file.bytes) for file in files] == [(PLAN, (tmp_path / PLAN).stat().st_size), ("recipe.toml", 8)]
    (tmp_path / "recipe.toml").write_text("[tra1n]\n")
    with pytest.raises(WrongDigest):
        read_plan(tmp_path)


def test_search_json_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[str]()
    real = manifest.write_atomically
    monkeypatch.setattr(manifest, "write_atomically", lambda path, data: (written.append(path.name), real(path, data)))
    searched.write(tmp_path)
    assert written == [PLAN, SEARCH]


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    made = searched.make_plan()
    search = searched.make_search(made)
    search.choices[0].dim = 3
    with pytest.raises(Malformed):
        write_plan(tmp_path / "plan", made, search)
    assert not (tmp_path / "plan").exists()


def test_candidates_and_probabilities_may_be_left_out(tmp_path: Path) -> None:
    made = searched.make_plan()
    for keep in (["candidates"], []):  # random, mixed
        search = searched.make_search(made)
        for choice in search.choices:
            for part in {"candidates", "probabilities"} - set(keep):
                choice.ClearField(part)
        write_plan(tmp_path / str(len(keep)), made, search)
        assert read_plan(tmp_path / str(len(keep)))[1].choices == search.choices


def test_a_plan_directory_is_named_by_its_path_or_by_either_file(directory: Path) -> None:
    for path in (directory, directory / PLAN, directory / SEARCH):
        assert plan_directory.directory_of(path) == directory
    assert plan_directory.directory_of(directory / "recipe.toml") == directory / "recipe.toml"


# ---------------------------------------------------------------- hostile directories


def rewrite(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(data)


def truncate_up(name: str) -> Callable[[Path], object]:
    def grow(directory: Path) -> None:
        with (directory / name).open("r+b") as file:
            file.truncate(manifest.MAX_BYTES + 1)

    return grow


def link(directory: Path) -> None:
    (directory / PLAN).rename(directory / "elsewhere")
    (directory / PLAN).symlink_to(directory / "elsewhere")


def swap(rows: list[Json]) -> None:
    rows[0], rows[1] = rows[1], rows[0]


def rename_everywhere(directory: Path) -> None:
    plan(lambda tree: field(tree, "user").update(feature="stranger"))(directory)
    choose("user", feature="stranger")(directory)


HOSTILE: dict[str, tuple[Callable[[Path], object], type[QuoremError], str]] = {
    "no search": (lambda each: (each / SEARCH).unlink(), MissingFile, "a search that has ended"),
    "no plan": (lambda each: (each / PLAN).unlink(), MissingFile, PLAN),
    "a directory of that name": (lambda each: ((each / SEARCH).unlink(), (each / SEARCH).mkdir()), MissingFile, SEARCH),
    "an empty search": (rewrite(SEARCH, b""), Malformed, "JSON form of quorem.v1.Search"),
    "half a search": (lambda each: rewrite(SEARCH, (each / SEARCH).read_bytes()[:-40])(each), Malformed, SEARCH),
    "no text": (rewrite(SEARCH, b"\xff\xfe\x00"), Malformed, SEARCH),
    "a deep search": (rewrite(SEARCH, b'{"choices":' * 100_000), Malformed, SEARCH),
    "a huge search": (truncate_up(SEARCH), Malformed, "at most"),
    "an unknown key": (tell(lambda tree: tree.update(dimension=3)), Malformed, "dimension"),
    "no version": (tell(lambda tree: tree.pop("format_version")), Malformed, "format_version"),
    "a newer format": (tell(lambda tree: tree.update(format_version=2, dimension=3)), NewerFormat, "format 2"),
    "a plan of other bytes": (
        lambda each: rewrite(PLAN, (each / PLAN).read_bytes()[:-1] + b" ")(each),
        WrongDigest,
        PLAN,
    ),
    "a longer plan": (
        lambda each: rewrite(PLAN, (each / PLAN).read_bytes() + b" ")(each),
        WrongDigest,
        "bytes instead",
    ),
    "a path that leaves": (tell(lambda tree: tree["files"][0].update(name="../plan.json")), UnsafePath, "../plan.json"),
    "an absolute path": (tell(lambda tree: tree["files"][0].update(name="/etc/passwd")), UnsafePath, "/etc/passwd"),
    "a symbolic link": (link, UnsafePath, "symbolic"),
    "a plan without a digest": (tell(lambda tree: tree.update(files=[])), Malformed, f"digest of its {PLAN}. Found: 0"),
    "a plan named twice": (tell(lambda tree: tree["files"].append(tree["files"][0])), Malformed, "Found: 2"),
    "a plan that is no JSON": (plan(lambda tree: tree.clear()), Malformed, "a plan has fields"),
    "a plan of unknown keys": (plan(lambda tree: tree.update(rows=3)), Malformed, "JSON form of quorem.v1.Plan"),
    "fields swapped": (plan(lambda tree: swap(tree["fields"])), PlanError, "packing order"),
    "choices swapped": (tell(lambda tree: swap(tree["choices"])), Malformed, "in its order"),
    "a choice too few": (tell(lambda tree: tree["choices"].pop()), Malformed, "none where the plan has 'zone'"),
    "a choice too many": (tell(lambda tree: tree["choices"].append({"feature": "x"})), Malformed, "'x' where"),
    "an unknown feature": (rename_everywhere, PlanError, "feature has no ids"),
    "a feature too few": (plan(lambda tree: tree["fields"].pop()), PlanError, "every feature that has ids"),
    "another cardinality": (
        plan(
            lambda tree: field(tree, "price").update(cardinality="6", tables=[{"divide": "1", "rows": "6", "dim": 2}])
        ),
        PlanError,
        "6 ids, feature has 5 ids",
    ),
    "tables that do not tell ids apart": (
        plan(lambda tree: field(tree, "user")["tables"][1].update(rows="3")),
        NotComplementary,
        "'user'",
    ),
    "a dim that the tables have not": (plan(lambda tree: field(tree, "user").update(dim=8)), WrongDims, "'user'"),
    "a schema of nothing": (tell(lambda tree: tree.pop("schema")), Malformed, "at least one feature"),
    "another dim": (choose("user", dim=2), Malformed, "2 for 4"),
    "the width of all of a feature's vectors": (choose("zone", dim=12), Malformed, "12 for 4"),
    "a dim that is no candidate": (choose("user", candidates=[2, 8, 16]), Malformed, "one of the candidates"),
    "candidates that fall": (choose("user", candidates=[8, 4, 2]), Malformed, "rise"),
    "a candidate of nothing": (choose("user", candidates=[0, 2, 4]), Malformed, "at least 1"),
    "a probability too few": (choose("user", probabilities=[0.5, 0.5]), Malformed, "2 for 3"),
    "probabilities of no candidates": (choose("user", candidates=[]), Malformed, "3 for 0"),
    "a probability that is no number": (choose("user", probabilities=["NaN", 0.5, 0.5]), Malformed, "from 0 to 1"),
    "a probability without end": (choose("user", probabilities=["Infinity", 0, 0]), Malformed, "from 0 to 1"),
    "a probability below zero": (choose("user", probabilities=[-0.5, 1, 0.5]), Malformed, "from 0 to 1"),
    "probabilities of another sum": (choose("user", probabilities=[0.5, 0.5, 0.5]), Malformed, "1.5"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_directory_is_refused_by_name(name: str, directory: Path) -> None:
    change, error, told = HOSTILE[name]
    change(directory)
    with pytest.raises(QuoremError) as refused:
        read_plan(directory)
    assert type(refused.value) is error
    assert told in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert str(directory) in refused.value.where
    assert refused.value.rule


def test_rounding_is_no_breach(directory: Path) -> None:
    choose("user", probabilities=[0.1, 0.2, 0.7000001])(directory)
    read_plan(directory)


def test_any_byte_may_be_another(directory: Path) -> None:
    """Nothing but a plan or an error of quorem's comes out."""
    data, rng, refused = (directory / SEARCH).read_bytes(), random.Random(4), 0
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] = rng.randrange(256)
        (directory / SEARCH).write_bytes(bytes(broken))
        try:
            read_plan(directory)
        except (ArtifactError, PlanError):
            refused += 1
    assert refused > 200


# ---------------------------------------------------------------- another schema


def pop(schema: pb.Schema, name: str) -> pb.Feature:
    position = [feature.name for feature in schema.features].index(name)
    return schema.features.pop(position)


def of(schema: pb.Schema, name: str) -> pb.Feature:
    return next(feature for feature in schema.features if feature.name == name)


def to_hash(schema: pb.Schema) -> None:
    of(schema, "user").hash.CopyFrom(pb.Hash(buckets=100))


def to_the_end(schema: pb.Schema) -> None:
    schema.features.append(pop(schema, "price"))


SCHEMAS: dict[str, tuple[Callable[[pb.Schema], object], str]] = {
    "missing": (lambda schema: pop(schema, "user"), "'user' is missing"),
    "new": (lambda schema: schema.features.add(name="hour", hash=pb.Hash(buckets=24)), "'hour' is new"),
    "cardinality": (
        lambda schema: of(schema, "cité 🦆").vocabulary.MergeFrom(pb.Vocabulary(size=7)),
        "'cité 🦆' has 8 ids instead of 7 ids",
    ),
    "first": (
        lambda schema: of(schema, "user").id.MergeFrom(pb.IdRange(first=-3)),
        "'user' has ids from -3 instead of ids",
    ),
    "encoding": (to_hash, "'user' has encoding hash instead of encoding id"),
    "values": (lambda schema: of(schema, "ad").MergeFrom(pb.Feature(values=pb.INTEGER)), "'ad' has integer values"),
    "side": (lambda schema: of(schema, "ad").MergeFrom(pb.Feature(side=pb.CONTEXT)), "side context instead of side c"),
    "bag": (lambda schema: of(schema, "cité 🦆").ClearField("bag"), "'cité 🦆' has no bag instead of a bag of 3"),
    "order": (to_the_end, "another order: 'user' stands where 'price' stood"),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_another_schema_is_refused_with_what_differs(name: str) -> None:
    change, told = SCHEMAS[name]
    search = searched.make_search(searched.make_plan())
    other = every_kind.model().schema
    change(other)
    with pytest.raises(WrongSchema) as refused:
        check_schema(search, other, "plans/1")
    assert told in refused.value.found
    assert refused.value.found.count(";") == 0
    assert refused.value.where == "plans/1"
    assert "Search again" in refused.value.remedy


def test_the_same_schema_and_what_a_plan_does_not_depend_on_are_taken() -> None:
    search, other = searched.make_search(searched.make_plan()), every_kind.model().schema
    check_schema(search, other, "plans/1")
    of(other, "income").dense.mean = 7
    of(other, "price").bucket.boundaries[0] = 0.25
    of(other, "ad").hash.seed = 3
    check_schema(search, other, "plans/1")


def test_an_error_names_a_few_of_many_differences() -> None:
    search, other = searched.make_search(searched.make_plan()), every_kind.model().schema
    other.features.extend(pb.Feature(name=f"f{n}", hash=pb.Hash(buckets=2)) for n in range(50))
    with pytest.raises(WrongSchema) as refused:
        check_schema(search, other, "plans/1")
    assert refused.value.found.endswith("; and 42 more")
