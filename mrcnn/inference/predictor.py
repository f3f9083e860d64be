"""Prediction: `model = mrcnn.load("runs/1"); result = model.predict("street.jpg")`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, overload

import numpy as np
import torch

from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.exporting.saved import SavedProgram
from mrcnn.inference.advice import MODEL, OPTIONS, advice, refuse_unknown
from mrcnn.inference.batches import read_batches
from mrcnn.inference.inputs import ImageLike, InputImage, is_image, read_inputs
from mrcnn.inference.results import Result
from mrcnn.inference.sources import images_at
from mrcnn.inference.thresholds import Thresholds, class_thresholds_of
from mrcnn.inference.tiles import MIN_TILE, merge_tiles, tile_windows
from mrcnn.inference.tta import VIEWS, detect_views
from mrcnn.models import MaskRCNN
from mrcnn.models.postprocess import to_detections
from mrcnn.runtime.batching import prefetch
from mrcnn.runtime.cuda_graphs import Graphs
from mrcnn.structures import DetectionBatch, Detections, ImageBatch

if TYPE_CHECKING:  # in typing itself since Python 3.11
    from typing_extensions import Unpack

    from mrcnn.data.coco.read import CocoDataset
    from mrcnn.evaluation import Evaluation

Detect = Callable[[Iterable[ImageLike]], Iterator[Result]]

_LARGEST_VIEW = max(scale for scale, _ in VIEWS)  # of test-time augmentation


class Options(TypedDict, total=False):
    """Options of passing images through the network."""

    batch_size: int  # images or tiles per batch; 4 by default
    # Side of a tile, image pixels. Larger images are processed in overlapping tiles, and the
    # detections are merged. Each tile is resized like a whole image and gives at most
    # `max_detections` objects.
    tiles: int | None
    tile_overlap: float  # fraction of their side that neighbouring tiles share; 0.25 by default
    # Test-time augmentation: average over three sizes, each also mirrored; about six times the
    # work. Images pass through the network one by one.
    tta: bool


_OPTIONS = ("score_threshold", "class_thresholds", *Options.__annotations__)


class Predictor:
    """A model with its configuration, for images of any kind and size.

    Args:
        model: the network, or an exported program.
        config: configuration of the model.
        amp: compute convolutions and matrix products in bfloat16.
        notes: assumptions that were made about a file of another framework.
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
        """Device of the model."""
        return self.model.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the C classes."""
        return self.config.class_names

    def __repr__(self) -> str:
        names = self.class_names
        shown = ", ".join(names[:5]) + ", …" * (len(names) > 5)
        kind = "class" if len(names) == 1 else "classes"
        return f"Predictor({self.config.backbone}, {len(names)} {kind} ({shown}), {self.device})"

    if not TYPE_CHECKING:  # a type checker refuses names that do not exist

        def __getattr__(self, name: str) -> NoReturn:
            fix = "" if name.startswith("_") else advice(name, dir(self), MODEL)
            raise AttributeError(f"Predictor: has no attribute {name!r}{fix}")

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Category id of each class in the training annotations; 1, 2, … if there are none."""
        return self.config.category_ids or tuple(range(1, self.config.num_classes + 1))

    @property
    def categories(self) -> list[dict[str, Any]]:
        """COCO category records of the classes."""
        names = self.config.class_names
        return [{"id": id, "name": name} for id, name in zip(self.category_ids, names, strict=True)]

    # A str is also a sequence of str; the first overload must win.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        score_threshold: float = ...,
        class_thresholds: Mapping[str, float] = ...,
        **options: Unpack[Options],
    ) -> Result: ...
    @overload
    def predict(
        self,
        image: Iterable[ImageLike],
        score_threshold: float = ...,
        class_thresholds: Mapping[str, float] = ...,
        **options: Unpack[Options],
    ) -> list[Result]: ...

    def predict(
        self,
        image: ImageLike | Iterable[ImageLike],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = {},
        **options: Unpack[Options],
    ) -> Result | list[Result]:
        """Detect the objects in an image, or in each image of a list.

        The objects of an image do not depend on the other images: only images that are padded to
        the same size share a batch. Rounding may differ in the last bits.

        Args:
            image: a file name, an open file or its bytes, a PIL image, an RGB or grey array (h, w,
                3) or (h, w), or a tensor (3, h, w). docs/python.md lists the dtypes and channels.
                Or several: a list of these, a folder, a pattern such as "photos/**/*.jpg", or a
                video file.
            score_threshold: lowest score to keep. The model already drops objects below its
                configured `score_threshold`.
            class_thresholds: lowest scores of some classes by name, instead of `score_threshold`.
            **options: see `Options`.

        Returns:
            The objects of the image, best first. For several images, a list with a result for each,
            as `stream` yields them.

        Raises:
            UserError: if the only image cannot be read or is too large, a folder or a pattern has
                no images, or a class name is unknown.
            TypeError: if a value is not an image, or an option is unknown.

        Example:
            >>> result = model.predict("street.jpg", 0.6, {"dog": 0.8})
            >>> result.boxes.shape, result.names[:2]
            ((7, 4), ['car', 'dog'])
        """
        if not is_image(image):
            return list(self.stream(image, score_threshold, class_thresholds, **options))
        if (several := images_at(image)) is not None:
            return list(self.stream(several, score_threshold, class_thresholds, **options))
        refuse_unknown("predict", options, _OPTIONS, OPTIONS)
        result = next(self.try_stream([image], score_threshold, class_thresholds, **options))
        if result.error:
            raise result.error
        return result

    __call__ = predict

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = {},
        **options: Unpack[Options],
    ) -> Iterator[Result]:
        """Yield a result per image, in order; for images that do not fit in memory together.

        The next batch is read while the current one is computed. About 3 * `batch_size` images are
        in memory at a time. The arguments are those of `predict`.

        An image that cannot be read gives a result without objects, with an `error`, and a warning.

        Example:
            >>> for result in model.stream("photos", batch_size=8):
            ...     print(result.path, result.error or result.summary())
        """
        refuse_unknown("predict", options, _OPTIONS, OPTIONS)
        if is_image(images):
            several = images_at(images)
            images = [images] if several is None else several
        results = self.try_stream(images, score_threshold, class_thresholds, **options)
        return map(_warn_of_error, results)

    def try_stream(
        self,
        images: Iterable[ImageLike],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = {},
        *,
        batch_size: int = 4,
        tiles: int | None = None,
        tile_overlap: float = 0.25,
        tta: bool = False,
    ) -> Iterator[Result]:
        """Run `stream` on a list, without its warnings."""
        thresholds = self.thresholds(score_threshold, class_thresholds)
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
        if tiles is not None and (tiles < MIN_TILE or not 0 <= tile_overlap < 1):
            raise UserError(
                f"predict: tiles must be at least {MIN_TILE} and tile_overlap in [0, 1), "
                f"got {tiles} and {tile_overlap}"
            )

        detect: Detect = (
            partial(self._by_views, thresholds=thresholds)
            if tta
            else partial(self._by_batches, batch_size=batch_size, thresholds=thresholds)
        )
        if tiles is None:
            return detect(images)
        inputs = read_inputs(images, self.config, _LARGEST_VIEW if tta else 1.0, tiles)
        return (self._in_tiles(image, tiles, tile_overlap, detect) for image in inputs)

    def _in_tiles(self, image: InputImage, size: int, overlap: float, detect: Detect) -> Result:
        if image.error:
            return self._failed(image)
        windows = tile_windows(*image.size, size, overlap)
        results = list(detect([image.pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in windows]))
        for result in results:
            if result.error:
                raise result.error
        return merge_tiles(image, windows, results)

    def _by_views(self, images: Iterable[ImageLike], thresholds: Thresholds) -> Iterator[Result]:
        """Detect with test-time augmentation, image by image."""
        if isinstance(self.model, SavedProgram):
            raise UserError("--tta requires a checkpoint; a program (.pt2) has no separate layers")
        for image in prefetch(read_inputs(images, self.config, _LARGEST_VIEW)):
            if image.error:
                yield self._failed(image)
                continue
            with self._inference():
                batch = detect_views(self.model, image.pixels, self.config, self.device)
                sizes = torch.tensor([image.size], device=self.device)
                (detections,) = to_detections(batch, sizes, [image.size], self.config.conventions)
            yield self._result(image, detections, thresholds)

    def _by_batches(
        self, images: Iterable[ImageLike], batch_size: int, thresholds: Thresholds
    ) -> Iterator[Result]:
        """Detect in batches, and yield the results in the order of the images."""
        finished: dict[int, Result] = {}
        next_position = 0
        for positions, inputs, batch in prefetch(read_batches(images, self.config, batch_size)):
            if batch is None:
                finished.update(zip(positions, map(self._failed, inputs), strict=True))
            else:
                detections = self.detect(batch, [image.size for image in inputs])
                for position, image, objects in zip(positions, inputs, detections, strict=True):
                    finished[position] = self._result(image, objects, thresholds)
            del inputs, batch
            while next_position in finished:
                yield finished.pop(next_position)
                next_position += 1

    def detect(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detect the objects of a prepared batch.

        Args:
            images: N images as the network expects them.
            original_sizes: (height, width) of each image before it was resized.

        Returns:
            N detections, in pixels of the original images.
        """
        with self._inference():
            images = images.to(self.device)
            detections = self._run(images)
            return to_detections(detections, images.sizes, original_sizes, self.config.conventions)

    def evaluate(self, data: str | os.PathLike[str] | CocoDataset, **options: Any) -> Evaluation:
        """Detect on every image of a data set, and score boxes and masks.

        Args:
            data: Folder of a data set, or a data set read with the class names of the model.
            options: Those of `mrcnn.evaluation.evaluate`, such as `split` and `batch_size`.

        Example:
            >>> print(mrcnn.load("runs/1").evaluate("DIR", batch_size=4))
        """
        from mrcnn.evaluation import evaluate  # prediction alone does without pycocotools' scorer

        return evaluate(self, data, **options)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Put the model in inference mode, and restore its mode afterwards."""
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
    ) -> Thresholds:
        """Return the lowest score to keep of each class, (C,).

        Raises:
            UserError: if a class name is unknown.
            ValueError: if a score is not in [0, 1].
            TypeError: if `class_thresholds` is not a mapping.
        """
        return class_thresholds_of(self.class_names, score_threshold, class_thresholds)

    def _result(self, image: InputImage, detections: Detections, thresholds: Thresholds) -> Result:
        result = Result(
            image=image.pixels,
            boxes=detections.boxes.numpy(),
            scores=detections.scores.numpy(),
            labels=detections.labels.numpy(),
            rles=detections.masks,
            class_names=self.config.class_names,
            category_ids=self.category_ids,
            path=image.path,
        )
        return result[result.scores >= thresholds[result.labels]]

    def _failed(self, image: InputImage) -> Result:
        """Return the result of an image that cannot be read."""
        return Result(
            image=image.pixels,
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            labels=np.zeros(0, np.int64),
            rles=[],
            class_names=self.config.class_names,
            category_ids=self.category_ids,
            path=image.path,
            error=image.error,
        )


def _warn_of_error(result: Result) -> Result:
    if result.error:
        warnings.warn(f"{result.error}; this result has no objects", stacklevel=2)
    return result
