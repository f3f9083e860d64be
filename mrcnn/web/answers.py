"""What the server says of a model and of a picture, as JSON."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.images import read_image
from mrcnn.predictor import Predictor
from mrcnn.visual import instance_colours

_log = logging.getLogger("mrcnn")


def model(predictor: Predictor, name: str, max_bytes: int) -> bytes:
    """Names, category ids, and the whole configuration.

    Args:
        name: of the model, as the page shows it.
        max_bytes: of a picture file.
    """
    answer = {
        "name": name,
        "class_names": predictor.config.class_names,
        "category_ids": predictor.category_ids,
        "max_bytes": max_bytes,
        "config": predictor.config.to_dict(),
    }
    return json.dumps(answer).encode()


def objects(predictor: Predictor, data: bytes, with_picture: bool) -> bytes:
    """All D objects that the model finds in a picture, best first.

    Boxes are xyxy in pixels of the upright picture, masks COCO run lengths, colours those of
    `mrcnn.visual`.

    Args:
        data: the picture file.
        with_picture: add the picture as JPEG in base64, for formats that browsers do not show.
    Raises:
        UserError: if it is no picture that can be read.
    """
    start = time.perf_counter()
    result = predictor.predict(read_image("picture", data), 0.0)
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
    if with_picture:
        answer["picture"] = _jpeg(result.image)
    _log.info("%d x %d pixels: %d objects, %.2f s", width, height, len(result), seconds)
    return json.dumps(answer, allow_nan=False).encode()


def _jpeg(image: NDArray[Any]) -> str:
    """Base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "jpeg", quality=92)
    return base64.b64encode(buffer.getvalue()).decode()
