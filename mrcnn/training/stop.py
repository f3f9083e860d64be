"""Signals that ask a run to end: it saves its state after the step it is in."""

from __future__ import annotations

import os
import signal
from types import FrameType


class StopRequest:
    """Set by SIGTERM (a scheduler takes the machine back) or SIGINT (Ctrl-C).

    A second SIGINT ends the program at once; the last saved state is whole whatever happens.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    @property
    def exit_code(self) -> int:
        """As shells report it: 143 after SIGTERM, 130 after SIGINT; 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            os._exit(128 + number)
        self.signal = number
        name = signal.Signals(number).name
        # os.write: print could meet itself, interrupted in the middle of a line.
        os.write(2, f"\n{name}: saving after this step; Ctrl-C ends at once\n".encode())

    def restore(self) -> None:
        """Let signals do what they do elsewhere."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
