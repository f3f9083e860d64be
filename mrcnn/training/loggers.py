"""Who is told of a run's figures. A logger has three methods; bring your own by passing it on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mrcnn.errors import UserError


class Logger(Protocol):
    """What a run calls, in its main process alone."""

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Before the first step; `step` is more than 0 where a run is resumed."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures after `step` steps, by the names of the columns of results.csv and timing.csv."""

    def end(self) -> None:
        """After the last step, or before the run is left for another reason."""


class TensorBoard:
    """Writes event files for TensorBoard into a folder.

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
        self.writer = self.writer_class(str(self.folder), purge_step=step + 1)
        lines = (f"    {name}: {value}" for name, value in config.items())
        self.writer.add_text("config", "\n".join(lines), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            group = "loss" if "loss" in name else "AP" if "AP" in name else "run"
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def end(self) -> None:
        self.writer.close()
