"""Tuning: constants without a file, what it says with one, and a named refusal for every way to be wrong."""

import json
import shutil
from pathlib import Path

import pytest
from quorem.protos.errors import ArtifactError, Malformed, NewerFormat, NotFound
from quorem.serve import tuning
from quorem.serve.model import Model
from quorem.serve.settings import Version
from quorem.serve.survey import survey
from served import Rows


@pytest.fixture
def bundle(served_root: Path, golden: Rows, tmp_path: Path) -> Path:
    """A copy of the session's version, to be tuned."""
    return Path(shutil.copytree(served_root / "models", tmp_path / "models")) / "ctr" / "1"


@pytest.mark.parametrize(
    ("written", "rank_from"),
    [
        ({}, 24),
        ({"rank_from": 1, "machine": "here"}, 1),
        ({"rank_from": 2**31 - 1, "preferred_batch_sizes": [32, 128]}, 2**31 - 1),
        ({"rank_from": None, "preferred_batch_sizes": []}, None),
    ],
)
def test_a_tuning_says_from_how_many_candidates_to_rank(tmp_path: Path, written: dict[str, object], rank_from: int):
    assert tuning.read(tmp_path) == tuning.Tuning(24)
    (tmp_path / "tuning.json").write_text(json.dumps({"format_version": 1} | written))
    assert tuning.read(tmp_path) == tuning.Tuning(rank_from)


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        (b"", Malformed, "is a JSON file"),
        (b"\xff\xfe\x00", Malformed, "is a JSON file"),
        (b"[" * 100_000, Malformed, "is a JSON file"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", Malformed, "is a JSON file"),
        (b"[1]", Malformed, "is a JSON object"),
        (b"{}", Malformed, "states its format_version"),
        (b'{"format_version": 0}', Malformed, "states its format_version"),
        (b'{"format_version": true}', Malformed, "states its format_version"),
        (b'{"format_version": 2, "other": 1}', NewerFormat, "format 2"),
        (b'{"format_version": 1, "rank_to": 3}', Malformed, "'rank_to'"),
        (b'{"format_version": 1, "rank_from": 0}', Malformed, "1 to 2147483647"),
        (b'{"format_version": 1, "rank_from": 2147483648}', Malformed, "1 to 2147483647"),
        (b'{"format_version": 1, "rank_from": 24.0}', Malformed, "1 to 2147483647"),
        (b'{"format_version": 1, "rank_from": true}', Malformed, "1 to 2147483647"),
        (b'{"format_version": 1, "preferred_batch_sizes": [32, "128"]}', Malformed, "whole numbers"),
        (b'{"format_version": 1, "preferred_batch_sizes": 32}', Malformed, "whole numbers"),
        (b'{"format_version": 1, "machine": 3}', Malformed, "a text"),
    ],
)
def test_a_broken_tuning_is_refused_by_name(bundle: Path, text: bytes, error: type[ArtifactError], told: str):
    (bundle / "tuning.json").write_bytes(text)
    with pytest.raises(error, match=told) as refused:
        Model(Version("ctr", 1, bundle), "cpu")
    assert refused.value.where == str(bundle / "tuning.json")
    assert len(refused.value.found) < 400
    with pytest.raises(NotFound, match=told):
        survey(bundle.parents[1])


def test_a_tuning_that_cannot_be_read_is_refused(bundle: Path):
    (bundle / "tuning.json").mkdir()
    with pytest.raises(Malformed, match="is a JSON file"):
        tuning.read(bundle)
