"""A page on this machine that shows what a model finds: `python -m mrcnn.serve --weights RUN`."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from mrcnn.errors import UserError
from mrcnn.flags import parse, run
from mrcnn.predictor import load
from mrcnn.web import HOST, Server, ServerEnds


@dataclass(frozen=True)
class ServeConfig:
    """Open a page on this machine, where a model finds the objects of the pictures dropped on it.

    Nothing leaves the machine, and no other one reaches the page."""

    weights: Path
    """A run folder (its best checkpoint, else its last), a checkpoint file, a detector of another
    framework, or the name of a published one."""
    port: int = 8008
    """Of the page's address; 0 takes any that is free."""
    max_mb: int = 32
    """Megabytes of a picture file, at most."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port must lie in [0, 65535], got {self.port}")
        if not 1 <= self.max_mb <= 1000:
            raise UserError(f"--max-mb must lie in [1, 1000], got {self.max_mb}")


def main(argv: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = parse(ServeConfig, argv)
    try:
        server = Server(args.port, args.max_mb * 1_000_000, str(args.weights))
    except OSError as error:
        raise UserError(
            f"--port {args.port}: cannot be opened ({error.strerror}); "
            "name another, or 0 for any that is free"
        ) from error
    with server:
        server.predictor = load(args.weights, args.device, amp=args.amp)
        for note in server.predictor.notes:
            print(note)

        def end(*_: object) -> None:
            server.ends = True
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one does not wait

        # An exception in the middle of an answer could be lost there.
        signal.signal(signal.SIGINT, end)
        with suppress(ServerEnds):
            print(f"http://{HOST}:{server.port} (Ctrl-C ends it)", flush=True)
            server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    sys.exit(run(main))
