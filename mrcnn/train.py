"""Train on your own images: `python -m mrcnn.train --data DIR`; without it, on drawn shapes."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import torch

from mrcnn.arguments import (
    Defaults,
    description,
    model_fields,
    named_model,
    read_defaults,
    resolved,
)
from mrcnn.checkpoints import Start, fill, model_for, read_start
from mrcnn.config import MODELS, ModelConfig
from mrcnn.data.coco import CocoDataset, read_splits
from mrcnn.data.formats import find_splits
from mrcnn.data.shapes import write_shapes
from mrcnn.data.transforms import Augmentation
from mrcnn.data.user_transform import load_transform
from mrcnn.errors import UserError
from mrcnn.files import write_json
from mrcnn.flags import parse, run
from mrcnn.models import build
from mrcnn.predictor import Predictor, find_device
from mrcnn.run import Run
from mrcnn.training.config import TrainConfig
from mrcnn.training.distributed import World, is_said, join, leave, missing
from mrcnn.training.loggers import Logger
from mrcnn.training.recipes import RECIPES
from mrcnn.training.run_folder import environment, make_run_folder
from mrcnn.training.state import TrainingState, load_state, sweep

RUNS = Path("runs")
SHAPES = RUNS / "shapes"  # where the generated data set is kept
SHAPES_SIZE = 128  # pixels; its images are trained on as they are


def main(argv: list[str] | None = None, loggers: tuple[Logger, ...] = ()) -> int:
    """Read the data, train, evaluate, and say where everything lies; returns the exit code.

    Args:
        loggers: who else is told of the figures.
    """
    defaults = read_defaults(argv)
    about = description(defaults.train.recipe)
    args = parse(TrainConfig, argv, defaults.train, "mrcnn train", about)
    world = join(args.device)
    try:
        return _train(args, defaults, world, loggers)
    except RuntimeError as error:
        if world.size == 1 or not (ranks := missing(world)):
            raise
        raise UserError(
            f"process {world.rank}: rank {', '.join(map(str, ranks))} answers no more, and "
            "training cannot go on without it. Its last words or the system log say why; "
            "--resume continues the run."
        ) from error
    except UserError as error:
        if world.size > 1 and is_said(str(error)):
            return 2
        raise
    finally:
        leave()


def _train(args: TrainConfig, defaults: Defaults, world: World, loggers: tuple[Logger, ...]) -> int:
    device = find_device(f"cuda:{world.local_rank}" if args.device == "cuda" else args.device)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)
    splits = _read_data(args, world)
    args, notes = resolved(args, len(splits["train"]))
    if args.batch_size % (parts := world.size * args.accumulate):
        raise UserError(
            f"--batch-size {args.batch_size}: must be a multiple of {parts}, "
            f"{world.size} processes x --accumulate {args.accumulate}"
        )
    augmentation = _augmentation(args)
    begins = args.resume is None
    start = read_start(args.weights) if args.weights is not None and begins else None
    config = _model_config(args, defaults, splits["train"], start)
    try:
        model = build(config)
    except ValueError as error:
        raise UserError(f"{error}; see --model, --set and --config") from None
    state: TrainingState | None = None
    if args.resume is not None:
        state, found = _saved_state(args.resume)
        notes += found
    elif start is not None:
        notes += fill(model, config, start)
    model.to(device)

    folder = world.from_main(_make_folder(args) if world.is_main else "")
    predictor = Predictor(model, config, args.amp == "bf16")
    training = Run(args, predictor, splits, folder, world, augmentation, loggers)
    if state is not None:
        training.restore(state)
    if world.is_main:
        _describe(folder, args, config, splits, world)
        of_data = (note for dataset in splits.values() for note in dataset.notes)
        for note in dict.fromkeys((*notes, *of_data)):
            print(note)
        print(
            f"{len(splits['train'])} images to train on, {len(splits['val'])} to validate, "
            f"{config.num_classes} class{'es' * (config.num_classes > 1)}; run folder {folder}"
        )
    return training.fit()


def _read_data(args: TrainConfig, world: World) -> dict[str, CocoDataset]:
    """Training and validation images; drawn shapes are written by the main process."""
    if args.data is not None:
        splits = read_splits(find_splits(args.data))
    else:
        if world.is_main:
            write_shapes(SHAPES, size=SHAPES_SIZE)
        world.wait()
        splits = read_splits(find_splits(SHAPES))
    for name, purpose in (("train", "train"), ("val", "validate")):
        if not len(splits[name]):
            raise UserError(f"{splits[name].annotations}: holds no images to {purpose} on")
    return splits


def _model_config(
    args: TrainConfig, defaults: Defaults, dataset: CocoDataset, start: Start | None
) -> ModelConfig:
    """The model of the file, flag, weights or recipe, with the classes of the data and the numbers
    given as flags."""
    recipe = RECIPES[args.recipe]
    usual = dataclasses.replace(MODELS[recipe.model], **recipe.model_fields)
    base = model_for(start, named_model(args, defaults), usual)
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
    classes = {"class_names": dataset.class_names, "category_ids": dataset.category_ids}
    try:
        return ModelConfig.from_dict(
            {**base.to_dict(), **overrides, **model_fields(args.set), **classes}
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"{error}; see --model, --set and --config") from None


def _augmentation(args: TrainConfig) -> Augmentation:
    """What the flags ask to vary."""
    jitter = args.colour_jitter
    try:
        return Augmentation(
            crop=args.crop,
            min_sizes=args.multi_scale,
            jitter_size=args.large_scale_jitter,
            vertical_flip=args.vertical_flip,
            brightness=jitter,
            contrast=jitter,
            saturation=jitter,
            hue=jitter / 10,
            copy_paste=args.copy_paste,
            transform=None if args.transform is None else load_transform(args.transform),
        )
    except ValueError as error:
        raise UserError(
            f"{error}; --large-scale-jitter replaces --crop and --multi-scale"
        ) from None


def _saved_state(folder: Path) -> tuple[TrainingState | None, list[str]]:
    """The newest state of a run; a run that ended before it saved one begins anew."""
    if not any((folder / "state").glob("*.safetensors")):
        return None, [f"{folder}: saved no state yet; the run begins anew"]
    state, notes = load_state(folder)
    now, then = environment(), state.values["environment"]
    changed = [
        f"{name} was {then[name]}, is {now[name]}"
        for name in ("torch", "mrcnn", "threads", "machine")
        if then[name] != now[name]
    ]
    if changed:
        notes.append(f"not to the bit what it would have been: {'; '.join(changed)}")
    return state, [*notes, f"resumed at step {state.step}"]


def _make_folder(args: TrainConfig) -> Path:
    """The run folder, without what writers that died have left there."""
    folder = args.resume or make_run_folder(args.out, RUNS)
    sweep(folder)
    return folder


def _describe(
    folder: Path,
    args: TrainConfig,
    config: ModelConfig,
    splits: dict[str, CocoDataset],
    world: World,
) -> None:
    """Write how the run came about."""
    kept = dataclasses.replace(args, resume=None, config=None, auto_resume=False, out=folder)
    data = {
        name: {"annotations": dataset.annotations, "images": dataset.folder}
        for name, dataset in splits.items()
    }
    described = {"train": kept.to_dict(), "model": config.to_dict(), "data": data}
    write_json(folder / "config.json", described, indent=2)
    write_json(folder / "environment.json", {**environment(), "processes": world.size}, indent=2)


if __name__ == "__main__":
    sys.exit(run(main))
