"""The `[data]` section: what it takes, what it refuses, and which files its paths mean."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from quorem.protos.errors import DataError
from quorem.train.data import DataConfig
from quorem.train.sources.paths import resolve

ROWS = {"train": 10, "valid": 10, "test": 10}
FILES = {"train": "a", "valid": "b"}
SHARE = {"by": "share", "valid": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    "section",
    [
        {"source": "parquet", **FILES},
        {"source": "libfm", **FILES, "test": "c", "rows": 5, "negative_rate": 0.25},
        {"source": "csv", "path": "a", "split": SHARE, "delimiter": ";", "sample_weight": "w", "group": "g"},
        {"source": "criteo", "path": "a", "split": {"by": "time", "column": "t", "valid": 0.1}},
        {"source": "synthetic", "synthetic": {"rows": ROWS, "scale": 1, "bag": 3}},
    ],
)
def test_a_section_survives_being_written_and_read(section):
    config = DataConfig.model_validate(section)
    assert DataConfig.model_validate(config.model_dump(exclude_none=True)) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.label = "other"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"source": "orc", **FILES}, "'parquet', 'criteo', 'csv', 'libfm' or 'synthetic'"),
        ({"source": "parquet", **FILES, "tran": "c"}, "tran"),
        ({"source": "parquet"}, "either train and valid .* or path and split; found none"),
        ({"source": "parquet", "train": "a"}, "found train"),
        ({"source": "parquet", **FILES, "path": "c"}, "found train, valid, path"),
        ({"source": "parquet", "path": "c"}, "found path"),
        ({"source": "parquet", "path": "c", "split": SHARE, "test": "d"}, "found test, path, split"),
        ({"source": "parquet", **FILES, "delimiter": ";"}, "delimiter goes with"),
        ({"source": "csv", **FILES, "delimiter": "::"}, "delimiter"),
        ({"source": "parquet", **FILES, "rows": 0}, "rows"),
        ({"source": "parquet", **FILES, "rows": "5"}, "rows"),
        ({"source": "parquet", **FILES, "negative_rate": 0.0}, "negative_rate"),
        ({"source": "parquet", **FILES, "synthetic": {"rows": ROWS}}, "data.synthetic goes with"),
        ({"source": "synthetic"}, "takes the table data.synthetic"),
        ({"source": "synthetic", "synthetic": {"rows": ROWS}, **FILES}, "no files; found train, valid"),
        ({"source": "synthetic", "synthetic": {"rows": {**ROWS, "test": 0}}}, "synthetic.rows.test"),
        ({"source": "synthetic", "synthetic": {"rows": ROWS, "scale": 2.0}}, "synthetic.scale"),
        ({"source": "csv", "path": "c", "split": {"by": "share", "valid": 0.5, "test": 0.5}}, "rows to train on"),
        ({"source": "csv", "path": "c", "split": {"by": "share", "valid": 0.0}}, "valid"),
        ({"source": "csv", "path": "c", "split": {"by": "time", "valid": 0.1}}, "column"),
        ({"source": "csv", "path": "c", "split": {"by": "share", "valid": 0.1, "column": "t"}}, "column"),
        ({"source": "csv", "path": "c", "split": {"by": "fold", "valid": 0.1}}, "'share', 'time'"),
    ],
)
def test_a_section_that_means_nothing_is_refused(section, said):
    with pytest.raises(ValidationError, match=said):
        DataConfig.model_validate(section)


def test_a_path_starts_from_the_recipe_and_a_glob_is_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe, days = tmp_path / "recipes[1]", tmp_path / "days"
    recipe.mkdir()
    days.mkdir()
    for name in ("day_2", "day_0", "day_1"):
        (days / name).touch()
    (days / "day_9").mkdir()
    expected = ["day_0", "day_1", "day_2"]
    monkeypatch.setenv("CLICKS", str(days))
    monkeypatch.setenv("HOME", str(tmp_path))
    for pattern in (
        "../days/day_*",
        f"{days}/day_?",
        "$CLICKS/day_*",
        "${CLICKS}/day_*",
        "~/days/*",
        "../d*/day_[0-9]",
    ):
        assert [path.name for path in resolve(pattern, recipe, "data.train")] == expected, pattern
    assert resolve("$CLICKS/day_1", recipe, "data.train") == (days / "day_1",)


def test_a_path_that_means_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CLICKS", raising=False)
    with pytest.raises(DataError, match=r"\$CLICKS is not set.*Export CLICKS="):
        resolve("$CLICKS/a.csv", tmp_path, "data.train")
    for pattern, said in (
        ("a.csv", "no file .*a.csv"),
        ("*.csv", "no file matches"),
        ("", "no file"),
        (".", "no file"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            resolve(pattern, tmp_path, "data.valid")
        assert caught.value.where == f"data.valid = {pattern!r}"
        assert str(tmp_path) in caught.value.remedy
