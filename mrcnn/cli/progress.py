"""Progress lines of the commands that take long."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from mrcnn.cli.streams import PrintableStream, styled
from mrcnn.errors import printable

_REDRAW_SECONDS = 0.1


class ProgressLine:
    """A line of progress: redrawn in place in a terminal, printed again and again elsewhere.

    Messages that are printed meanwhile appear above the line.

    Args:
        every: Seconds between printed lines. The line of the last item is always printed.
        redraw: Whether a terminal shows one line that is redrawn. False prints lines there, too.

    Example:
        >>> with ProgressLine(every=5.0) as line:
        ...     for done in range(1, 4):
        ...         line.update(done, 3, f"{done} of 3 images")
        3 of 3 images
    """

    def __init__(self, every: float = 0.0, redraw: bool = True) -> None:
        self.every, self.start = every, time.perf_counter()
        self.next = self.start + every  # when the next line is due
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if redraw and sys.stdout is not None and sys.stdout.isatty():
            self.next, self.every = self.start, _REDRAW_SECONDS
            # In a narrow window the end of the text is cut, and the bar stays.
            column = Column(ratio=1, no_wrap=True)
            text = TextColumn("{task.fields[text]}", markup=False, table_column=column)
            console = Console(file=styled(sys.stdout))
            # Without auto_refresh there is no thread that forked worker processes would lack.
            self.bar = Progress(
                BarColumn(bar_width=6), text, console=console, expand=True, auto_refresh=False
            )
            self.task = self.bar.add_task("", text="")
            self.bar.start()  # replaces the streams; messages are escaped before it prints them
            sys.stdout = PrintableStream(sys.stdout)
            sys.stderr = PrintableStream(sys.stderr)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int, total: int, text: str) -> None:
        """Show `text` if a line is due, or if the last of `total` items is done."""
        now, text = time.perf_counter(), printable(text)
        due = now >= self.next or done >= total
        if due:
            self.next = now + self.every
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, text=text, refresh=due)
        elif due:
            print(text, flush=True)

    def images(self, done: int, total: int) -> None:
        """Show the number of images done and the speed."""
        self.update(done, total, f"{done}/{total} images, {self.rate(done):.1f} img/s")

    def rate(self, done: int) -> float:
        """Return the items per second since the line was made."""
        return done / max(time.perf_counter() - self.start, 1e-9)

    def close(self) -> None:
        """Leave the last line on the screen."""
        if self.bar is not None:
            self.bar.stop()
