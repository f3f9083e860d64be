"""Answers of the server: the page, an image to try, and the objects in an image."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from mrcnn.data.images import read_image
from mrcnn.errors import UserError
from mrcnn.inference.predictor import Predictor
from mrcnn.inference.sources import find_images
from mrcnn.io.json_files import read_json
from mrcnn.io.plain_files import read_plain
from mrcnn.visual import instance_colours

_LINK = re.compile(r'<link rel="stylesheet" href="(\w+\.css)">|<script src="(\w+\.js)"></script>')
_log = logging.getLogger("mrcnn")


def document() -> tuple[str, str]:
    """Return the page with its style and scripts inlined, and its Content-Security-Policy.

    The policy names the hashes of the inlined parts, so no name in a model or a file can become a
    script. It allows requests only to the server that sent the page.
    """
    folder, hashes = Path(__file__).parent, {"style": "", "script": ""}

    def inline(match: re.Match[str]) -> str:
        name = "style" if match[1] else "script"
        content = "\n" + (folder / (match[1] or match[2])).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[name] += f" 'sha256-{digest}'"
        return f"<{name}>{content}</{name}>"

    page = _LINK.sub(inline, (folder / "page.html").read_text(encoding="utf-8"))
    return page, (
        f"default-src 'none'; style-src{hashes['style']}; script-src{hashes['script']}; "
        "connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def example_image(
    weights: Path, class_names: Sequence[str], max_bytes: int
) -> tuple[str, bytes] | None:
    """Return the name and the contents of an image to try; None if none suits the model.

    It is the first validation image of a run. Models that know cups get a photo of one.
    """
    try:
        folder = read_json(weights / "config.json")["data"]["val"]["images"]
        path = find_images([Path(folder)]).sources[0].path
    except (UserError, KeyError, TypeError):
        if "cup" not in class_names:
            return None
        path = Path(__file__).parent / "coffee.jpg"  # CC0, by Rachel Michetti
    with suppress(UserError):
        return path.name, read_plain(path, max_bytes)
    return None


def detect(predictor: Predictor, data: bytes, with_image: bool) -> dict[str, Any]:
    """Return all objects in an image file, best first.

    Boxes are xyxy in pixels of the upright image, masks are COCO RLE, colours are those of
    `mrcnn.visual`. `with_image` adds the image as base64 JPEG, for formats that browsers cannot
    show.

    Raises:
        UserError: if the file is not a readable image.
    """
    start = time.perf_counter()
    result = predictor.predict(read_image("image", data), 0.0)
    seconds = time.perf_counter() - start
    height, width = result.image.shape[:2]
    colours = instance_colours(result.labels, len(result.class_names))
    answer: dict[str, Any] = {
        "width": width,
        "height": height,
        "boxes": [[round(value, 3) for value in box] for box in result.boxes.tolist()],
        "scores": result.scores.tolist(),
        "labels": result.labels.tolist(),
        "names": result.names,
        "masks": result.rles,
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours],
        "seconds": round(seconds, 3),
    }
    if with_image:
        Image.fromarray(result.image).save(buffer := io.BytesIO(), "jpeg", quality=92)
        answer["image"] = base64.b64encode(buffer.getvalue()).decode()
    _log.info("%d x %d pixels: %d objects, %.2f s", width, height, len(result), seconds)
    return answer
