"""The page and its model over HTTP, for this machine only.

One picture at a time goes through the model. What clients can hold of memory, threads and time is
bounded, whatever they send.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import socket
import socketserver
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from mrcnn.errors import UserError
from mrcnn.predictor import Predictor
from mrcnn.web import answers
from mrcnn.web.document import document

HOST = "127.0.0.1"
CONNECTIONS = 64  # at a time; more are closed without an answer
UPLOADS = 4  # pictures that are received, wait for the model or are in it
HEADER_SECONDS, BODY_SECONDS, ANSWER_SECONDS = 10.0, 120.0, 60.0  # of a request, each in all
LINGER_SECONDS = 2.0  # after an answer, for a client that still sends

_METHODS = {"/": "GET, HEAD", "/model": "GET, HEAD", "/predict": "POST"}
# Names for this machine only, so that no foreign name resolved to it reaches the page; any port,
# since a tunnel may have its own.
_OUR_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
_PICTURE_TYPE = re.compile(r"(image/[\w.+-]+|application/octet-stream)\s*(;|$)", re.IGNORECASE)
CLOSE_SECONDS = 2.0  # for answers that are being written when the server ends
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger("mrcnn")


class Server(socketserver.ThreadingTCPServer):
    """Listens at once, and answers while `serve_forever` runs; `predictor` must be set by then.

    Args:
        port: 0 takes any that is free.
        max_bytes: of a picture file.
        name: of the model, as the page shows it.
    Raises:
        OSError: if the port is taken.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = CONNECTIONS
    predictor: Predictor

    def __init__(self, port: int, max_bytes: int, name: str) -> None:
        self.max_bytes, self.name = max_bytes, name
        self.page, self.policy = document()
        self.uploads = threading.BoundedSemaphore(UPLOADS)
        # One thread, so that one picture at a time goes through the model, in order.
        self.model_thread = ThreadPoolExecutor(1, "model")
        self._connections = threading.BoundedSemaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self.ends = False  # set by whoever wants `serve_forever` to raise `ServerEnds`
        super().__init__((HOST, port), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def service_actions(self) -> None:
        if self.ends:
            raise ServerEnds

    def server_close(self) -> None:
        """Stop listening, and wait for the picture that is in the model.

        Browsers open connections before they need them: nothing more is read from these.
        """
        super().server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # its client has left
                connection.shutdown(socket.SHUT_RD)
        self.model_thread.shutdown(cancel_futures=True)
        end = time.monotonic() + CLOSE_SECONDS
        while self._open and time.monotonic() < end:
            time.sleep(0.01)

    def describe(self) -> bytes:
        """See `answers.model`."""
        return answers.model(self.predictor, self.name, self.max_bytes)

    def find(self, data: bytes, with_picture: bool) -> bytes:
        """Wait for the model, and for what it finds in a picture; see `answers.objects`."""
        work = self.model_thread.submit(answers.objects, self.predictor, data, with_picture)
        return work.result()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.acquire(blocking=False):
            self._open.add(request)
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients that leave are no error
            _log.exception("an answer failed")


class ServerEnds(Exception):  # noqa: N818  nothing is wrong
    """The end of `serve_forever`."""


class _RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: HTTPStatus, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class _TooSlowError(Exception):
    """The time for a part of a request is over."""


class _Timed(io.RawIOBase):
    """Bytes of a connection, until a point in time that drops of bytes do not put off."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self.empty = connection, True
        self.allow(HEADER_SECONDS)

    def allow(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            count = self._connection.recv_into(buffer)
        except TimeoutError:
            raise _TooSlowError from None
        self.empty = self.empty and not count
        return count


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # under 0.9, errors would have no status
    # For errors before there is a request line.
    command = requestline = request_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._source = _Timed(self.connection)
        self.rfile = io.BufferedReader(self._source)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except _TooSlowError:
            self.close_connection = True
            if not self._source.empty:  # browsers open connections that they never use
                self.send_error(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to arrive")

    def finish(self) -> None:
        """Read on for a while: the answer would be lost if unread bytes reset the connection."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            end, waste = time.monotonic() + LINGER_SECONDS, bytearray(1 << 16)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv_into(waste):
                    break

    def _respond(self) -> None:
        try:
            self._check_sender()
            path, _, query = self.path.partition("?")
            if path not in _METHODS:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is /, /model and /predict")
            if self.command not in _METHODS[path].split(", "):
                message = f"{path} takes {_METHODS[path]}"
                raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, message, Allow=_METHODS[path])
            if path == "/":
                policy = {"Content-Security-Policy": self.server.policy}
                self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8", policy)
            elif path == "/model":
                self._send(HTTPStatus.OK, self.server.describe())
            else:
                self._send(HTTPStatus.OK, self._predict(query == "picture"))
        except _RefusedError as refusal:
            self._send(refusal.status, _error(refusal), headers=refusal.headers)

    # Named by http.server, which answers 501 to methods that are not here.
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _respond  # noqa: N815

    def handle_expect_100(self) -> bool:
        return True  # told to go on once its length is known to be right

    def _check_sender(self) -> None:
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "one Host header is needed")
        host = hosts[0].strip().lower()
        if not _OUR_HOST.fullmatch(host):
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"this is {HOST}, not {host:.100}")
        if self.command == "POST" and any(o.lower() != f"http://{host}" for o in origins):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "other pages may not post here")

    def _predict(self, with_picture: bool) -> bytes:
        length = self._length()
        if not self.server.uploads.acquire(blocking=False):
            message = f"{UPLOADS} pictures are in work; send it again later"
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, **{"Retry-After": "1"})
        try:
            data = self._body(length)
            try:
                return self.server.find(data, with_picture)
            except UserError as error:
                raise _RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from error
            except Exception as error:
                _log.exception("a picture failed")
                message = f"the model failed on it ({type(error).__name__}: {error!s:.200})"
                raise _RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, message) from error
        finally:
            self.server.uploads.release()

    def _length(self) -> int:
        """Of the body, in bytes, once all that is told of it is right."""
        lengths = self.headers.get_all("Content-Length", [])
        if not lengths or "Transfer-Encoding" in self.headers:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "send it whole, with a Content-Length")
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]+\s*", lengths[0]):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "Content-Length must be one number")
        digits, most = lengths[0].strip().lstrip("0") or "0", self.server.max_bytes
        if len(digits) > 18 or int(digits) > most:
            message = f"a picture has at most {most / 1e6:g} MB here; see --max-mb"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        if not _PICTURE_TYPE.match(self.headers.get("Content-Type", "")):
            message = "Content-Type must be image/… or application/octet-stream"
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        return int(digits)

    def _body(self, length: int) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        self._source.allow(BODY_SECONDS)
        data = self.rfile.read(length)
        if len(data) < length:
            message = f"the picture ended after {len(data)} of {length} bytes"
            raise _RefusedError(HTTPStatus.BAD_REQUEST, message)
        return data

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._send(HTTPStatus(code), _error(message or HTTPStatus(code).phrase))

    def _send(
        self,
        status: HTTPStatus,
        content: bytes,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        self.send_response_only(status)
        length = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in {**_HEADERS, **length, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _error(message: object) -> bytes:
    return json.dumps({"error": str(message)}).encode()
