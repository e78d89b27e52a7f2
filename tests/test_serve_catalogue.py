"""Laws of the catalogue on disk: policies, labels, what a look sees, and when a version is verified."""

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from quorem.export.bundle import export
from quorem.protos import manifest_pb2 as pb
from quorem.protos.errors import Malformed, MissingFile, NotFound, ParityError, UnsafePath
from quorem.serve import labels
from quorem.serve.catalogue import NOTHING, Resolved, resolve
from quorem.serve.look import look
from quorem.serve.policy import Policy
from quorem.serve.survey import survey
from quorem.serve.verified import Verified

BAD = ParityError("a version gives the scores of its export", found="others")
NO_LABELS = ("", "123", "٣", ".hidden", "x" * 65, "line\nbreak", "\u200b", "\ud800")
NO_FILES = ("", "{", "[]", "3", '{"a": 1, "a": 1}', '{"a": true}', '{"a": 1.0}', '{"a": "1"}', '{"a": {"b": 1}}')
NO_VERSIONS = ("0", "-1", "1e3", "null", "9223372036854775808", "NaN")


# ---------------------------------------------------------------- policy


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("latest:1", [9]), ("latest:2", [7, 9]), ("latest:99", [2, 3, 7, 9]), ("all", [2, 3, 7, 9]), ("9,2,5", [2, 9])],
)
def test_a_policy_chooses_among_the_versions_that_there_are(text: str, chosen: list[int]) -> None:
    assert Policy.parse(text).choose([7, 3, 9, 2]) == chosen
    assert Policy.parse(str(Policy.parse(text))) == Policy.parse(text)
    assert Policy.parse(text).choose([]) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "latest", "latest:", "latest:0", "latest:-1", "latest:01", "latest:1.5", "latest:٣", "latest:1 ", "ALL"),
        *(
            "0",
            "1,",
            ",1",
            "1,,2",
            "1, 2",
            "1,1",
            "01",
            "-1",
            "all,1",
            "9" * 19,
            "latest:" + "9" * 19,
            "9" * 5000,
            "1\n",
        ),
    ],
)
def test_a_policy_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(Malformed, match="latest:N, all") as error:
        Policy.parse(text)
    assert len(str(error.value)) < 400


# ---------------------------------------------------------------- labels


def test_labels_are_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / labels.NAME
    assert labels.read(path) == {}
    given = {"stable": 3, "v3": 2**63 - 1, "x" * 64: 1, "with space": 1, "größe": 2}
    path.write_text(json.dumps(given))
    assert labels.read(path) == given


@pytest.mark.parametrize(
    "text",
    [json.dumps({label: 1}) for label in NO_LABELS]
    + [f'{{"a": {number}}}' for number in NO_VERSIONS]
    + list(NO_FILES)
    + ["[" * 50_000, '{"a": 1' + "0" * 5000 + "}", " " * labels.MAX_BYTES + "{}"],
)
def test_labels_that_are_none_are_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / labels.NAME
    path.write_text(text)
    with pytest.raises(Malformed, match=r"labels\.json: ") as error:
        labels.read(path)
    assert len(str(error.value)) < 600


def test_labels_are_not_read_from_what_may_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / labels.NAME)
    with pytest.raises(Malformed, match="is a file"):
        labels.read(tmp_path / labels.NAME)


# ---------------------------------------------------------------- on disk


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    features = [runs.categorical("brand", "hash", 20)]
    root = tmp_path_factory.mktemp("catalogue")
    manifest = runs.model(features, [runs.field(features[0], "qr", pb.ADD, 4)], "fm")
    runs.make_run(root / "run", manifest, np.random.default_rng(0))
    return export(root / "run", root / "models" / "ctr")


@pytest.fixture
def models(exported: Path, tmp_path: Path) -> Path:
    """A repository with three versions of one model."""
    for number in "123":
        shutil.copytree(exported, tmp_path / "models" / "ctr" / number)
    return tmp_path / "models"


def spoil(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """A disk that fails where a directory lies; rights would not keep the superuser out."""

    def failing(listing: Any) -> Any:
        def listed(path: Any = ".") -> Any:
            if Path(path) == directory:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return listing(path)

        return listed

    patch.setattr(os, "scandir", failing(os.scandir))
    patch.setattr(os, "listdir", failing(os.listdir))


def served(root: Path, policy: str = "latest:1") -> list[str]:
    return [str(version) for version in survey(root, Policy.parse(policy)).versions]


def test_the_policy_and_the_labels_say_what_is_served(models: Path) -> None:
    assert served(models) == ["ctr/3"]
    assert served(models, "latest:2") == ["ctr/2", "ctr/3"]
    assert served(models, "all") == ["ctr/1", "ctr/2", "ctr/3"]
    assert served(models, "1,7") == ["ctr/1"]
    (models / "ctr" / labels.NAME).write_text('{"stable": 1}')
    assert served(models) == ["ctr/1", "ctr/3"]
    assert survey(models).catalogue.labels == {"ctr": {"stable": 1}}
    (models / "ctr" / labels.NAME).unlink()
    with pytest.raises(NotFound, match="no version that the policy 8 chooses"):
        survey(models, Policy.parse("8"))


def test_a_bad_version_gives_way_to_the_next_older_that_the_policy_allows(models: Path) -> None:
    (models / "ctr" / "3" / "tables.bin").write_bytes(b"")
    assert served(models) == ["ctr/2"]
    assert served(models, "latest:2") == ["ctr/1", "ctr/2"]
    with pytest.raises(NotFound, match="ctr/3: "):
        survey(models, Policy.parse("3"))


def test_a_version_is_verified_once_and_again_when_its_files_change(models: Path) -> None:
    bundle, verified = models / "ctr" / "3", Verified()
    (bundle / "manifest.json").rename(bundle / "late.json")
    wanted = look(models, Policy())
    (unknown,) = resolve(wanted, verified).unknown
    assert isinstance(verified.verify(unknown), MissingFile)
    assert "manifest.json" in verified.reason(unknown)
    assert unknown not in resolve(look(models, Policy()), verified).unknown, "nothing has changed"
    (bundle / "late.json").rename(bundle / "manifest.json")
    (whole,) = resolve(look(models, Policy()), verified).unknown
    assert (whole.number, whole == unknown) == (3, False)
    assert verified.verify(whole) is None
    assert resolve(look(models, Policy()), verified).unknown == ()
    shutil.rmtree(bundle)
    verified.prune()
    assert verified.known() == []


@pytest.mark.parametrize("rename", [True, False])
def test_a_file_of_as_many_bytes_makes_another_edition(models: Path, rename: bool) -> None:
    path, before = models / "ctr" / "3" / "tables.bin", look(models, Policy())
    times = path.stat()
    if rename:
        shutil.copy2(path, path.with_name(".tables"))
        path.with_name(".tables").rename(path)
    else:
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    after = look(models, Policy())
    assert after.present["ctr"][:2] == before.present["ctr"][:2]
    assert after.present["ctr"][2] != before.present["ctr"][2]


def test_who_loads_a_model_has_its_bad_versions_tried_again(models: Path) -> None:
    verified, wanted = Verified(), look(models, Policy())
    latest = wanted.present["ctr"][-1]
    verified.refuse(latest, BAD)
    assert verified.bad() == [(latest, BAD)]
    verified.forget("other")
    assert latest not in resolve(wanted, verified).unknown
    verified.forget("ctr")
    assert latest in resolve(wanted, verified).unknown


def test_a_look_ignores_hidden_names_and_what_is_no_version(models: Path) -> None:
    first = look(models, Policy())
    for name in (".hidden", "ctr/.4.tmp", "ctr/04", "ctr/notes", "ctr/x5"):
        shutil.copytree(models / "ctr" / "1", models / name)
    (models / "ctr" / "6").write_text("no directory")
    (models / "ctr" / "3" / ".tables.bin.77").write_text("being written")
    (models / "README").write_text("no directory")
    assert look(models, Policy()) == first
    assert [version.number for version in first.present["ctr"]] == [1, 2, 3]


def test_a_model_that_is_unloaded_is_not_wanted(models: Path) -> None:
    wanted = look(models, Policy(), frozenset({"ctr"}))
    assert not wanted.present
    first = survey(models)
    assert resolve(wanted, first.verified, first.catalogue).catalogue == NOTHING


@pytest.mark.parametrize("text", ["{", '{"stable": "three"}'])
def test_broken_labels_are_told_and_the_last_good_ones_stay(models: Path, text: str) -> None:
    path = models / "ctr" / labels.NAME
    path.write_text('{"stable": 1}')
    first = survey(models)
    path.write_text(text)
    wanted = look(models, Policy())
    assert resolve(wanted, first.verified, first.catalogue).catalogue == first.catalogue
    ((where, error),) = wanted.problems
    assert (where, type(error)) == ("ctr/labels.json", Malformed)
    assert survey(models).catalogue.labels == {}, "there are none at the start"


def test_a_label_of_no_version_is_told_and_stays_where_it_was(models: Path) -> None:
    path = models / "ctr" / labels.NAME
    path.write_text('{"stable": 1}')
    first = survey(models)
    path.write_text('{"stable": 4}')
    wanted = look(models, Policy())
    assert resolve(wanted, first.verified, first.catalogue).catalogue == first.catalogue
    ((_, error),) = wanted.problems
    assert isinstance(error, NotFound)
    assert "[1, 2, 3]" in error.remedy


def test_links_are_followed_within_the_repository_only(models: Path, exported: Path, tmp_path: Path) -> None:
    (models / "ctr" / "4").symlink_to("3")
    (models / "twin").symlink_to("ctr")
    assert served(models) == ["ctr/4", "twin/4"]
    (models / "ctr" / "5").symlink_to(exported)
    (models / "ctr" / "6").symlink_to("6")
    (models / "far").symlink_to(exported.parent)
    (models / "near").symlink_to(tmp_path / "models2")
    shutil.copytree(models / "ctr" / "1", tmp_path / "models2" / "1")
    found = survey(models)
    assert [str(version) for version in found.versions] == ["ctr/4", "twin/4"]
    assert {where: type(error) for where, error in found.refused} == dict.fromkeys(
        ("ctr/5", "far", "near", "twin/5"), UnsafePath
    )
    assert served_by_link(models, tmp_path) == ["ctr/4", "twin/4"]


def served_by_link(models: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "link").symlink_to(models)
    return served(tmp_path / "link")


def test_labels_are_not_read_through_a_link_out_of_the_repository(models: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    (models / "ctr" / labels.NAME).symlink_to(tmp_path / "secret.json")
    found = survey(models)
    ((where, error),) = found.refused
    assert (where, type(error)) == ("ctr/labels.json", UnsafePath)
    assert found.catalogue.labels == {}


def test_a_model_whose_name_is_no_text_is_passed_over(models: Path) -> None:
    for name in (b"\xff\xfe", b"two\nlines"):
        shutil.copytree(models / "ctr", models / os.fsdecode(name))
    found = survey(models)
    assert [str(version) for version in found.versions] == ["ctr/3"]
    assert [type(error) for _, error in found.refused] == [Malformed, Malformed]
    assert all(f"{where}: {error}".isprintable() for where, error in found.refused)


@pytest.mark.parametrize(("lost", "left"), [("ctr/3", ["ctr/2", "other/3"]), ("ctr", ["other/3"])])
def test_what_cannot_be_listed_is_passed_over_but_goes_on_if_it_was_served(
    models: Path, monkeypatch: pytest.MonkeyPatch, lost: str, left: list[str]
) -> None:
    shutil.copytree(models / "ctr", models / "other")
    (models / "ctr" / labels.NAME).write_text('{"stable": 3}')
    first = survey(models)
    spoil(models / lost, monkeypatch)
    wanted = look(models, Policy())
    assert resolve(wanted, first.verified, first.catalogue) == Resolved(first.catalogue, ())
    found = survey(models)
    assert [str(version) for version in found.versions] == left
    ((where, error),) = found.refused
    assert (where, type(error)) == (lost, MissingFile)
    assert "Input/output error" in error.found


def test_a_repository_that_cannot_be_listed_says_nothing(models: Path) -> None:
    shutil.rmtree(models)
    with pytest.raises(OSError, match="models"):
        look(models, Policy())


def test_a_catalogue_reaches_another_process_as_it_is(models: Path) -> None:
    (models / "ctr" / labels.NAME).write_text('{"stable": 1, "canary": 3}')
    catalogue = survey(models, Policy.parse("latest:2")).catalogue
    here, there = multiprocessing.Pipe()
    here.send((catalogue, Policy.parse("1,3")))
    assert there.recv() == (catalogue, Policy.parse("1,3"))
    assert catalogue.names == ["ctr"]
    assert [version.number for version in catalogue.all] == [1, 2, 3]
    assert catalogue != survey(models).catalogue


def test_a_worker_that_cannot_open_a_version_has_the_older_one_stay(models: Path) -> None:
    older = survey(models, Policy.parse("2")).catalogue
    verified, wanted = Verified(), look(models, Policy())
    while unknown := resolve(wanted, verified, older).unknown:
        for each in unknown:
            assert verified.verify(each) is None
    newer = resolve(wanted, verified, older).catalogue
    assert [str(version) for version in newer.all] == ["ctr/3"]
    verified.refuse(newer.all[0], BAD)
    while unknown := resolve(wanted, verified, newer).unknown:
        for each in unknown:
            assert verified.verify(each) is None
    assert resolve(wanted, verified, newer).catalogue == older
