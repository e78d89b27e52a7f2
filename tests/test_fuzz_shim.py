"""The first cases of the shim's fuzz: nothing that clients send leads beyond its memory or miscounts what it holds."""

import ctypes
from pathlib import Path

import fuzz_shim
import pytest

CASES = 5000


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not fuzz_shim.compiler():
        pytest.skip("there is no C compiler")
    try:
        ctypes.CDLL(fuzz_shim.LIBRARY)
    except OSError as error:
        pytest.skip(str(error))
    return fuzz_shim.build(tmp_path_factory.mktemp("fuzzer"))


def test_spoilt_frames_do_no_harm(fuzzer: Path):
    done = fuzz_shim.fuzz(fuzzer, 1, CASES, 60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{CASES} cases from 1 on")


def test_a_seed_gives_the_same_cases_again(fuzzer: Path):
    assert len({fuzz_shim.fuzz(fuzzer, 77, 200, 60).stdout for _ in range(2)}) == 1


def test_a_fault_of_the_shim_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not fuzz_shim.compiler():
        pytest.skip("there is no C compiler")
    sources = fuzz_shim.HERE.parent / "serve" / "nghttp2"
    spoilt = tmp_path / "serve" / "nghttp2"
    spoilt.mkdir(parents=True)
    for name in ("library.h", "shim.h", "shim.c"):
        (spoilt / name).write_text((sources / name).read_text())
    text = (spoilt / "shim.c").read_text()
    assert "valued < TIMEOUT_BYTES ? valued : TIMEOUT_BYTES" in text
    (spoilt / "shim.c").write_text(text.replace("valued < TIMEOUT_BYTES ? valued : TIMEOUT_BYTES", "valued"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "fuzz_shim.c").write_text((fuzz_shim.HERE / "fuzz_shim.c").read_text())
    monkeypatch.setattr(fuzz_shim, "HERE", tmp_path / "tests")
    done = fuzz_shim.fuzz(fuzz_shim.build(tmp_path), 1, 20000, 60)
    assert done.returncode != 0
