"""Signals that ask a run to stop: it saves its state after the current step."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from mrcnn.data.loading.workers import STOP_SIGNALS


class StopRequest:
    """Set by one of `STOP_SIGNALS` inside its `with` block.

    SIGTERM comes from a scheduler, SIGINT from Ctrl-C, SIGHUP from a terminal or connection that
    closes, SIGUSR1 and SIGUSR2 from Slurm's `--signal`. The last three are left alone if they
    are ignored, as under `nohup`, or have a handler. A second SIGINT ends the process at once;
    the last saved state stays intact. Signals are only handled in the main thread of a process.

    Attributes:
        signal: The signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                always = number in (signal.SIGTERM, signal.SIGINT)
                if always or signal.getsignal(number) == signal.SIG_DFL:
                    self.handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @property
    def exit_code(self) -> int:
        """The exit code that shells report: 143 after SIGTERM, 130 after SIGINT, else 0."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            os._exit(128 + number)
        self.signal = number
        name = signal.Signals(number).name
        # os.write, since a signal may interrupt print in the middle of a line.
        with suppress(OSError):
            os.write(2, f"\n{name}: saving after this step; press Ctrl-C to end at once\n".encode())
