"""The README: every block in it runs, in order, as a reader would run it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(?P<language>bash|console|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LONG = re.compile(r"^make (demo|test)\b.*$", re.MULTILINE)  # the two that a test must not start: they start this one
BLOCK_SECONDS = 300


def blocks(readme: str) -> Iterator[tuple[int, str, str]]:
    """Each block that is to run: its line in the README, its language, its code (empty ones left out)."""
    for found in BLOCK.finditer(readme):
        language, text = found["language"], found["text"]
        if language == "console":  # a session: prompts and what came back
            text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        if language != "python":
            text = LONG.sub("", text)
        if text.strip():
            yield readme[: found.start()].count("\n") + 1, language, text


@pytest.mark.skipif(os.name == "nt", reason="the blocks are for a POSIX shell")
def test_every_block_runs(tmp_path: Path):
    todo = list(blocks((ROOT / "README.md").read_text()))
    assert todo, "a README without a single command shows nothing"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    started = list[int]()
    try:
        for line, language, text in todo:
            command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
            log = tmp_path / f"line-{line}.log"  # a file: a server left in the background would hold a pipe open
            with log.open("w") as out:
                block = subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                started.append(block.pid)
                status = block.wait(BLOCK_SECONDS)
            assert status == 0, f"README.md:{line} ended with {status}\n{text}\n{log.read_text()}"
    finally:
        for group in started:  # what the blocks left running
            try:
                os.killpg(group, signal.SIGTERM)
            except ProcessLookupError:
                continue


def test_what_counts_as_a_block():
    readme = (
        "```bash\nmake demo\n```\n"
        "```bash\ntrue | false\nmake test   # all\n```\n"
        "```text\nnot run\n```\n"
        "```console\n$ echo a\na\n```\n"
    )
    assert [(line, text.strip()) for line, _, text in blocks(readme)] == [(4, "true | false"), (11, "echo a")]


def test_the_tree_has_a_line_for_every_file():
    tree = (ROOT / "README.md").read_text().rpartition("```text\n")[2]
    lines = dict[str, set[str]]()
    folder = ""
    for line in tree.partition("```")[0].splitlines():
        name = line.split()[0]
        if name.endswith("/"):
            folder = name.removesuffix("/")
        elif line.startswith("  "):
            lines.setdefault(folder, set()).add(name)
        else:
            lines.setdefault("", set()).add(name)
    for folder in (
        "",
        "protos",
        "train",
        "train/compare",
        "train/encode",
        "train/search",
        "train/sources",
        "export",
        "serve",
        "serve/bench",
        "serve/nghttp2",
    ):
        files = {path.name for path in (ROOT / folder).glob("*.py") if "_pb2" not in path.name} - {"__init__.py"}
        told = {name for name in lines[folder] if name.endswith(".py")}
        assert told == files, f"README.md, the tree, {folder or 'top level'}"
