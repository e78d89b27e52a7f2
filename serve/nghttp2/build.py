"""Build: compile the shim, `python -m quorem.serve.nghttp2.build`; without it the transport is slower, and works.

The result stands beside this file, or where that may not be written, in the user's cache; its name holds a digest of
what it was made of, so that one of another release is never loaded.
"""

import contextlib
import hashlib
import io
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DECLARATIONS = "library.h", "shim.h"
LIBRARY = "libnghttp2.so.14"
STRICT = ["-std=gnu11", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror"]
COMPILE_S = 120


class BuildError(Exception):
    """What stood in the way, as a sentence."""


def name() -> str:
    """The module's name: of its sources and of what Python it is for."""
    digest = hashlib.sha256(str(sysconfig.get_config_var("EXT_SUFFIX")).encode())
    for file in (*DECLARATIONS, "shim.c"):
        digest.update((HERE / file).read_bytes())
    return f"_shim_{digest.hexdigest()[:12]}"


def places() -> list[Path]:
    """Where the module may stand, best first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = name() + str(sysconfig.get_config_var("EXT_SUFFIX"))
    return [HERE / file, cache / "quorem" / file]


def build() -> Path:
    """Compile the shim; where it stands.

    Raises:
        BuildError: no cffi, compiler, header of Python's or library, or no place to write to.
    """
    place = next((each for each in places() if _writable(each.parent)), None)
    if place is None:
        raise BuildError(f"neither {places()[0].parent} nor {places()[1].parent} can be written to")
    try:
        from cffi import FFI
    except ImportError as error:
        raise BuildError(f"cffi cannot be imported: {error}") from None
    ffi = FFI()
    ffi.cdef("".join((HERE / file).read_text() for file in DECLARATIONS))
    ffi.set_source(name(), '#include <stdint.h>\n#include "library.h"\n#include "shim.h"\n')
    with tempfile.TemporaryDirectory(prefix=".shim-", dir=place.parent) as folder:
        glue = Path(folder) / f"{name()}.c"
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the file's name
            ffi.emit_c_code(str(glue))
        headers = [f"-I{HERE}", f"-I{sysconfig.get_path('include')}"]
        _compile([*STRICT, f"-I{HERE}", "-c", HERE / "shim.c", "-o", Path(folder) / "shim.o"])
        _compile(
            [
                "-O2",
                "-fPIC",
                "-shared",
                *headers,
                glue,
                Path(folder) / "shim.o",
                f"-l:{LIBRARY}",
                "-o",
                glue.with_suffix(".so"),
            ]
        )
        glue.with_suffix(".so").replace(place)
    for old in place.parent.glob(f"_shim_*{place.suffixes[0]}*"):
        if old != place:
            old.unlink()
    return place


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _compile(arguments: list[str | Path]) -> None:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    try:
        done = subprocess.run(
            [*compiler, *map(str, arguments)], capture_output=True, text=True, timeout=COMPILE_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the C compiler {compiler[0]!r} cannot be run: {error}") from None
    if done.returncode:
        raise BuildError(f"the C compiler {compiler[0]!r} says:\n{done.stderr.strip()}")


def main() -> int:
    """Build and say so; the exit status."""
    try:
        print(f"built {build()}")
    except BuildError as error:
        print(f"The shim of the nghttp2 transport is not built: {error}", file=sys.stderr)
        print(f"It needs a C compiler, Python's headers and {LIBRARY}. The server runs without it.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
