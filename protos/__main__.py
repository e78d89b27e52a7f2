"""Generate the Python code of the `.proto` files beside this one: `python -m quorem.protos [DIRECTORY]`."""

import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVICES = {"scoring.proto", "open_inference.proto"}


def generate(out: Path) -> list[Path]:
    """Write `*_pb2.py`, `*_pb2.pyi` and, for files with a service, `*_pb2_grpc.py` into `out`.

    The compiler sees the files as `quorem/protos/x.proto`, so that a message has one name for every tool; the absolute
    imports it writes are made relative, as everywhere else in quorem.
    """
    from grpc_tools import protoc  # only developers have it

    sources = sorted(path.name for path in HERE.glob("*.proto"))
    well_known = str(files("grpc_tools") / "_proto")
    written = list[Path]()
    with tempfile.TemporaryDirectory() as scratch:
        base = [f"-Iquorem/protos={HERE}", f"-I{well_known}"]
        messages = [f"--python_out={scratch}", f"--pyi_out={scratch}", *(f"quorem/protos/{name}" for name in sources)]
        stubs = [f"--grpc_python_out={scratch}", *(f"quorem/protos/{name}" for name in sorted(SERVICES))]
        for arguments in (messages, stubs):
            if protoc.main(["protoc", *base, *arguments]) != 0:
                raise SystemExit("protoc failed; its message is above")
        for path in sorted((Path(scratch) / "quorem" / "protos").iterdir()):
            text = re.sub(r"^from quorem\.protos import", "from . import", path.read_text(), flags=re.MULTILINE)
            target = out / path.name
            target.write_text(text)
            written.append(target)
    return written


if __name__ == "__main__":
    for generated in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE):
        print(generated)
