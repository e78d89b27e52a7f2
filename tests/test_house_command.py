"""The `quorem` command: how a command ends when a rule is broken, an extra is missing or the reader goes."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from quorem import command
from quorem.protos.errors import DataError

ERROR = DataError("a label is 0 or 1", found="2", where="rows.csv, row 7", remedy="Write 0 or 1")


@pytest.fixture
def quorem(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`quorem check` with a run function of the test's own."""

    def run(body: Callable[[argparse.Namespace], int], *arguments: str, extra: str | None = None) -> int:
        parser = argparse.ArgumentParser()
        check = parser.add_subparsers(dest="command").add_parser("check")
        check.add_argument("--json", action="store_true")
        check.set_defaults(run=body, extra=extra)
        monkeypatch.setattr(command, "_parser", lambda: parser)
        return command.main(["check", *arguments])

    return run


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def body(args: argparse.Namespace) -> int:
        raise error

    return body


def test_the_status_of_a_command_is_the_status_of_the_process(quorem: Callable[..., int]):
    assert quorem(lambda args: 5) == 5


def test_a_broken_rule_is_told_whole(quorem: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert quorem(raising(ERROR)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"quorem check: {ERROR}\n"


def test_a_broken_rule_is_told_to_a_script(quorem: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert quorem(raising(ERROR), "--json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == ERROR.as_dict()
    assert json.loads(err)["error"] == "DataError"


@pytest.mark.parametrize(
    ("module", "own", "named"),
    [
        ("torch", "train", "train"),
        ("pyarrow", "train", "train"),
        ("pyarrow", None, "bench"),
        ("pyarrow", "bench", "bench"),
    ],
)
def test_a_missing_extra_is_named(
    quorem: Callable[..., int], capsys: pytest.CaptureFixture[str], module: str, own: str | None, named: str
):
    missing = ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert quorem(raising(missing), extra=own) == 2
    assert capsys.readouterr().err.endswith(f"{module}, which is not installed: pip install 'quorem[{named}]'\n")
    assert quorem(raising(missing), "--json", extra=own) == 2
    assert json.loads(capsys.readouterr().err)["remedy"] == f"pip install 'quorem[{named}]'"


def test_a_module_of_no_extra_is_a_bug_and_keeps_its_traceback(quorem: Callable[..., int]):
    with pytest.raises(ModuleNotFoundError):
        quorem(raising(ModuleNotFoundError("No module named 'quorem.lost'", name="quorem.lost")))


def test_an_interrupt_ends_as_shells_expect(quorem: Callable[..., int]):
    assert quorem(raising(KeyboardInterrupt())) == 130


@pytest.mark.parametrize("arguments", ["--help", "train --help"])
def test_a_reader_that_goes_is_no_error(arguments: str):
    script = f"'{sys.executable}' -m quorem {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where the pipe took all of it before its reader went


@pytest.mark.parametrize("way", [["-m", "quorem"], [str(Path(sys.executable).with_name("quorem"))]])
def test_both_ways_in_are_the_same(way: list[str]):
    start = [sys.executable, *way] if way[0] == "-m" else way
    done = subprocess.run([*start, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"quorem {command.__version__}\n")
