"""The Starlette application: the page, the model's description, and predictions."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrcnn.errors import UserError
from mrcnn.inference.predictor import Predictor
from mrcnn.serving.answers import detect, document

UPLOADS = 4  # images that are being received, wait for the model or are in it
BODY_SECONDS = 120.0  # to receive an image
LINGER_SECONDS = 2.0  # after an answer, for a client that still sends
HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_IMAGE_TYPE = re.compile(r"(image/[\w.+-]+|application/octet-stream)\s*(;|$)", re.IGNORECASE)
_log = logging.getLogger("mrcnn")


class Answer(JSONResponse):
    """JSON in ASCII: a path or a class name may contain lone surrogates, which UTF-8 lacks."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False).encode()


def build_app(
    predictor: Predictor,
    name: str,
    max_bytes: int,
    example: tuple[str, bytes] | None = None,
    token: str = "",
) -> Starlette:
    """Return the application; one image at a time goes through the model.

    Args:
        predictor: the model.
        name: its name on the page.
        max_bytes: largest image file that is accepted.
        example: name and contents of an image file that the page offers.
        token: what every request must carry, as `?token=`; with "", only this machine is answered.
    """
    page, policy = document()
    model = {
        "name": name,
        "class_names": predictor.config.class_names,
        "category_ids": predictor.category_ids,
        "max_bytes": max_bytes,
        "example": example and example[0],
        "config": predictor.config.to_dict(),
    }
    uploads = asyncio.Semaphore(UPLOADS)
    model_thread = ThreadPoolExecutor(1, "model")

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def show_model(request: Request) -> Response:
        return Answer(model)

    async def show_example(request: Request) -> Response:
        if example is None:
            raise HTTPException(404, "there is no example")
        return Response(example[1], media_type="application/octet-stream")

    async def predict(request: Request) -> Response:
        _check_headers(request.headers, max_bytes)
        if uploads.locked():
            message = f"{UPLOADS} images are being processed; send it again later"
            raise HTTPException(503, message, {"Retry-After": "1"})
        async with uploads:
            try:
                data = await asyncio.wait_for(request.body(), BODY_SECONDS)
            except (asyncio.TimeoutError, ClientDisconnect):
                raise HTTPException(408, "the image took too long to arrive") from None
            length = int(request.headers["content-length"])
            if len(data) < length:  # the client closed its end
                raise HTTPException(400, f"the image ended after {len(data)} of {length} bytes")
            work = model_thread.submit(detect, predictor, data, "image" in request.query_params)
            try:
                answer = await asyncio.wrap_future(work)
            except UserError as error:
                raise HTTPException(400, str(error)) from error
            except Exception as error:
                _log.exception("an image failed")
                message = f"the model failed on it ({type(error).__name__}: {error!s:.200})"
                raise HTTPException(500, message) from error
        return Answer(answer)

    async def show_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Answer({"error": error.detail}, error.status_code, error.headers)

    # The check of the host refuses other names that resolve to this machine (DNS rebinding). A
    # page under another name does not know the token.
    local = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    guard = Middleware(TokenGuard, token=token) if token else local
    routes = [
        Route("/", show_page),
        Route("/model", show_model),
        Route("/example", show_example),
        Route("/predict", predict, methods=["POST"]),
    ]
    app = Starlette(False, routes, [Middleware(Envelope), guard], {HTTPException: show_error})
    app.router.redirect_slashes = False
    app.state.uploads = uploads
    return app


def _check_headers(headers: Headers, max_bytes: int) -> None:
    """Refuse a post from another page, and a body that is too large or not an image."""
    if any(origin != f"http://{headers.get('host')}" for origin in headers.getlist("origin")):
        raise HTTPException(403, "other pages may not post here")
    if "content-length" not in headers or "transfer-encoding" in headers:
        raise HTTPException(411, "send it whole, with a Content-Length")
    if int(headers["content-length"]) > max_bytes:
        raise HTTPException(413, f"an image has at most {max_bytes / 1e6:g} MB here; see --max-mb")
    if not _IMAGE_TYPE.match(headers.get("content-type", "")):
        raise HTTPException(415, "Content-Type must be image/… or application/octet-stream")


class TokenGuard:
    """Middleware that answers only requests with the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        given = QueryParams(scope["query_string"]).get("token", "").encode()
        if secrets.compare_digest(given, self.token):
            return await self.app(scope, receive, send)
        message = "the address must end with the ?token=... that mrcnn serve printed"
        await Answer({"error": message}, 403)(scope, receive, send)


class Envelope:
    """Middleware that sets headers, and reads the rest of a request after its answer.

    The client would lose the answer if unread bytes reset the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        more_body = True

        async def receive_part() -> Message:
            nonlocal more_body
            message = await receive()
            more_body = message.get("more_body", False)
            return message

        async def drain() -> None:
            while more_body:
                await receive_part()

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            elif not message.get("more_body"):
                await send({**message, "more_body": True})
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drain(), LINGER_SECONDS)
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, receive_part, reply)
