"""The board: a run's metrics as event files for TensorBoard, where the package tensorboard is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIRECTORY = "tensorboard"


class Board:
    """Event files in a run's directory `tensorboard`; nothing at all without the package.

    Steps from the first one on replace what an interrupted process had told of them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._make, self._writer = directory / DIRECTORY, None, None

    def open(self) -> None:
        """Import what writes them: before the clock of the training runs."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._make = SummaryWriter

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Tell numbers by name; what is no number is passed over."""
        if self._make is None:
            return
        if self._writer is None:
            self._writer = self._make(str(self._directory), purge_step=step)
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()
