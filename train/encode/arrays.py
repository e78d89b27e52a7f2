"""Arrays: files of named little-endian arrays (safetensors), written whole or not at all, and mapped into memory."""

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ...protos.errors import Malformed
from ...protos.manifest import sync_directory

Arrays = dict[str, np.ndarray[Any, Any]]

_TYPES = {
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "I64": "<i8",
    "F32": "<f4",
}


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str], *, lasting: bool = True
) -> None:
    """Write arrays and text under a temporary name beside the file, then rename; `lasting`: flushed to the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it: save_file has its own mind
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, dict(metadata))
        temporary.chmod(mode)
        if lasting:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:  # of the system's own, as of a full disk, it gives the text alone
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if lasting:
        sync_directory(path.parent)


def map_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a file, read-only and mapped, and its text.

    Raises:
        Malformed: not such a file, or cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            size = int.from_bytes(whole[:8], "little")
            header: dict[str, Any] = json.loads(whole[8 : 8 + size])
        mapped = np.memmap(path, np.uint8, "r")
        text, arrays = header.pop("__metadata__", {}), Arrays()
        for name, told in header.items():
            first, last = told["data_offsets"]
            arrays[name] = np.asarray(mapped[8 + size + first : 8 + size + last]).view(_TYPES[told["dtype"]])
            arrays[name] = arrays[name].reshape(told["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Malformed(
            "a file of arrays is whole: a safetensors header, then the arrays",
            found=str(error)[:200],
            where=str(path),
            remedy="Delete the cache and encode again",
        ) from None
    return arrays, text
