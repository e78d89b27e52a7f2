"""An environment: a peer and all that it needs, at the versions of its requirements file, away from everything else."""

import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")
DEBIAN = Path("/usr/bin/python3")  # PyTriton carries a libpython whose modules only Debian's 3.11.2 fits
PYTHONS = {"kserve": Path(sys.executable), "mlserver": Path(sys.executable), "pytriton": DEBIAN}
STAMP = "installed.txt"


def install(package: str, work: Path) -> Path:
    """The interpreter of a peer's environment, which is made unless it stands there from another time."""
    wanted = (REQUIREMENTS / f"{package}.txt").read_text()
    directory = work / "environments" / package
    stamp, python = directory / STAMP, directory / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {package} into {directory}", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        directory.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([PYTHONS[package], "-m", "venv", directory], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, "-r", REQUIREMENTS / f"{package}.txt"], check=True)
        stamp.write_text(wanted)
    return python


def versions(package: str) -> dict[str, str]:
    """What a reader wants to know of a requirements file: the peer and what answers and computes for it."""
    pins = dict(line.split("==") for line in (REQUIREMENTS / f"{package}.txt").read_text().splitlines())
    told = ("kserve", "mlserver", "nvidia-pytriton", "onnxruntime", "grpcio", "numpy", "uvloop")
    return {name: pins[name] for name in told if name in pins}
