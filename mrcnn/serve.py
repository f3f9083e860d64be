"""Serve a page that shows a model's predictions: `python -m mrcnn.serve`."""

from __future__ import annotations

import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mrcnn.cli.flags import parse, run
from mrcnn.errors import UserError
from mrcnn.inference.model_flags import ProgramFlags


@dataclass(frozen=True)
class ServeConfig(ProgramFlags):
    """Open a local web page that detects objects in dropped images.

    Nothing leaves the machine, and no other machine can reach the page without --host.
    """

    weights: Path
    """A run folder (its best checkpoint, else its last), a checkpoint file, a detector of another
    framework, or the name of a published model."""
    port: int = 8008
    """Port of the page; 0 takes any free one."""
    host: str = "127.0.0.1"
    """Address of this machine to listen on. With another than the default, such as 0.0.0.0 for all,
    other machines can use the page, if they know the token in the printed address."""
    max_mb: int = 32
    """Largest image file, in megabytes."""
    device: str = "auto"
    """Device that runs the model: cpu, cuda, cuda:N, or auto for a GPU if there is one."""
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port must be in [0, 65535], got {self.port}")
        if not 1 <= self.max_mb <= 1000:
            raise UserError(f"--max-mb must be in [1, 1000], got {self.max_mb}")


def main(argv: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = parse(ServeConfig, argv)
    from mrcnn.inference.load import load

    try:
        from mrcnn.serving.answers import example_image
        from mrcnn.serving.app import build_app
        from mrcnn.serving.connection import HOST, make_server, reachable_address
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "h11"):
            raise
        raise UserError(f"the page needs {error.name}; run: pip install 'mrcnn[serve]'") from error
    try:
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        listener = socket.create_server((args.host, args.port), family=family)
    except (OSError, ValueError) as error:  # ValueError: no name of a machine
        raise UserError(
            f"--host {args.host} --port {args.port}: cannot be opened "
            f"({getattr(error, 'strerror', None) or error}); name an address of this machine, and "
            "another port, or 0 for any free one"
        ) from error
    with listener:
        predictor = load(args.weights, args.device, amp=args.amp, **args.fields())
        for note in predictor.notes:
            print(note)
        max_bytes = args.max_mb * 1_000_000
        example = example_image(args.weights, predictor.config.class_names, max_bytes)
        token = "" if listener.getsockname()[0] == HOST else secrets.token_urlsafe(16)
        app = build_app(predictor, str(args.weights), max_bytes, example, token)
        address = f"http://{reachable_address(listener)}:{listener.getsockname()[1]}"
        if token:
            address += f"/?token={token}"
            print(
                "warning: other machines can reach the page. Whoever has the whole address can use "
                "it, and the network can read the address and the images: they are not encrypted."
            )
        server = make_server(app, partial(print, address, "(Ctrl-C ends it)", flush=True))
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once all answers are sent
            server.run([listener])


if __name__ == "__main__":
    sys.exit(run(main))
