"""Loggers, which receive the metrics of a run. Pass your own to `mrcnn.training.train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mrcnn.errors import UserError


class Logger(Protocol):
    """Three methods that a run calls in its main process."""

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Begin before the first step; `step` is more than 0 if the run is resumed."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics after `step` steps, named like columns of results.csv or timing.csv."""

    def end(self) -> None:
        """End after the last step, or when the run ends for another reason."""


class TensorBoard:
    """Event files for TensorBoard in a folder.

    Raises:
        UserError: if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"--tensorboard: {error}; run: pip install 'mrcnn[tensorboard]'"
            ) from None
        self.writer_class, self.folder = SummaryWriter, folder

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Open the event file and write the configuration as text."""
        self.writer = self.writer_class(str(self.folder), purge_step=step + 1)
        lines = (f"    {name}: {value}" for name, value in config.items())
        self.writer.add_text("config", "\n".join(lines), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar per metric."""
        for name, value in values.items():
            group = "loss" if "loss" in name else "AP" if "AP" in name else "run"
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def end(self) -> None:
        """Close the event file."""
        self.writer.close()
