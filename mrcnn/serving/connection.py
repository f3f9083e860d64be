"""The uvicorn server, with bounded connections and times."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HOST = "127.0.0.1"
CONNECTIONS = 64  # at a time; more are closed without an answer
HEADER_SECONDS, ANSWER_SECONDS = 10.0, 60.0  # to receive the head of a request, to send an answer
CLOSE_SECONDS = 10  # for answers in progress when the server ends


def reachable_address(listener: socket.socket) -> str:
    """Return the address of a listener without its port; one of this machine if it has all."""
    host: str = listener.getsockname()[0]
    if host in ("0.0.0.0", "::"):
        with socket.socket(listener.family, socket.SOCK_DGRAM) as probe:
            try:  # this sends nothing; the addresses are reserved for documentation
                probe.connect(("192.0.2.1" if host == "0.0.0.0" else "2001:db8::1", 9))
                host = probe.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"[{host}]" if ":" in host else host


def make_server(app: Any, on_start: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return a server; its `run([socket])` serves until a signal or `should_exit`.

    `on_start` is called once the server handles requests and signals.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        log_config=None,
        log_level="error",
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

    return Server(config)


class Connection(H11Protocol):
    """A connection with limits that uvicorn lacks, against clients that send or read slowly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the head of the request, or close a connection too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self.loop.call_later(HEADER_SECONDS, self._end_without_request)

    def _end_without_request(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection open whose client has only stopped sending."""
        if self.cycle is not None:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        return self.cycle is not None

    def send_400_response(self, msg: str) -> None:
        """Answer a head that is not HTTP; give up a connection with an invalid body."""
        if self.cycle is None:
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Start the time for a client to read its answer."""
        super().pause_writing()
        self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Start the time for the last bytes of an answer."""
        super().on_response_complete()
        self.loop.call_later(ANSWER_SECONDS, self.transport.abort)
