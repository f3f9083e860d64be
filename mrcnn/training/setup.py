"""Set up a training run: data, model, weights, run folder; and the Python API `train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrcnn.checkpoints import find, load_pretrained, read_pretrained
from mrcnn.cli.flags import fields_set
from mrcnn.config import ModelConfig
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.augment.user_transform import load_transform
from mrcnn.data.coco.read import CocoDataset, read_splits
from mrcnn.data.formats import find_splits
from mrcnn.data.loading.train_set import check_sizes
from mrcnn.data.synthetic import write_shapes
from mrcnn.errors import UserError
from mrcnn.inference.load import load
from mrcnn.inference.predictor import Predictor
from mrcnn.io.atomic import write_json
from mrcnn.models import build
from mrcnn.runtime.distributed import World, connected
from mrcnn.training.config import TrainConfig
from mrcnn.training.loggers import Logger, TensorBoard
from mrcnn.training.options import (
    SHAPES_SIZE,
    choose_model,
    make_options,
    model_config,
    saved_model,
    scale_to_batch_size,
    set_evaluation_interval,
)
from mrcnn.training.run_data import check_classes, check_targets, data_changes
from mrcnn.training.run_folder import environment, locked, new_run_folder
from mrcnn.training.state import TrainingState, load_state, sweep
from mrcnn.training.step import TrainStep
from mrcnn.training.trainer import DATA, Trainer

RUNS = Path("runs")
SHAPES = RUNS / "shapes"  # the generated data set


@dataclass(frozen=True)
class TrainResult:
    """A training run that has ended.

    Attributes:
        folder: The run folder.
        best: Metrics of the best evaluation, such as "segm_AP", "bbox_AP50" and "val_loss"; empty
            if the best one was before the run was resumed.
        last: Metrics of the last evaluation; empty if this call did not evaluate.
        exit_code: 0, or 128 and the number of the signal that stopped the run, such as 130 after
            Ctrl-C; it can be resumed then.
    """

    folder: Path
    best: dict[str, float]
    last: dict[str, float]
    exit_code: int = 0

    @property
    def weights(self) -> Path:
        """The checkpoint with the best AP; that of the last state, if nothing was evaluated."""
        return find(self.folder)

    def load(self, device: str = "cpu") -> Predictor:
        """Load the best weights, to predict."""
        return load(self.weights, device)


def train(
    options: TrainConfig | None = None, /, *, loggers: Sequence[Logger] = (), **flags: Any
) -> TrainResult:
    """Train a model, as `mrcnn train` does.

    Keyword arguments are the fields of `TrainConfig`, named like the flags: `data`, `recipe`,
    `weights`, `steps`, `batch_size`, `device` and so on. What is not given comes from the
    configuration file or the resumed run (`config`, `resume`), else from the recipe.

    Under `torchrun` every process calls this function. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2
    save the state after the current step and end the run; the handlers of signals are restored
    afterwards.

    Args:
        options: A ready configuration, which is used as it is: its recipe then chooses only the
            steps, warm-up, learning rate and model that are None. Keyword arguments replace its
            fields.
        loggers: Objects with the methods of `Logger`, which receive the metrics of the run.
        **flags: The fields of `TrainConfig`.

    Raises:
        UserError: if an option is not valid, a file cannot be read, or the run cannot continue.

    Example:
        >>> from mrcnn.training import train
        >>> weights = "torchvision/maskrcnn_resnet50_fpn_v2"
        >>> result = train(data="DIR", recipe="finetune", weights=weights, seed=1)
        >>> result.best["segm_AP"], result.folder
        >>> result.load().predict("photo.jpg").save("overlay.png")
    """
    if options is None:
        options = make_options(flags)
    else:
        options = dataclasses.replace(options, **TrainConfig.fields_from(flags, "train"))
        if options.config or options.resume or options.auto_resume:
            raise UserError(
                "train: a TrainConfig with config, resume or auto_resume does not read their "
                "values; give all options as keyword arguments instead"
            )
    with connected(options.device) as world:
        return run_training(options, world, loggers)


def run_training(options: TrainConfig, world: World, loggers: Sequence[Logger] = ()) -> TrainResult:
    """Run a training from its first step, or its saved state, to its end."""
    device = world.device(options.device)
    with _deterministic(options.deterministic), ExitStack() as stack:
        torch.manual_seed(options.seed)
        if options.resume is not None and world.is_main:
            stack.enter_context(locked(options.resume))
        splits = _read_data(options, world)
        options, notes = scale_to_batch_size(options, len(splits["train"]))
        options = set_evaluation_interval(options, len(splits["val"]))
        notes += check_targets(splits)
        if options.batch_size % (divisor := world.size * options.accumulate):
            raise UserError(
                f"--batch-size {options.batch_size}: must be a multiple of {divisor}, "
                f"{world.size} processes x --accumulate {options.accumulate}"
            )
        if options.capture and (device.type != "cuda" or divisor > 1):
            raise UserError(
                "--capture: requires one process on a CUDA device without --accumulate, got "
                f"{world.size} on {device} with --accumulate {options.accumulate}; leave it out"
            )
        augmentation = _augmentation(options)
        state = pretrained = None
        if options.resume is not None:
            state, state_notes = _read_state(options.resume, splits)
            notes += state_notes
        if options.weights and state is None:
            pretrained = read_pretrained(options.weights, _anchors(options))
            options, chosen = choose_model(options, pretrained)
            notes += chosen
        config = model_config(options, splits["train"], pretrained)
        check_sizes(splits["train"], config, augmentation)
        check_sizes(splits["val"], config, Augmentation())
        try:
            model = build(config)
        except ValueError as error:
            raise UserError(f"{error}; see --model, --set and --config") from None
        if pretrained is not None:
            notes += load_pretrained(model, config, pretrained)
        model.to(device)

        folder = Path()
        if world.is_main:
            folder = options.resume or stack.enter_context(new_run_folder(options.out, RUNS))
            sweep(folder)
        folder = world.from_main(folder)
        if options.tensorboard and world.is_main:
            loggers = (*loggers, TensorBoard(folder / "tensorboard"))
        predictor = Predictor(model, config, options.amp == "bf16")
        take_step = TrainStep(model, options, world, device)
        trainer = Trainer(
            options, predictor, take_step, splits, augmentation, folder, tuple(loggers)
        )
        if state is not None:
            trainer.restore(state)
        if world.is_main:
            _describe(trainer)
            data_notes = (note for dataset in splits.values() for note in dataset.notes)
            shared = _shared_images(splits["train"], splits["val"])
            for note in dict.fromkeys((*notes, *data_notes, *shared)):
                print(note)
            print(
                f"{len(splits['train'])} images to train on, {len(splits['val'])} to validate, "
                f"{config.num_classes} class{'es' * (config.num_classes > 1)}; run folder {folder}"
            )
        exit_code = trainer.fit()
    return TrainResult(folder, trainer.best, trainer.last, exit_code)


@contextmanager
def _deterministic(enabled: bool) -> Iterator[None]:
    """Use deterministic algorithms inside this context."""
    before = torch.are_deterministic_algorithms_enabled()
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        if enabled:
            torch.use_deterministic_algorithms(before)


def _read_data(options: TrainConfig, world: World) -> dict[str, CocoDataset]:
    """Read the training and validation images; the main process writes generated shapes."""
    if options.out is not None:
        out, data = (Path(os.path.realpath(p)) for p in (options.out, options.data or SHAPES))
        if out == data or (options.data is None and data in out.parents):
            raise UserError(
                f"--out {options.out}: must be outside the data in {data}; name another folder"
            )
    if options.data is None:
        if world.is_main:
            try:
                write_shapes(SHAPES, size=SHAPES_SIZE)
            except OSError as error:
                raise UserError(
                    f"{SHAPES}: the generated shapes cannot be written ({error.strerror}); change "
                    "to a folder that you may write to, or name your own images by --data"
                ) from error
        world.wait()
    return read_splits(find_splits(options.data or SHAPES, images=options.images))


def _shared_images(train: CocoDataset, val: CocoDataset) -> list[str]:
    """Return a note on files that two COCO files name for both training and validation."""
    if train.annotations == val.annotations or train.folder != val.folder:
        return []
    if not (shared := len(set(train.file_names()).intersection(val.file_names()))):
        return []
    count = f"{shared} of {len(val)} validation images"
    return [f"{count} are for training, too: metrics on them only show memorization"]


def _anchors(options: TrainConfig) -> dict[str, Any]:
    """Return the anchors that are set; a detector of another framework may not load without."""
    fields = fields_set(options.set, ModelConfig)
    given = {name: value for name, value in fields.items() if name.startswith("anchor_")}
    return {"anchor_sizes": options.anchor_sizes or None, **given}


def _augmentation(options: TrainConfig) -> Augmentation:
    jitter = options.colour_jitter
    try:
        return Augmentation(
            crop=options.crop,
            min_sizes=options.multi_scale,
            jitter_size=options.large_scale_jitter,
            vertical_flip=options.vertical_flip,
            brightness=jitter,
            contrast=jitter,
            saturation=jitter,
            hue=jitter / 10,
            copy_paste=options.copy_paste,
            transform=None if options.transform is None else load_transform(options.transform),
        )
    except ValueError as error:
        raise UserError(
            f"{error}; --large-scale-jitter replaces --crop and --multi-scale"
        ) from None


def _read_state(
    folder: Path, splits: dict[str, CocoDataset]
) -> tuple[TrainingState | None, list[str]]:
    """Read the newest state of a run, None if it saved none; and notes for the user.

    Raises:
        UserError: if it cannot be read, or the data have other classes.
    """
    if not any((folder / "state").glob("*.safetensors")):
        return None, [f"{folder}: no saved state yet; the run starts over"]
    state, notes = load_state(folder)
    if (model := saved_model(folder / "config.json")) is not None:
        check_classes(folder, model, splits["train"])
    for name, dataset in splits.items():
        before = state.tensors.get(f"{DATA}.{name}")
        if before is not None:
            notes += data_changes(dataset, before)
        elif name == "train":
            notes.append("the run has not saved which data it used; they are not compared")
    now, then = environment(), state.values["environment"]
    changed = [
        f"{name} was {then[name]}, is now {now[name]}"
        for name in ("torch", "mrcnn", "threads", "machine")
        if then[name] != now[name]
    ]
    if changed:
        notes.append(f"the run will not be bit-identical: {'; '.join(changed)}")
    return state, [*notes, f"resumed at step {state.step}"]


def _describe(trainer: Trainer) -> None:
    """Write config.json and environment.json."""
    folder, world = trainer.folder, trainer.world
    options = dataclasses.replace(
        trainer.options, resume=None, config=None, auto_resume=False, out=folder
    )
    data = {
        name: {"annotations": dataset.annotations, "images": dataset.folder}
        for name, dataset in trainer.splits.items()
    }
    model = trainer.predictor.config.to_dict()
    content = {"train": options.to_dict(), "model": model, "data": data}
    write_json(folder / "config.json", content, indent=2)
    write_json(folder / "environment.json", {**environment(), "processes": world.size}, indent=2)
