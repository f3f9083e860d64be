"""Standard streams that never end a command, and that show control characters as escapes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from mrcnn.errors import printable


class PrintableStream:
    """A text stream that escapes control characters, and goes silent at the first error.

    Class names and file names could otherwise move the cursor of a terminal, or reorder its lines.

    Attributes:
        stream: The stream that receives the text. This one has its other attributes.
        escape: False passes control characters on, for text with colours.
        error: The first error of the system, such as a full disk or a pipe without a reader.
    """

    def __init__(self, stream: TextIO, escape: bool = True) -> None:
        self.stream, self.escape = stream, escape
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; newlines and tabs stay."""
        with self._silent_after_error():
            self.stream.write(printable(text, keep="\n\t") if self.escape else text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Write what is buffered."""
        with self._silent_after_error():
            self.stream.flush()

    @contextmanager
    def _silent_after_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            # What is still buffered goes nowhere; a file without a number keeps failing.
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


def styled(stream: TextIO) -> TextIO:
    """Return a stream that passes control characters on to where `stream` writes."""
    if isinstance(stream, PrintableStream):
        return PrintableStream(stream.stream, escape=False)  # type: ignore[return-value]
    return stream


def call_safely(command: Callable[[], int]) -> int:
    """Call a command whose output cannot end it, and return the exit code.

    That of the command, if it is not 0; else 141 if the reader of the output has gone, as for
    `| head`, and 2 if the output could not be written for another reason.
    """
    if isinstance(sys.stdout, PrintableStream):
        return command()
    with _safe_streams() as output:
        code = command()
    if output.error is None:
        return code
    return code or (141 if output.error.errno == errno.EPIPE else 2)


@contextmanager
def _safe_streams() -> Iterator[PrintableStream]:
    """Print through a `PrintableStream` inside this context.

    Characters that the encoding lacks are escaped. Closed streams are replaced by the null device:
    the next files would otherwise take their numbers, and receive what is printed.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # the lowest free number is taken
    os.close(null)
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115  open to the end
        with suppress(AttributeError):  # of streams that tests put here
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, PrintableStream(stream))
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    with suppress(AttributeError):  # file names of any encoding
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    output: Any = sys.stdout
    try:
        yield output
    finally:
        output.flush()
        if output.error is not None and output.error.errno != errno.EPIPE:
            reason = output.error.strerror
            print(f"mrcnn: some output could not be printed ({reason})", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
