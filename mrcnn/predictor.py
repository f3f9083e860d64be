"""Images in, objects out: `model = mrcnn.load("runs/1"); result = model.predict("street.jpg")`.

D objects of an image of h x w pixels.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as rle_codec

from mrcnn import checkpoints
from mrcnn.config import ModelConfig
from mrcnn.data.images import empty_batch, read_image, resized, slots, write_view
from mrcnn.errors import UserError
from mrcnn.models import MaskRCNN, build
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.structures import Detections, ImageBatch
from mrcnn.visual import draw_instances

Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The objects found in one image, best first, in its own pixels."""

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    boxes: NDArray[np.float32]  # (D, 4) xyxy
    scores: NDArray[np.float32]  # (D,) in [0, 1]
    labels: NDArray[np.int64]  # (D,) in [0, C)
    rles: list[dict[str, Any]]  # COCO run lengths of the D masks; empty without a mask head
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of the annotation file the model learnt from
    path: Path | None = field(default=None)  # of the image

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.class_names[label] for label in self.labels]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(D, h, w), decoded anew at every access."""
        if not self.rles:
            return np.zeros((0, *self.image.shape[:2]), bool)
        return np.asarray(rle_codec.decode(self.rles)).transpose(2, 0, 1).astype(bool)

    def plot(self) -> Image.Image:
        """The image with boxes, masks, names and scores; a small image is enlarged."""
        return Image.fromarray(
            draw_instances(
                self.image, self.boxes, self.labels, self.rles, self.class_names, self.scores
            )
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `plot()` to an image file.

        Raises:
            UserError: if the file cannot be written.
        """
        try:
            self.plot().save(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be written ({error}); name a .png or .jpg") from error

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """Entries of a COCO result file, with the category ids the model learnt from.

        Args:
            image_id: in the annotation file; without it, entries carry the `file_name` instead.
        """
        entries = coco_results(self.boxes, self.scores, self.labels, self.rles, self.category_ids)
        if image_id is not None:
            return [{"image_id": image_id, **entry} for entry in entries]
        name = self.path.name if self.path else None
        return [{"file_name": name, **entry} for entry in entries]

    def __repr__(self) -> str:
        found = ", ".join(f"{n} {name}" for name, n in Counter(self.names).most_common())
        height, width = self.image.shape[:2]
        where = f"{self.path.name}, " if self.path else ""
        return f"Result({where}{height} x {width} pixels: {found or 'no objects'})"

    def _repr_png_(self) -> bytes:
        """Shown by notebooks."""
        buffer = io.BytesIO()
        self.plot().save(buffer, "png")
        return buffer.getvalue()


def coco_results(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    rles: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Objects of one image as COCO writes results, without `image_id`.

    Boxes are rounded to 1/1000 pixel: so x and width of a file survive float32 corners, and an
    overlap that equals a threshold stays equal.

    Args:
        boxes: (D, 4) xyxy.
        scores, labels: (D,).
        rles: D masks, or none.
        category_ids: of each label.
    """
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    entries = []
    for i in range(len(scores)):
        entry: dict[str, Any] = {
            "category_id": category_ids[int(labels[i])],
            "bbox": [round(value, 3) for value in xywh[i]],
            "score": float(scores[i]),
        }
        if len(rles):
            entry["segmentation"] = rles[i]
        entries.append(entry)
    return entries


class Predictor:
    """A model with its configuration, ready for images of any kind and size.

    Args:
        amp: compute convolutions and matrix products in bfloat16.
        notes: sentences about what was assumed of another framework's file.
    """

    def __init__(
        self,
        model: MaskRCNN,
        config: ModelConfig,
        amp: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        self.model, self.config, self.amp, self.notes = model, config, amp, list(notes)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Of each class in the annotation file the model learnt from; else counted from 1."""
        return self.config.category_ids or tuple(range(1, self.config.num_classes + 1))

    # A str is a sequence of str, too; the first overload is meant to win.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, image: Picture, score_threshold: float = ..., *, batch_size: int = ...
    ) -> Result: ...
    @overload
    def predict(
        self, image: Sequence[Picture], score_threshold: float = ..., *, batch_size: int = ...
    ) -> list[Result]: ...

    def predict(
        self,
        image: Picture | Sequence[Picture],
        score_threshold: float = 0.5,
        *,
        batch_size: int = 4,
    ) -> Result | list[Result]:
        """Find the objects of an image, or of each image of a list.

        Args:
            image: file name, PIL image, or (h, w, 3) RGB or (h, w) grey uint8 array.
            score_threshold: objects below are left out; the model itself leaves out those below
                its configuration's `score_threshold`.
            batch_size: images of a list that go through the network together.
        Raises:
            UserError: if a file cannot be read.
        """
        if isinstance(image, str | os.PathLike | Image.Image | np.ndarray):
            return self.predict([image], score_threshold)[0]
        results: list[Result] = []
        for first in range(0, len(image), batch_size):
            chunk = image[first : first + batch_size]
            pictures = [_as_rgb(one) for one in chunk]
            for one, rgb, found in zip(chunk, pictures, self._find(pictures), strict=True):
                path = Path(one) if isinstance(one, str | os.PathLike) else None
                results.append(self._result(rgb, found, path, score_threshold))
        return results

    @torch.inference_mode()
    def detect(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections of a prepared batch, in the pixels of the images as they were read.

        Args:
            original_sizes: (height, width) of each image as it was read.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            images = images.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                found = self.model(images)
            numerics = NUMERICS[self.config.numerics]
            return to_detections(found, images.sizes, original_sizes, numerics)
        finally:
            self.model.train(was_training)

    def _find(self, pictures: list[NDArray[np.uint8]]) -> list[Detections]:
        config = self.config
        sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        seen = [resized(height, width, config) for height, width in sizes]
        batch = empty_batch(seen, config.size_multiple)
        for picture, (height, width), slot in zip(pictures, sizes, slots(batch), strict=True):
            write_view(picture, (0, 0, width, height), slot, config)
        return self.detect(batch, sizes)

    def _result(
        self, image: NDArray[np.uint8], found: Detections, path: Path | None, threshold: float
    ) -> Result:
        count = int((found.scores >= threshold).sum())  # scores fall
        return Result(
            image=image,
            boxes=found.boxes[:count].numpy(),
            scores=found.scores[:count].numpy(),
            labels=found.labels[:count].numpy(),
            rles=found.masks[:count],
            class_names=self.config.class_names,
            category_ids=self.category_ids,
            path=path,
        )


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    amp: bool = False,
    bgr: bool | None = None,
    **config: Any,
) -> Predictor:
    """A trained model: from a checkpoint file, a run folder, or a file of another framework
    (.pt, .pth, .pkl), as which it then computes; its `notes` say what was assumed.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        amp: compute convolutions and matrix products in bfloat16.
        bgr: whether the pixels of another framework's model are blue, green, red; by default as
            that framework has them.
        config: fields of `ModelConfig` in place of those of the file, as `score_threshold`,
            `max_detections`, or what the file of another framework does not say (`norm_eps`,
            `stride_in_1x1`, `pixel_std`, `class_names`).
    Raises:
        UserError: if the checkpoint cannot be read, or the device is not there.
    """
    where = find_device(device)
    file = checkpoints.find(Path(path))  # once: a published file is hashed each time
    checkpoint = checkpoints.load(file, bgr=bgr, **config)
    try:
        model = build(checkpoint.config)
        model.load_state_dict(checkpoint.state)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = "\n  ".join(str(error).splitlines()[:4])
        raise UserError(
            f"{path}: its weights do not fit the model it describes ({reason}); "
            "was it made by another version of mrcnn?"
        ) from error
    ours = file.suffix == ".safetensors"
    notes = [] if ours else checkpoint.extra["notes"]
    return Predictor(model.to(where).eval(), checkpoint.config, amp, notes)


def find_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: if there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: is no device; give cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: is not supported; give cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: PyTorch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices; give cpu, or see `mrcnn doctor`"
        )
    return device


def _as_rgb(image: Picture) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB."""
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"predict: image must be an array of uint8, got {image.dtype}")
        if image.ndim == 2 and image.size:
            return np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim == 3 and image.shape[2] == 3 and image.size:
            return image
        raise ValueError(f"predict: image must have shape (h, w, 3) or (h, w), got {image.shape}")
    raise TypeError(f"predict: image must be a path, a PIL image or an array, got {type(image)}")
