"""A server in this process, raw requests to it, and a model with fixed detections."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette

from mrcnn.inference.results import Result
from mrcnn.ops import rle
from mrcnn.serving.app import build_app
from mrcnn.serving.connection import HOST, make_server
from tests.helpers import tiny

MAX_BYTES = 200_000


class Known:
    """A model that detects four squares of 8 x 8 pixels in the upper left of any image."""

    config = tiny.CONFIG
    category_ids = tiny.CONFIG.category_ids
    scores = (0.9, 0.8, 0.6, 0.3)
    labels = (1, 0, 1, 0)

    def __init__(self, class_names: tuple[str, ...] = config.class_names) -> None:
        self.class_names = class_names

    def predict(self, image: np.ndarray, score_threshold: float) -> Result:
        assert score_threshold == 0
        boxes = np.array([[16 * i + 8, 8, 16 * i + 16, 16] for i in range(4)], np.float32)
        return Result(
            image=image,
            boxes=boxes,
            scores=np.array(self.scores, np.float32),
            labels=np.array(self.labels),
            rles=[rle.from_box(box, *image.shape[:2]) for box in boxes],
            class_names=self.class_names,
            category_ids=self.category_ids,
        )


@dataclass
class Running:
    """A running server, its application, and its port."""

    server: uvicorn.Server
    app: Starlette
    port: int

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@contextmanager
def serving(predictor: Any, max_bytes: int = MAX_BYTES, **options: Any) -> Iterator[Running]:
    """Serve at any free port until the end of the block."""
    app = build_app(predictor, "runs/1", max_bytes, **options)
    server = make_server(app)
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        try:
            yield Running(server, app, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def image_file(height: int = 40, width: int = 80, format: str = "png", seed: int = 0) -> bytes:
    """Return an image file of noise."""
    buffer = io.BytesIO()
    Image.fromarray(tiny.noise(height, width, seed)).save(buffer, format)
    return buffer.getvalue()


def post(body: bytes = b"", path: str = "/predict", **headers: str | None) -> bytes:
    """Return a valid request, changed by the given headers; None removes a header."""
    usual = {"Host": "127.0.0.1", "Content-Type": "image/png", "Content-Length": str(len(body))}
    sent = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}\r\n" for name, value in sent.items() if value is not None]
    return f"POST {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1") + body


def get(path: str = "/", host: str = "127.0.0.1", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")


def exchange(server: Running, request: bytes, *, end: bool = False) -> bytes:
    """Send bytes, and return the answer; `end` closes the connection for sending."""
    answer = bytearray()
    with (
        suppress(ConnectionError),  # the server may close before all is sent
        socket.create_connection((HOST, server.port), timeout=10) as connection,
    ):
        connection.sendall(request)
        if end:
            with suppress(OSError):  # the server may have closed the connection
                connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(1 << 16):
            answer += part
    return bytes(answer)


def status(answer: bytes) -> int:
    """Return the status of an answer, 0 if it is empty."""
    return int(answer.split()[1]) if answer else 0


def content(answer: bytes) -> Any:
    """Return the JSON of an answer."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])
