"""Fuzz of the shim: what clients send over HTTP/2, spoilt at random: `python tests/fuzz_shim.py [SEED …]`.

It compiles fuzz_shim.c with the sanitizers of addresses and undefined behaviour and runs it for FUZZ_SECONDS (default
600) from FUZZ_SEED on (default: drawn, and told), or the cases of the given seeds. http2/ has bytes of real clients.
"""

import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "http2").iterdir())
SANITIZED = ["-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
WARNED = ["-Wall", "-Wextra", "-Werror"]
LIBRARY = "libnghttp2.so.14"
FOREVER = 1 << 62


def compiler() -> list[str]:
    """The C compiler; empty where there is none."""
    words = shlex.split(os.environ.get("CC") or "cc")
    return words if shutil.which(words[0]) else []


def build(place: Path) -> Path:
    """Compile the fuzzer into a folder."""
    made, sources = place / "fuzz_shim", [f"-I{HERE.parent / 'serve' / 'nghttp2'}", str(HERE / "fuzz_shim.c")]
    subprocess.run([*compiler(), *SANITIZED, *WARNED, *sources, f"-l:{LIBRARY}", "-o", str(made)], check=True)
    return made


def fuzz(fuzzer: Path, first: int, count: int, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run so many cases, or as many as there is time for; what it found stands in `stderr`."""
    told = [str(each) for each in (fuzzer, first, count, seconds, *CORPUS)]
    return subprocess.run(told, capture_output=True, text=True, timeout=seconds + 120, check=False)


def main(seeds: list[int]) -> int:
    """Fuzz; the exit status."""
    if not compiler():
        print("fuzz_shim: there is no C compiler, and nothing to find without one")
        return 0
    first, seconds = int(os.environ.get("FUZZ_SEED") or random.randrange(1 << 40)), os.environ.get("FUZZ_SECONDS")
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = build(Path(folder))
        for start, count in [(seed, 1) for seed in seeds] or [(first, FOREVER)]:
            done = fuzz(fuzzer, start, count, int(seconds or 600))
            print(done.stdout + done.stderr, end="")
            if done.returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))
