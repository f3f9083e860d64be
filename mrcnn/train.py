"""Train on your own images: `python -m mrcnn.train --data DIR`; without it, on drawn shapes."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from mrcnn.checkpoints import Start, fill, model_for, read_start, save
from mrcnn.config import MODELS, ModelConfig
from mrcnn.data.coco import CocoDataset, read_splits
from mrcnn.data.formats import find_splits
from mrcnn.data.loader import TrainBatch, train_loader
from mrcnn.data.shapes import write_shapes
from mrcnn.data.transforms import Augmentation
from mrcnn.errors import UserError
from mrcnn.evaluate import evaluate, format_metrics
from mrcnn.files import write_json
from mrcnn.flags import parse, run
from mrcnn.models import build
from mrcnn.predictor import Predictor, find_device
from mrcnn.training.loop import StepRecord, train_steps
from mrcnn.training.run_folder import append_results, environment, make_run_folder
from mrcnn.training.solver import learning_rate, make_optimizer
from mrcnn.visual import curves, draw_targets, mosaic

RUNS = Path("runs")
SHAPES = RUNS / "shapes"  # where the generated data set is kept
SHAPES_SIZE = 128  # pixels; its images are trained on as they are
PICTURES = 9  # images on a sheet
LEARNING_RATES = {"sgd": 0.01, "adamw": 0.0005}


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    data: Path | None = None
    """Folder with images and COCO annotations; without it, shapes are drawn and learnt."""
    out: Path | None = None
    """Run folder, new or empty; by default the next number in runs/."""
    model: Literal[tuple(MODELS)] | None = None  # type: ignore[valid-type]
    """Which model; by default that of a detector in --weights, else small."""
    weights: Path | None = None
    """Start from a run, a checkpoint, a detector of torchvision, Detectron2, MMDetection or
    maskrcnn-benchmark, or a backbone's ImageNet weights."""
    steps: int = 1350
    """Batches to train on."""
    batch_size: int = 2
    """Images a batch."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """AdamW learns faster from scratch; SGD with momentum is what the published models used."""
    lr: float | None = None
    """Learning rate after warm-up; by default 0.0005 for adamw, 0.01 for sgd."""
    warmup: int = 50
    """Steps until the learning rate is reached."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the rate falls: along a cosine, or tenfold at 2/3 and 8/9 of the steps."""
    momentum: float = 0.9
    """Of SGD, and of the first moment of AdamW."""
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    """Limit of the global gradient norm."""
    image_size: int | None = None
    """Shorter side that images are resized to, pixels."""
    scale: float | None = None
    """Resize every image by this factor instead, for images of one magnification."""
    multi_scale: tuple[int, ...] = ()
    """Shorter sides to draw from in training."""
    crop: int | None = None
    """Train on random squares of this side, in pixels of the files."""
    vertical_flip: bool = False
    """Flip half of the images upside down, too: for images without an up."""
    anchor_sizes: tuple[float, ...] = ()
    """One a pyramid level, fine to coarse, pixels after resizing."""
    max_detections: int | None = None
    """Objects an image, for the model and its evaluation."""
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""
    workers: int = 0
    """Processes that read images."""
    print_every: int = 20
    """Steps between progress lines."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "clip_norm", "print_every")
        if_given = ("lr", "image_size", "scale", "crop", "max_detections")
        for name in (*positive, *(n for n in if_given if getattr(self, n) is not None)):
            if not getattr(self, name) > 0:  # NaN fails, too
                raise self._wrong(name, "must be more than 0")
        for name in ("warmup", "eval_every", "workers", "weight_decay", "momentum", "seed"):
            if not getattr(self, name) >= 0:
                raise self._wrong(name, "must be 0 or more")
        if not all(size > 0 for size in self.multi_scale):
            raise self._wrong("multi_scale", "must be more than 0 each")

    def _wrong(self, name: str, rule: str) -> UserError:
        return UserError(f"--{name.replace('_', '-')} {rule}, got {getattr(self, name)}")


def model_config(args: TrainConfig, dataset: CocoDataset, start: Start | None) -> ModelConfig:
    """The named model, or that of the weights, with the classes of the data and the numbers given
    as flags."""
    base = model_for(start, MODELS.get(args.model or ""), MODELS["small"])
    image_size = args.image_size or (None if args.data else SHAPES_SIZE)
    given: dict[str, Any] = {
        "min_size": image_size,
        "scale": args.scale,
        "anchor_sizes": args.anchor_sizes or None,
        "max_detections": args.max_detections,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    if image_size is not None:
        overrides["max_size"] = max(base.max_size, 2 * image_size)
    try:
        return dataclasses.replace(
            base,
            class_names=dataset.class_names,
            category_ids=dataset.category_ids,
            **overrides,
        )
    except ValueError as error:
        raise UserError(f"--model {args.model or 'of --weights'}: {error}") from None


class Progress:
    """One line every few steps: losses, rate, speed, time left."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, records: list[StepRecord]) -> None:
        last = records[-1]
        seconds = sum(r.seconds for r in records)
        speed = sum(r.images for r in records) / seconds
        left = (self.steps - last.step) * seconds / len(records)
        mean = {name: sum(r.losses[name] for r in records) / len(records) for name in last.losses}
        parts = " ".join(
            f"{name.removeprefix('loss_')} {value:.3f}"
            for name, value in mean.items()
            if name != "loss"
        )
        waiting = sum(r.data_seconds for r in records) / seconds
        print(
            f"step {last.step}/{self.steps}  loss {mean['loss']:.3f} ({parts})  "
            f"lr {last.lr:.2g}  {speed:.1f} img/s (data {waiting:.0%})  "
            f"{int(left) // 60}:{int(left) % 60:02d} left",
            flush=True,
        )


def main(argv: list[str] | None = None) -> None:
    """Read the data, train, evaluate, and say where everything lies."""
    args = parse(TrainConfig, argv)
    device = find_device(args.device)
    torch.manual_seed(args.seed)
    splits = read_splits(
        find_splits(args.data) if args.data else write_shapes(SHAPES, size=SHAPES_SIZE)
    )
    for dataset in splits.values():
        for note in dataset.notes:
            print(note)
    if not len(splits["train"]):
        raise UserError(f"{splits['train'].annotations}: holds no images to train on")
    start = None if args.weights is None else read_start(args.weights)
    config = model_config(args, splits["train"], start)
    model = build(config)
    if start is not None:
        for note in fill(model, config, start):
            print(note)
    model.to(device)

    folder = make_run_folder(args.out, RUNS)
    described = {"train": dataclasses.asdict(args), "model": config.to_dict()}
    write_json(folder / "config.json", described, indent=2)
    write_json(folder / "environment.json", environment(), indent=2)
    print(
        f"{len(splits['train'])} images to train on, {len(splits['val'])} to validate, "
        f"{config.num_classes} classes; run folder {folder}"
    )
    Run(args, Predictor(model, config, args.amp), splits, folder).fit()


class Run:
    """One training run and what it leaves in its folder."""

    def __init__(
        self, args: TrainConfig, predictor: Predictor, splits: dict[str, CocoDataset], folder: Path
    ) -> None:
        self.args, self.predictor, self.splits, self.folder = args, predictor, splits, folder
        self.model, self.config = predictor.model, predictor.config
        self.best_ap = -1.0

    def fit(self) -> None:
        """Train all steps; evaluate on the way where asked, and at the end."""
        args, training = self.args, self.splits["train"]
        progress = Progress(args.steps)
        lr = args.lr or LEARNING_RATES[args.optimizer]
        seconds, cpu_seconds = 0.0, -time.process_time()
        evaluations = 0
        for records in train_steps(
            self.model,
            self._batches(),
            make_optimizer(
                self.model,
                args.optimizer,
                lr,
                momentum=args.momentum,
                weight_decay=args.weight_decay,
            ),
            lambda step: learning_rate(
                step, args.steps, lr=lr, warmup=args.warmup, schedule=args.schedule
            ),
            device=self.predictor.device,
            clip_norm=args.clip_norm,
            read_every=args.print_every,
            amp=args.amp,
            name_of=lambda index: str(training.path(index)),
        ):
            progress(records)
            seconds += sum(record.seconds for record in records)
            step = records[-1].step
            metrics: dict[str, float] = {}
            if step == args.steps:
                cpu_seconds += time.process_time()
                print(
                    f"trained {args.steps} steps of {args.batch_size} images in {seconds:.0f} s "
                    f"({cpu_seconds:.0f} s of CPU time), "
                    f"{args.steps * args.batch_size / seconds:.1f} img/s"
                )
            if step == args.steps or (args.eval_every and step // args.eval_every > evaluations):
                evaluations = step // args.eval_every if args.eval_every else 1
                pause = -time.process_time()
                metrics = self._evaluate(step)
                cpu_seconds -= pause + time.process_time()
            append_results(self.folder / "results.csv", records, metrics)
        curves(self.folder / "results.csv", self.folder / "curves.png")
        self._draw_predictions()
        print(f"weights, results.csv, curves and pictures are in {self.folder}")

    def _batches(self) -> Iterator[TrainBatch]:
        """The batches of the run; the first is drawn, as the network sees it."""
        args = self.args
        augmentation = Augmentation(
            crop=args.crop, min_sizes=args.multi_scale, vertical_flip=args.vertical_flip
        )
        for step, batch in enumerate(
            train_loader(
                self.splits["train"],
                self.config,
                augmentation,
                batch_size=args.batch_size,
                steps=args.steps,
                seed=args.seed,
                workers=args.workers,
            )
        ):
            if step == 0:
                pictures = draw_targets(batch.images, batch.targets, self.config)[:PICTURES]
                Image.fromarray(mosaic(pictures)).save(self.folder / "train_batch.jpg")
            yield batch

    def _evaluate(self, step: int) -> dict[str, float]:
        """Measure AP, print it, and keep the weights: as the last, and as the best if they are."""
        state = self.model.state_dict()
        save(self.folder / "last.safetensors", state, self.config, {"step": step})
        metrics = evaluate(self.predictor, self.splits["val"])
        print(format_metrics(metrics))
        summary = {name: metrics[name] for name in ("bbox_AP", "segm_AP")}
        if summary["segm_AP"] > self.best_ap:
            self.best_ap = summary["segm_AP"]
            extra = {"step": step, **summary}
            save(self.folder / "best.safetensors", state, self.config, extra)
        return summary

    def _draw_predictions(self) -> None:
        """A sheet of validation images with what the model finds in them."""
        validation = self.splits["val"]
        paths = [validation.path(i) for i in range(min(PICTURES, len(validation)))]
        if paths:
            pictures = [np.asarray(result.plot()) for result in self.predictor.predict(paths)]
            Image.fromarray(mosaic(pictures)).save(self.folder / "val_predictions.jpg")


if __name__ == "__main__":
    sys.exit(run(main))
