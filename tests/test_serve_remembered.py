"""Versions that were read before: not read again until a file of theirs changes, and never believed for more."""

import json
import os
import shutil
from pathlib import Path

import pytest
from quorem.protos.errors import Malformed, NotFound
from quorem.serve.policy import Policy
from quorem.serve.remembered import Remembered
from quorem.serve.survey import survey
from served import Rows


@pytest.fixture
def models(served_root: Path, golden: Rows, tmp_path: Path) -> Path:
    shutil.copytree(served_root / "models", tmp_path / "models")
    return tmp_path / "models"


def spoil(models: Path) -> os.stat_result:
    """Change a byte of the tables and put the times back; returns the facts before."""
    path = models / "ctr" / "1" / "tables.bin"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    return before


def test_digests_are_computed_once(models: Path, tmp_path: Path):
    kept = tmp_path / "verified.json"
    assert str(survey(models, Policy(), Remembered(kept)).versions[0]) == "ctr/1"
    assert json.loads(kept.read_bytes())["format"] == "quorem.verified/1"
    before = spoil(models)
    os.utime(models / "ctr" / "1" / "tables.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert survey(models, Policy(), Remembered(kept)).versions, "bytes alone are not looked at: what the help says"
    with pytest.raises(NotFound, match=r"tables\.bin"):
        survey(models, Policy(), Remembered(None))


def test_a_file_that_changed_is_read_again(models: Path, tmp_path: Path):
    kept = tmp_path / "verified.json"
    survey(models, Policy(), Remembered(kept))
    spoil(models)
    with pytest.raises(NotFound, match=r"tables\.bin"):
        survey(models, Policy(), Remembered(kept))


def test_a_bad_version_is_not_remembered(models: Path, tmp_path: Path):
    kept = tmp_path / "verified.json"
    spoil(models)
    for _ in range(2):
        with pytest.raises(NotFound, match=r"tables\.bin"):
            survey(models, Policy(), Remembered(kept))
    assert not kept.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "quorem.verified/1", "editions": {"a": 1}}', "\0\xff"])
def test_another_file_is_refused(text: str, tmp_path: Path):
    (tmp_path / "verified.json").write_text(text)
    with pytest.raises(Malformed, match="--remember"):
        Remembered(tmp_path / "verified.json")
    assert (tmp_path / "verified.json").read_text() == text


def test_a_file_that_cannot_be_written_is_told_and_no_error(models: Path, tmp_path: Path, caplog):
    kept = Remembered(tmp_path / "nowhere" / "verified.json")
    assert survey(models, Policy(), kept).versions
    assert "cannot be written" in caplog.text
