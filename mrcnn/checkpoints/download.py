"""Published checkpoints: their table, and verified downloads into a local cache."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import json
import logging
import os
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock
from rich.console import Console
from rich.progress import wrap_file

from mrcnn.data.coco.names import COCO_NAMES
from mrcnn.errors import UserError

_log = logging.getLogger("mrcnn")
_TIMEOUT = 30  # seconds until a server must connect, answer, or send more bytes
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


@dataclass(frozen=True)
class Published:
    """A file of weights on the web.

    AP is in percent, averaged over IoU 0.50 to 0.95 on the validation images, as `source` states
    it, or None. The digests are the first hexadecimal digits, as in the file name.
    """

    url: str
    about: str
    licence: str
    source: str
    box_ap: float | None = None
    mask_ap: float | None = None
    sha256: str | None = None
    md5: str | None = None
    # Fields of `ModelConfig` that differ from those of the framework's models for COCO.
    settings: dict[str, Any] = field(default_factory=dict)


def _read_json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name(name).read_text("utf-8"))
    return content


# Class names and category ids of data sets, by the beginning of their names in Detectron2.
# Sources: cityscapesScripts' labels.py and the annotation files of LVIS v0.5.
CLASS_LISTS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "coco": (tuple(COCO_NAMES.values()), tuple(COCO_NAMES)),
    **{
        name: (tuple(names), tuple(range(1, len(names) + 1)))
        for name, names in _read_json("class_lists.json").items()
    },
}


def _read_table() -> dict[str, Published]:
    """Read published.json.

    Sources: the weights enums of torchvision 0.29, Detectron2's model_zoo.py and MODEL_ZOO.md, and
    MMDetection's configs/mask_rcnn/metafile.yml.
    """
    groups = _read_json("published.json")
    for shared in groups.values():
        for entry in shared["files"].values():
            if (name := entry.pop("classes", None)) is not None:
                names, ids = CLASS_LISTS[name]
                entry["settings"] |= {"class_names": names, "category_ids": ids}
    return {
        f"{group}/{name}": Published(
            url=shared["base"] + entry.pop("file"),
            licence=shared["licence"],
            source=shared["source"],
            **entry,
        )
        for group, shared in groups.items()
        for name, entry in shared["files"].items()
    }


PUBLISHED = _read_table()


def cache_folder() -> Path:
    """Return $MRCNN_HOME, or the folder mrcnn in $XDG_CACHE_HOME or ~/.cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mrcnn")
    return Path(os.environ.get("MRCNN_HOME") or default).expanduser()


def fetch(name: str) -> Path:
    """Return the local file of a published checkpoint; download it if it is not in the cache.

    The file is compared with the published digest at every call. Without a network, files in the
    cache still work. Processes that fetch the same file at the same time download it once.

    Args:
        name: a key of `mrcnn.checkpoints.PUBLISHED`.

    Raises:
        UserError: if the name is unknown, the download fails, the digest differs, or the cache
            cannot be written.
    """
    if name not in PUBLISHED:
        folded = {known.lower(): known for known in PUBLISHED}
        near = [folded[k] for k in difflib.get_close_matches(name.lower(), folded, cutoff=0.5)]
        example = next(iter(PUBLISHED))
        hint = f"did you mean {' or '.join(near)}?" if near else f"use a name like {example}"
        raise UserError(f"{name}: is not a published checkpoint; {hint}")
    published = PUBLISHED[name]
    path = cache_folder() / f"{name}{Path(urlsplit(published.url).path).suffix}"
    fix = "remove it and try again" if path.is_file() else "try again"
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(path.with_name(f".{path.name}.lock")):
                if not path.is_file():  # another process may have finished it meanwhile
                    _download(published, path)
        _check_digest(path, published)
    except _DownloadError as error:
        raise UserError(
            f"{name}: {error}; {fix}, or download {published.url} by hand to {path}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{name}: {path} cannot be written or read ({error.strerror or error}); free some "
            "space there, or choose another folder with the environment variable MRCNN_HOME"
        ) from error
    return path


def find_published(file: Path) -> tuple[str, Published] | None:
    """Return the published checkpoint that a file is, by its place in the cache or its name."""
    folder = cache_folder()
    for name, published in PUBLISHED.items():
        address = urlsplit(published.url).path
        if file == folder / f"{name}{Path(address).suffix}" or (
            file.name == Path(address).name and any((published.sha256, published.md5))
        ):  # such a name contains digits of the digest
            return name, published
    return None


class _DownloadError(Exception):
    """The reason why a file could not be downloaded or is not the published one."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise _DownloadError(f"{req.full_url} redirects to {newurl[:99]!r}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(published: Published, path: Path) -> None:
    url, draft = published.url, path.with_name(f".{path.name}.download")
    if urlsplit(url).scheme != "https":
        raise _DownloadError(f"{url} is not an https address")
    opener = urllib.request.build_opener(_HttpsOnly)
    request = urllib.request.Request(url, headers={"User-Agent": "mrcnn"})
    try:
        # Unlike that of torch.hub, this request has a timeout for every read.
        with opener.open(request, timeout=_TIMEOUT) as response, draft.open("wb") as file:
            length = response.headers.get("Content-Length")
            if length is not None and not length.isdecimal():
                raise _DownloadError(f"{url} states its length as {length[:20]!r}")
            if length is None and not (published.sha256 or published.md5):
                raise _DownloadError(f"{url} does not state its length")
            _log.info(f"downloading {url}, {length or 'unknown'} bytes ({published.licence})")
            with wrap_file(
                response,
                int(length or 0),
                description=path.name,
                console=Console(stderr=True),
                disable=not sys.stderr.isatty(),
            ) as reader:
                shutil.copyfileobj(reader, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        size = draft.stat().st_size
        if length is not None and size != int(length):
            raise _DownloadError(f"the download of {url} ended after {size} of {length} bytes")
        _check_digest(draft, published, url)
        os.replace(draft, path)
    except _NETWORK_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _DownloadError(f"{url} cannot be downloaded ({reason})") from error
    finally:
        draft.unlink(missing_ok=True)


def _check_digest(path: Path, published: Published, label: object = None) -> None:
    for kind, expected in (("SHA-256", published.sha256), ("MD5", published.md5)):
        if not expected:
            continue
        digest = hashlib.new(kind.replace("-", ""), usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        actual = digest.hexdigest()
        if not actual.startswith(expected):
            raise _DownloadError(
                f"{label or path} has the {kind} {actual[:16]}…, but that of the checkpoint begins "
                f"with {expected}"
            )
