"""Images in, objects out: `model = mrcnn.load("runs/1"); result = model.predict("street.jpg")`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn import checkpoints
from mrcnn.batching import ahead, grouped
from mrcnn.config import ModelConfig
from mrcnn.data.images import (
    MAX_TILED_PIXELS,
    empty_batch,
    resized,
    slots,
    write_view,
)
from mrcnn.errors import UserError
from mrcnn.exporting.saved import SavedProgram, load_program
from mrcnn.graphs import Graphs
from mrcnn.models import MaskRCNN, build
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.pictures import Loaded, Picture, Pixels, load_picture
from mrcnn.results import Result
from mrcnn.structures import DetectionBatch, Detections, ImageBatch
from mrcnn.tiles import merged, windows
from mrcnn.tta import detect_views

if TYPE_CHECKING:  # in typing itself since Python 3.11
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """How images go through the network."""

    batch_size: int  # images, or tiles, together; 4 unless given
    # Side of a tile in pixels of the image: a larger image is looked at tile by tile, and what is
    # found in them is put together. A tile is to the network what a whole image is else: it is
    # resized, and has at most `max_detections` objects.
    tiles: int
    tile_overlap: float  # part of their side that neighbours share, 0.25 unless given
    # Look at three sizes, each also mirrored, and average: about six times the work. Images go
    # through the network one by one.
    tta: bool


class Predictor:
    """A model with its configuration, ready for images of any kind and size.

    Args:
        amp: compute convolutions and matrix products in bfloat16.
        notes: sentences about what was assumed of another framework's file.
        capture: run as CUDA graphs, one for each padded size and number of images.
    """

    def __init__(
        self,
        model: MaskRCNN | SavedProgram,
        config: ModelConfig,
        amp: bool = False,
        notes: Sequence[str] = (),
        capture: bool = False,
    ) -> None:
        self.model, self.config, self.amp, self.notes = model, config, amp, list(notes)
        self._run: Callable[[ImageBatch], DetectionBatch] = Graphs(model) if capture else model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Of each class in the annotation file the model learnt from; else counted from 1."""
        return self.config.category_ids or tuple(range(1, self.config.num_classes + 1))

    # A str is a sequence of str, too; the first overload is meant to win.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        image: Picture,
        score_threshold: float = ...,
        class_thresholds: Mapping[str, float] = ...,
        **options: Unpack[Options],
    ) -> Result: ...
    @overload
    def predict(
        self,
        image: Sequence[Picture],
        score_threshold: float = ...,
        class_thresholds: Mapping[str, float] = ...,
        **options: Unpack[Options],
    ) -> list[Result]: ...

    def predict(
        self,
        image: Picture | Sequence[Picture],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = {},
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Find the objects of an image, or of each image of a list.

        An image has the same objects whatever stands beside it: images go through the network
        together only if they are padded to the same size. Roundings alone may differ.

        Args:
            image: file name, PIL image, (h, w, 3) RGB or (h, w) grey uint8 array, or (3, h, w) RGB
                uint8 tensor.
            score_threshold: objects below are left out; the model itself leaves out those below
                its configuration's `score_threshold`.
            class_thresholds: instead of it for the classes of these names.
            options: see `Options`.
        Raises:
            UserError: if a file cannot be read, or the model has no class of a name.
        """
        if isinstance(image, str | os.PathLike | Image.Image | np.ndarray | Tensor):
            return next(self.stream([image], score_threshold, class_thresholds, **options))
        return list(self.stream(image, score_threshold, class_thresholds, **options))

    def stream(
        self,
        images: Iterable[Picture],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = {},
        **options: Unpack[Options],
    ) -> Iterator[Result]:
        """`predict` for any number of images: results in order, as they come.

        The next batch is read while one is computed; about 3 * `batch_size` images are in memory.

        Raises:
            UserError: at the place of an image that cannot be read.
        """
        return map(_sound, self.attempts(images, score_threshold, class_thresholds, **options))

    def attempts(
        self,
        images: Iterable[Picture],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = {},
        *,
        batch_size: int = 4,
        tiles: int | None = None,
        tile_overlap: float = 0.25,
        tta: bool = False,
    ) -> Iterator[Result | UserError]:
        """`stream`, but what is wrong with an image stands in the place of its result."""
        thresholds = self.thresholds(score_threshold, class_thresholds)
        if tiles is not None and (tiles < 1 or not 0 <= tile_overlap < 1):
            raise ValueError(
                "predict: tiles must be at least 1 and tile_overlap in [0, 1), "
                f"got {tiles} and {tile_overlap}"
            )

        def find(images: Iterable[Picture]) -> Iterator[Result | UserError]:
            if tta:
                return self._by_views(images, thresholds)
            return self._by_batches(images, batch_size, thresholds)

        def find_in_tiles(image: Loaded, size: int) -> Result | UserError:
            if isinstance(image.rgb, UserError):
                return image.rgb
            places = windows(*_size(image.rgb), size, tile_overlap)
            found = find([image.rgb[y1:y2, x1:x2] for x1, y1, x2, y2 in places])
            return merged(image.rgb, image.path, places, [_sound(one) for one in found])

        if tiles is None:
            return find(images)
        return (find_in_tiles(load_picture(0, image, MAX_TILED_PIXELS), tiles) for image in images)

    def _by_batches(
        self, images: Iterable[Picture], batch_size: int, thresholds: NDArray[np.float32]
    ) -> Iterator[Result | UserError]:
        done: dict[int, Result | UserError] = {}
        number = 0
        for loaded, batch in ahead(self._batches(images, batch_size)):
            found = [] if batch is None else self.detect(batch, [_size(one.rgb) for one in loaded])
            for i, one in enumerate(loaded):
                if isinstance(one.rgb, UserError):
                    done[one.number] = one.rgb
                else:
                    done[one.number] = self._result(one.rgb, found[i], one.path, thresholds)
            del loaded, batch
            while number in done:
                yield done.pop(number)
                number += 1

    def _by_views(
        self, images: Iterable[Picture], thresholds: NDArray[np.float32]
    ) -> Iterator[Result | UserError]:
        for one in ahead(load_picture(number, image) for number, image in enumerate(images)):
            if isinstance(one.rgb, UserError):
                yield one.rgb
            else:
                yield self._result(one.rgb, self._detect_views(one.rgb), one.path, thresholds)

    def detect(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections of a prepared batch, in the pixels of the images as they were read.

        Args:
            original_sizes: (height, width) of each image as it was read.
        """
        with self._inference():
            images = images.to(self.device)
            found = self._run(images)
            numerics = NUMERICS[self.config.numerics]
            return to_detections(found, images.sizes, original_sizes, numerics)

    def _detect_views(self, image: Pixels) -> Detections:
        """Detections of an image seen in several ways."""
        if isinstance(self.model, SavedProgram):
            raise UserError("--tta: looks into the layers of a checkpoint, not of a program (.pt2)")
        with self._inference():
            found = detect_views(self.model, image, self.config, self.device)
            size = _size(image)
            sizes = torch.tensor([size], device=self.device)
            return to_detections(found, sizes, [size], NUMERICS[self.config.numerics])[0]

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """The model in inference mode, computing as it should; it comes back as it was."""
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp),
            ):
                yield
        finally:
            self.model.train(was_training)

    def thresholds(
        self, score_threshold: float, class_thresholds: Mapping[str, float]
    ) -> NDArray[np.float32]:
        """The lowest score of each class that counts, (C,).

        Raises:
            UserError: if the model has no class of a name.
        """
        names = self.config.class_names
        lowest = np.full(len(names), score_threshold, np.float32)
        for name, threshold in class_thresholds.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or names[:8]
                raise UserError(
                    f"class threshold {name}={threshold}: the model has no class {name!r}; "
                    f"give one of its own, as {', '.join(near)}"
                )
            lowest[names.index(name)] = threshold
        return lowest

    def _batches(
        self, images: Iterable[Picture], batch_size: int
    ) -> Iterator[tuple[list[Loaded], ImageBatch | None]]:
        """Images that are padded alike, as the network sees them; or some that cannot be read."""
        multiple = self.config.size_multiple

        def padded_size(one: Loaded) -> tuple[int, ...]:
            if isinstance(one.rgb, UserError):
                return ()
            return tuple(-(-side // multiple) for side in resized(*_size(one.rgb), self.config))

        loaded = (load_picture(number, image) for number, image in enumerate(images))
        for group in grouped(loaded, padded_size, batch_size):
            pictures = [one.rgb for one in group if not isinstance(one.rgb, UserError)]
            yield group, self._prepared(pictures) if pictures else None

    def _prepared(self, pictures: Sequence[Pixels]) -> ImageBatch:
        """Images as the network sees them."""
        sizes = [_size(picture) for picture in pictures]
        seen = [resized(height, width, self.config) for height, width in sizes]
        batch = empty_batch(seen, self.config.size_multiple)
        for picture, (height, width), slot in zip(pictures, sizes, slots(batch), strict=True):
            write_view(picture, (0, 0, width, height), slot, self.config)
        return batch

    def _result(
        self,
        image: Pixels,
        found: Detections,
        path: Path | None,
        thresholds: NDArray[np.float32],
    ) -> Result:
        everything = Result(
            image=image,
            boxes=found.boxes.numpy(),
            scores=found.scores.numpy(),
            labels=found.labels.numpy(),
            rles=found.masks,
            class_names=self.config.class_names,
            category_ids=self.category_ids,
            path=path,
        )
        return everything[everything.scores >= thresholds[everything.labels]]


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    amp: bool = False,
    capture: bool = False,
    bgr: bool | None = None,
    **config: Any,
) -> Predictor:
    """A trained model: from a checkpoint file, a run folder, or a file of another framework
    (.pt, .pth, .pkl), as which it then computes; its `notes` say what was assumed. Or a program of
    `mrcnn export` (.pt2), which runs as it was written; it is code, so load only those you trust.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        amp: compute convolutions and matrix products in bfloat16.
        capture: on a GPU, run as CUDA graphs, one for each padded size and number of images.
        bgr: whether the pixels of another framework's model are blue, green, red; by default as
            that framework has them.
        config: fields of `ModelConfig` in place of those of the file, as `score_threshold`,
            `max_detections`, or what the file of another framework does not say (`norm_eps`,
            `stride_in_1x1`, `pixel_std`, `class_names`).
    Raises:
        UserError: if the checkpoint cannot be read, or the device is not there.
    """
    where = find_device(device)
    if capture and where.type != "cuda":
        raise UserError(f"capture=True: is of CUDA devices, not of {device}; leave it out")
    file = checkpoints.find(Path(path))  # once: a published file is hashed each time
    if file.suffix == checkpoints.PROGRAM:
        fixed = {"amp": amp or None, "capture": capture or None, "bgr": bgr}
        program = load_program(file, where, **fixed, **config)
        return Predictor(program, program.config)
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
    return Predictor(model.to(where).eval(), checkpoint.config, amp, notes, capture)


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


def _sound(outcome: Result | UserError) -> Result:
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _size(image: Any) -> tuple[int, int]:
    """(height, width)."""
    return image.shape[0], image.shape[1]
