"""Evaluation of a detector: detect on every image of a data set, and score the detections."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from mrcnn.config import ModelConfig
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.coco.write import coco_results
from mrcnn.data.loading.loader import eval_loader
from mrcnn.evaluation.coco import Kind
from mrcnn.evaluation.evaluation import COCO, Evaluation, Protocol, score
from mrcnn.evaluation.result_files import check_entries
from mrcnn.evaluation.truth import GroundTruth, read_truth, select_images
from mrcnn.io.atomic import check_writable, write_json
from mrcnn.runtime.distributed import ALONE, World
from mrcnn.structures import Detections, ImageBatch


class Detector(typing.Protocol):
    """A model that can be evaluated, such as `mrcnn.Predictor`."""

    @property
    def config(self) -> ModelConfig:
        """Classes, image sizes, and the limit of detections per image."""

    def detect(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detect in a prepared batch; boxes and masks are in pixels of the original images."""


def evaluate(
    model: Detector,
    data: str | os.PathLike[str] | CocoDataset,
    *,
    split: str = "val",
    image_ids: Collection[int] | None = None,
    batch_size: int = 1,
    workers: int = 0,
    results: Path | None = None,
    protocol: Protocol = COCO,
    truth: GroundTruth | None = None,
    progress: Callable[[int, int], None] = lambda done, images: None,
    world: World = ALONE,
) -> Evaluation:
    """Detect on every image of a data set, and score boxes and masks.

    Of several processes each detects on its share of the images; the main one scores all.

    Args:
        model: Its `config.max_detections` is also the limit of the scores.
        data: Folder of a data set, or a data set read with the class names of the model.
        split: "train" or "val", where `data` is a folder.
        image_ids: Images to evaluate. None means all.
        batch_size: Images per batch.
        workers: Processes that read images.
        results: COCO result file to write the detections to.
        protocol: Rules of the metrics.
        truth: Ground truth of `data`, if it was read before.
        progress: Called after each batch with the images done and the images in all; in several
            processes with those of this process.
        world: Processes that all call this function.

    Returns:
        Metrics in every process; detections and errors in the main one.

    Raises:
        UserError: If the data or an image cannot be read, an id is unknown, or `results` cannot be
            written.

    Example:
        >>> evaluation = evaluate(mrcnn.load("runs/1"), "DIR", batch_size=4)
        >>> print(evaluation.metrics["segm_AP"])
    """
    config = model.config
    if results is not None and world.is_main:
        check_writable(results, mark=rb"\A\[(\]|\{\"image_id\": )")
    if not isinstance(data, CocoDataset):
        data, truth = read_truth(Path(data), None, split, image_ids, config)
    dataset = select_images(data, image_ids)
    if truth is None and (world.is_main or protocol.name != "coco"):
        truth = GroundTruth.of_dataset(dataset)
    elif truth is not None and len(truth.image_ids) > len(dataset):
        truth = GroundTruth.of_dataset(dataset, truth.records)
    if truth is not None:
        protocol.check(truth)
    shares = world.gather(_detect(model, dataset, batch_size, workers, progress, world))
    evaluation = None
    if world.is_main:
        assert truth is not None
        by_image = sorted(image for share in shares for image in share)
        entries = [entry for _, found in by_image for entry in found]
        if results is not None:
            write_json(results, entries)
        kinds: tuple[Kind, ...] = ("bbox", "segm") if config.masks else ("bbox",)
        check_entries(entries, kinds, truth)
        evaluation = score(truth, entries, kinds, config.max_detections, protocol)
    metrics = world.from_main(evaluation.metrics if evaluation else {})
    return evaluation or Evaluation(metrics, GroundTruth({}, dataset.annotations, {}))


def _detect(
    model: Detector,
    dataset: CocoDataset,
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], None],
    world: World,
) -> list[tuple[int, list[dict[str, Any]]]]:
    """Return the position and the detections of each image of this process's share."""
    loader = eval_loader(
        dataset,
        model.config,
        batch_size=batch_size,
        workers=workers,
        rank=world.rank,
        world=world.size,
    )
    images = len(range(world.rank, len(dataset), world.size))
    entries = []
    for batch in loader:
        sizes = [(int(height), int(width)) for height, width in dataset.sizes[batch.indices]]
        detections = model.detect(batch.images, sizes)
        for index, detected in zip(batch.indices, detections, strict=True):
            image_id = int(dataset.image_ids[index])
            records = coco_results(
                detected.boxes.numpy(),
                detected.scores.numpy(),
                detected.labels.numpy(),
                detected.masks,
                dataset.category_ids,
            )
            entries.append((index, [{"image_id": image_id, **record} for record in records]))
        progress(len(entries), images)
    return entries
