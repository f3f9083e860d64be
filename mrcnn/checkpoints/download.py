"""Published checkpoints from the web into a folder of this computer, whole and verified."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mrcnn.errors import UserError
from mrcnn.models import PUBLISHED, Published

_log = logging.getLogger("mrcnn")
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte


def cache_folder() -> Path:
    """$MRCNN_HOME, else mrcnn in $XDG_CACHE_HOME, else in ~/.cache."""
    if home := os.environ.get("MRCNN_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrcnn"


def cached_path(name: str) -> Path:
    """Where `fetch` keeps a published checkpoint.

    Raises:
        UserError: if no checkpoint has that name.
    """
    if name not in PUBLISHED:
        folded = {known.lower(): known for known in PUBLISHED}
        near = [folded[k] for k in difflib.get_close_matches(name.lower(), folded, cutoff=0.5)]
        instead = (
            f"did you mean {' or '.join(near)}?" if near else f"name one as {next(iter(PUBLISHED))}"
        )
        raise UserError(f"{name}: is no published checkpoint that is known; {instead}")
    return cache_folder() / f"{name}{Path(urlsplit(PUBLISHED[name].url).path).suffix}"


def fetch(name: str) -> Path:
    """The file of a published checkpoint, downloaded if the cache has it not.

    What is in the cache is compared with the SHA-256 that it had at first. Programs that fetch the
    same file at the same time all end with a whole one.

    Args:
        name: a key of `mrcnn.models.PUBLISHED`.
    Raises:
        UserError: if the name is unknown, the download fails or has another digest, or the cache
            cannot be written.
    """
    path, published = cached_path(name), PUBLISHED[name]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _verify(path, published)
        else:
            with _placing(path) as file:
                # Noted before the file is in its place: what is there always has a note.
                _note(path, _download(published, file))
    except _FailedError as error:
        raise UserError(
            f"{name}: {error}; try again, or download {published.url} by hand to {path}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{name}: {path} cannot be written or read ({error.strerror or error}); make room "
            "there, or name another folder by the environment variable MRCNN_HOME"
        ) from error
    return path


class _FailedError(Exception):
    """Says why there is no file that is whole and right."""


@contextlib.contextmanager
def _placing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which then takes the place of `path` in one step.

    Unlike in `mrcnn.files.replacing`, several programs may do so at the same time.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)  # mkstemp's files are for their owner only
        os.replace(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


def _download(published: Published, file: IO[bytes]) -> str:
    """Write the bytes of a checkpoint; returns their SHA-256."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    done = 0
    with _response(published.url) as response:
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        told = "" if size is None else f", {size / 1e6:.0f} MB"
        _log.info(f"downloading {published.url}{told} ({published.licence})")
        for chunk in _chunks(response, published.url):
            file.write(chunk)
            sha256.update(chunk)
            md5.update(chunk)
            done += len(chunk)
    if size is None and not (published.sha256 or published.md5):
        raise _FailedError(f"{published.url} does not say how long it is")
    if size is not None and done != size:
        raise _FailedError(f"the download of {published.url} ended after {done} of {size} bytes")
    _compare(published.url, published, sha256.hexdigest(), md5.hexdigest())
    return sha256.hexdigest()


def _compare(what: object, published: Published, sha256: str, md5: str) -> None:
    for kind, found, wanted in (
        ("SHA-256", sha256, published.sha256),
        ("MD5", md5, published.md5),
    ):
        if wanted and not found.startswith(wanted):
            raise _FailedError(
                f"{what} has the {kind} digest {found[:16]}…, that of the checkpoint begins with "
                f"{wanted}"
            )


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Refuses to be led to an address without encryption."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise _FailedError(
                f"{req.full_url} leads to {_one_line(newurl)}, which is no https address"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _response(url: str) -> Iterator[Any]:
    if urlsplit(url).scheme != "https":
        raise _FailedError(f"{url} is no https address")
    request = urllib.request.Request(url, headers={"User-Agent": "mrcnn"})
    try:
        response = urllib.request.build_opener(_HttpsOnly).open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        raise _FailedError(f"{url} answers {error.code} ({_one_line(error.reason)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, error) from error
    with response:
        yield response


def _chunks(response: Any, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk: bytes = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(url, error) from error
        if not chunk:
            return
        yield chunk


def _unreachable(url: str, error: Exception) -> _FailedError:
    reason = _one_line(getattr(error, "reason", None) or error) or type(error).__name__
    return _FailedError(f"{url} cannot be downloaded ({reason})")


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())[:200]


def _note(path: Path, sha256: str) -> None:
    """Write down the digest that a cached file has at first, beside it."""
    with _placing(_note_of(path)) as file:
        file.write(f"{sha256}  {path.name}\n".encode())


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _verify(path: Path, published: Published) -> None:
    """Compare a cached file with its note; one that was put there by hand has none yet."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
    note = _note_of(path)
    if not note.is_file():
        _compare(path, published, sha256.hexdigest(), md5.hexdigest())
        _note(path, sha256.hexdigest())
    elif note.read_bytes()[:64] != sha256.hexdigest().encode():
        raise _FailedError(f"{path} is not what was downloaded; remove it and {note.name}")
