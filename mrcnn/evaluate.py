"""Average precision on a data set: `python -m mrcnn.evaluate --weights RUN --data DIR`.

With `--results FILE` in place of weights, detections that are there already are scored.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mrcnn import checkpoints
from mrcnn.coco_scores import Backend, Kind, kinds_of, read_results
from mrcnn.data.coco import CocoDataset, read_splits
from mrcnn.data.coco_truth import ground_truth
from mrcnn.data.formats import find_splits
from mrcnn.data.loader import eval_loader
from mrcnn.data.problems import read_json
from mrcnn.errors import UserError
from mrcnn.files import check_writable, replacing, write_json
from mrcnn.flags import parse, run
from mrcnn.mistakes import KINDS, find_mistakes, format_mistakes, mistakes_tree
from mrcnn.predictor import Predictor, load
from mrcnn.results import coco_results
from mrcnn.score_tables import format_metrics, metrics_tree
from mrcnn.scoring import (
    COCO,
    Judge,
    Protocol,
    chosen_images,
    read_truth,
    score,
    unknown_categories,
)
from mrcnn.training.distributed import ALONE, World
from mrcnn.visual.mistakes import draw_mistakes


def evaluate(
    predictor: Predictor,
    dataset: CocoDataset,
    *,
    batch_size: int = 1,
    workers: int = 0,
    image_ids: Collection[int] | None = None,
    results: Path | None = None,
    judge: Judge = COCO,
    progress: Callable[[int, int], None] = lambda done, images: None,
    world: World = ALONE,
) -> dict[str, float]:
    """Detect on every image of a data set, and score boxes and masks.

    Of several processes each detects on its share of the images; the main one scores what all
    found. Masks travel as run lengths.

    Args:
        predictor: its `max_detections` is also the limit of the scores.
        dataset: read with the class names of the predictor.
        image_ids: of the images to take; None takes all.
        results: where to write the detections as a COCO result file.
        judge: whose figures are computed.
        progress: called after each batch with the images done and the images in all; in several
            processes with those of this one.
        world: the processes that all call this.
    Returns:
        The figures of `score`, in every process.
    Raises:
        UserError: if an image cannot be read, an id is of no image, or `results` cannot be written.
    """
    if results is not None and world.is_main:
        check_writable(results)
    dataset = chosen_images(dataset, image_ids)
    judge.check(dataset)
    shares = world.gather(_entries(predictor, dataset, batch_size, workers, progress, world))
    metrics: dict[str, float] = {}
    if world.is_main:
        by_image = sorted(image for share in shares for image in share)
        entries = [entry for _, found in by_image for entry in found]
        if results is not None:
            write_json(results, entries)
        kinds: tuple[Kind, ...] = ("bbox", "segm") if predictor.config.masks else ("bbox",)
        metrics = score(dataset, entries, kinds, predictor.config.max_detections, judge)
    scored: dict[str, float] = world.from_main(metrics)
    return scored


def _entries(
    predictor: Predictor,
    dataset: CocoDataset,
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], None],
    world: World,
) -> list[tuple[int, list[dict[str, Any]]]]:
    """The images of this process's share: their positions, and the entries of a result file."""
    loader = eval_loader(
        dataset,
        predictor.config,
        batch_size=batch_size,
        workers=workers,
        rank=world.rank,
        world=world.size,
    )
    images = len(range(world.rank, len(dataset), world.size))
    entries = []
    for batch in loader:
        sizes = [(int(height), int(width)) for height, width in dataset.sizes[batch.indices]]
        for index, found in zip(batch.indices, predictor.detect(batch.images, sizes), strict=True):
            image_id = int(dataset.image_ids[index])
            records = coco_results(
                found.boxes.numpy(),
                found.scores.numpy(),
                found.labels.numpy(),
                found.masks,
                dataset.category_ids,
            )
            entries.append((index, [{"image_id": image_id, **record} for record in records]))
        progress(len(entries), images)
    return entries


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a trained model, or a file of results, on a data set: AP of boxes and masks, as COCO
    defines it."""

    weights: Path | None = None
    """A run folder (its best checkpoint, else its last), a checkpoint file, a detector of another
    framework, or the name of a published one."""
    results: Path | None = None
    """COCO result file to score, in place of --weights."""
    data: Path | None = None
    """Folder with images and their annotations."""
    ground_truth: Path | None = None
    """COCO annotation file, in place of --data; for --results, which needs no images."""
    split: Literal["train", "val"] = "val"
    max_dets: int | None = None
    """Objects an image, for the model and the scores; by default as the model was trained, 100 for
    --results, and 300 for LVIS."""
    protocol: Protocol = "coco"
    """Whose AP it is. LVIS: a federated data set, with AP of rare, common and frequent classes;
    Cityscapes: of masks, with void regions and groups, from --instance-ids."""
    instance_ids: Path | None = None
    """Folder of the files *_gtFine_instanceIds.png, for --protocol cityscapes."""
    batch_size: int = 1
    image_ids: Path | None = None
    """File of image ids, one a line: take these images only."""
    out: Path | None = None
    """COCO result file to write; by default coco_results_<split>.json beside the checkpoint, for a
    published one in the current folder."""
    backend: Backend = "pycocotools"
    """What computes the figures: hotcoco's are the same, and sooner there; pip install
    'mrcnn[eval]'."""
    details: bool = False
    """Print all figures, and those of each class by size."""
    errors: bool = False
    """Print what kinds of errors there are, and which classes are confused, as the report of a run
    has them."""
    plots: Path | None = None
    """Picture (.png, .svg, .pdf) for the same, with precision-recall curves."""
    json: Path | None = None
    """File for all figures, also of each of many classes; with --errors, for the errors, too."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""
    workers: int = 0
    """Processes that read images."""

    def __post_init__(self) -> None:
        for name, least in (("max_dets", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be at least {least}, got {value}")
        if self.protocol != "coco" and self.backend != "pycocotools":
            raise UserError(f"--backend {self.backend}: is for --protocol coco only")
        if (self.instance_ids is not None) != (self.protocol == "cityscapes"):
            raise UserError("--instance-ids, the folder gtFine, goes with --protocol cityscapes")
        if self.protocol == "cityscapes" and self.results and self.max_dets:
            raise UserError("--max-dets: the scores of Cityscapes have no limit; leave it out")
        if self.plots is not None and self.plots.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UserError(f"--plots {self.plots}: must end in .png, .svg or .pdf")
        if (self.weights is None) == (self.results is None):
            raise UserError(
                "evaluate: name either --weights, to detect, or --results, a file of detections"
            )
        if self.weights is not None and (self.data is None or self.ground_truth is not None):
            raise UserError("--weights needs images: name --data, and no --ground-truth")
        if self.results is not None and self.out is not None:
            raise UserError("--out is for --weights; with --results no detections are written")


def main(argv: list[str] | None = None) -> None:
    """Evaluate, print the tables, and say where the detections are."""
    args = parse(EvaluateConfig, argv)
    image_ids = None if args.image_ids is None else _read_ids(args.image_ids)
    for file in (args.json, args.plots):
        if file is not None:
            check_writable(file)
    if args.weights is not None:
        dataset, results, metrics = _detect(args, args.weights, image_ids)
    else:
        dataset, results, metrics = _score_file(args, image_ids)
    print(format_metrics(metrics, args.details))
    tree: dict[str, Any] = {"weights": args.weights, "ground_truth": dataset.annotations}
    tree |= {"results": results, "protocol": args.protocol, **metrics_tree(metrics)}
    if args.errors or args.plots is not None:
        tree["errors"] = _tell_errors(args, dataset, results, metrics)
    print(f"detections: {results}")
    if args.json is not None:
        write_json(args.json, tree, indent=1)
        print(f"figures: {args.json}")


def _tell_errors(
    args: EvaluateConfig, dataset: CocoDataset, results: Path, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Print the errors and draw them; of masks where there are any. What JSON holds of them."""
    truth, entries = ground_truth(dataset), read_json(results)
    limit = int(metrics.get("max_detections", max(len(entries), 1)))
    kind: Kind = "segm" if "segm_AP" in metrics else "bbox"
    ids = {int(id) for id in dataset.image_ids}
    found = find_mistakes(truth, entries, kind, limit, ids)
    print(f"\n{format_mistakes(found)}\n")
    if args.plots is not None:
        curves = found.curves
        with replacing(args.plots) as draft:
            draw_mistakes(
                draft,
                precision=found.precision,
                names=found.names,
                scores=curves.scores,
                at_score={
                    "precision": curves.precision,
                    "recall": curves.recall,
                    "F1": curves.f1,
                },
                score=found.score,
                found=found.found,
                objects=found.objects,
                confusions=found.confusions,
                what=KINDS[kind],
            )
        print(f"errors: {args.plots}")
    return mistakes_tree(found)


def _detect(
    args: EvaluateConfig, weights: Path, image_ids: Collection[int] | None
) -> tuple[CocoDataset, Path, dict[str, float]]:
    """Detect with a model: images, the result file written, and the figures."""
    judge = Judge(args.protocol, args.backend, args.instance_ids)
    limit = args.max_dets or (judge.limit() if args.protocol == "lvis" else None)
    predictor = load(weights, args.device, amp=args.amp, max_detections=limit)
    for note in predictor.notes:
        print(note)
    assert args.data is not None
    split = find_splits(args.data, needs=(args.split,))[args.split]
    config = predictor.config
    splits = read_splits({args.split: split}, config.class_names, config.category_ids)
    dataset = splits[args.split]
    for note in dataset.notes:
        print(note)
    dataset = chosen_images(dataset, image_ids)
    folder = checkpoints.find(weights).parent if weights.exists() else Path()
    results = args.out or folder / f"coco_results_{args.split}.json"
    metrics = evaluate(
        predictor,
        dataset,
        batch_size=args.batch_size,
        workers=args.workers,
        results=results,
        judge=judge,
        progress=_Progress(),
    )
    return dataset, results, metrics


def _score_file(
    args: EvaluateConfig, image_ids: Collection[int] | None
) -> tuple[CocoDataset, Path, dict[str, float]]:
    """Score detections that are there: images, their file, and the figures."""
    assert args.results is not None
    dataset = read_truth(args.data, args.ground_truth, args.split)
    for note in dataset.notes:
        print(note)
    truth = ground_truth(dataset)
    entries = read_results(args.results, truth)
    if note := unknown_categories(entries, truth):
        print(note)
    dataset = chosen_images(dataset, image_ids)
    judge = Judge(args.protocol, args.backend, args.instance_ids)
    judge.check(dataset)
    metrics = score(dataset, entries, kinds_of(entries), args.max_dets, judge)
    return dataset, args.results, metrics


class _Progress:
    """A line every few seconds."""

    def __init__(self, every: float = 5.0) -> None:
        self.every, self.start = every, time.perf_counter()
        self.next = self.start + every

    def __call__(self, done: int, images: int) -> None:
        now = time.perf_counter()
        if now >= self.next:
            self.next = now + self.every
            print(f"{done}/{images} images, {done / (now - self.start):.1f} img/s", flush=True)


def _read_ids(path: Path) -> list[int]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--image-ids {path}: cannot be read ({error})") from error
    try:
        return [int(line) for line in lines]
    except ValueError:
        wrong = next(line for line in lines if not line.lstrip("-").isdigit())
        raise UserError(
            f"--image-ids {path}: must hold whole numbers, one a line, got {wrong!r:.40}"
        ) from None


if __name__ == "__main__":
    sys.exit(run(main))
