"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mrcnn.cli.flags import group, typed
from mrcnn.config import MODELS
from mrcnn.errors import UserError
from mrcnn.training.recipes import RECIPES

MAX_BATCH_SIZE = 2**16  # over all processes; the largest in use are a few thousand
_POSITIVE = (
    "epochs", "steps", "batch_size", "accumulate", "lr", "clip_norm", "image_size", "scale", "crop",
    "large_scale_jitter", "max_detections", "print_every", "save_every",
)  # fmt: skip
_NOT_NEGATIVE = (
    "warmup", "eval_every", "keep_every", "patience", "workers", "weight_decay", "momentum", "seed",
    "repeat_threshold",
)  # fmt: skip
_FRACTIONS = ("ema", "warmup_factor", "colour_jitter", "copy_paste")  # in [0, 1)


@dataclass(frozen=True)
class TrainConfig:
    """Train Mask R-CNN.

    Steps, warm-up and learning rate that you do not set come from the recipe, scaled linearly to
    the batch size.
    """

    data: Path | None = None
    """Folder with images and annotations, or a COCO file. Without it, generated shapes are used."""
    images: Path | None = None
    """Folder of the images, if --data is a COCO file. If not set, it is found beside the file."""
    out: Path | None = None
    """Run folder, new or empty. If not set, it is the next number in runs/."""
    recipe: Literal[tuple(RECIPES)] = "cpu-demo"  # type: ignore[valid-type]
    """Preset for all that you do not set: see docs/training.md."""
    weights: Path | None = None
    """Pretrained weights: a run, a checkpoint, a detector of torchvision, Detectron2, MMDetection
    or maskrcnn-benchmark, or an ImageNet backbone."""
    epochs: float | None = None
    """Number of passes over the training images, instead of --steps."""
    steps: int | None = None
    """Number of optimizer steps."""
    batch_size: int = 2
    """Images per step, over all processes."""
    resume: Path | None = None
    """Run folder to resume from its last saved state. Other flags override the saved settings."""
    auto_resume: bool = False
    """Resume the run in --out if there is one, else start it."""
    config: Path | None = None
    """Configuration file: config.json of a run, or some of its fields in JSON or TOML."""

    model: Literal[tuple(MODELS)] | None = group("model", None)  # type: ignore[valid-type]
    """Model to train; a detector in --weights brings its own."""
    image_size: int | None = None
    """Shorter side of the resized images, in pixels. If not set, it is that of the model."""
    scale: float | None = None
    """Factor for resizing images, instead of --image-size: for images of one magnification."""
    anchor_sizes: tuple[float, ...] = ()
    """One anchor size per pyramid level, fine to coarse, in pixels after resizing."""
    max_detections: int | None = None
    """Maximum detections per image, in the model and its evaluation."""
    set: tuple[str, ...] = ()
    """Fields of the model configuration, for example roi_samples=256 box_loss=giou."""

    lr: float | None = group("schedule", None)
    """Learning rate after warm-up."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Published models were trained with SGD. AdamW learns faster from scratch."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate schedule. step: divide by ten at each of --milestones. cosine: fall to zero."""
    warmup: int | None = None
    """Number of warm-up steps."""
    warmup_factor: float = 0.001
    """Fraction of the learning rate at which warm-up starts."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Fractions of the run at which the step schedule lowers the learning rate."""
    weight_decay: float = 1e-4
    """Weight decay of convolutions and linear layers."""
    momentum: float = 0.9
    """Momentum of SGD, or the first beta of AdamW."""
    decay_norms: bool = False
    """Apply weight decay to the weights and biases of norm layers, too."""
    decay_biases: bool = True
    """Apply weight decay to other biases, too."""
    clip_norm: float | None = None
    """Maximum global gradient norm."""
    accumulate: int = 1
    """Micro-batches per step in each process. More of them need less memory."""
    ema: float = 0.0
    """Decay of an EMA of the weights, which is evaluated and saved as best and last; 0 is off."""

    multi_scale: tuple[int, ...] = group("augmentation", ())
    """Shorter sides of training images, in pixels; one is drawn at random for each image."""
    colour_jitter: float = 0.0
    """Change brightness, contrast and saturation by up to this fraction, and the hue slightly."""
    vertical_flip: bool = False
    """Flip half of the images upside down, too: for images without a natural orientation."""
    copy_paste: float = 0.0
    """Fraction of the images onto which objects of another image are pasted."""
    crop: int | None = None
    """Train on random square crops of this side, in pixels of the original images."""
    large_scale_jitter: int | None = None
    """Train on squares of this side, after resizing images to 0.1 to 2 times the square."""
    transform: str | None = None
    """Custom pixel augmentation as module:function; see docs/training.md. It is not read from
    --config or --resume, since it is code: give it each time."""
    repeat_threshold: float = 0.0
    """Repeat-factor sampling (LVIS): repeat images with classes that occur in less than this
    fraction of the images; 0 is off."""
    group_orientations: bool = True
    """Do not mix landscape and portrait images in a batch: less padding."""

    eval_every: int | None = group("saving and evaluation", None)
    """Steps between evaluations; 0 evaluates only at the end. If not set, it is a tenth of the run,
    or as many steps as keep evaluation below about a tenth of the time."""
    patience: int = 0
    """Stop after this many evaluations without a better AP; 0 never stops early."""
    save_every: int = 500
    """Steps between saved states to resume from. The last two are kept."""
    keep_every: int = 0
    """Steps between saved states that are never deleted; 0 is off."""
    print_every: int = 20
    """Steps between progress lines, and between rows of results.csv."""
    val_loss: bool = True
    """Compute the losses on the validation images, too."""
    tensorboard: bool = False
    """Write TensorBoard event files, too."""

    device: str = group("machine", "auto")
    """Device to train on: cpu, cuda, cuda:N, or auto for a GPU if there is one."""
    workers: int = 0
    """Processes that load images, per training process."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision: faster on GPUs, and less memory."""
    compile: bool = False
    """Compile the model with torch.compile. On a CPU the eager model is faster if images have few
    objects, since it skips the masks of padding."""
    capture: bool = False
    """Run forward and backward as CUDA graphs, so that the GPU never waits for the CPU."""
    checkpoint_activations: bool = False
    """Recompute the backbone in the backward pass instead of storing its activations: less
    memory."""
    seed: int = 0
    """Seed of the initial weights, of augmentation and of sampling."""
    deterministic: bool = False
    """Bit-identical results on a GPU. On a CPU they are bit-identical anyway."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is not finite, stop the run or skip the step. Skipping waits for the
    GPU in every step."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """If an image cannot be read, stop the run, or use the next image instead."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if (value := getattr(self, name)) is not None and not value > 0:  # NaN fails, too
                raise self._wrong(name, "must be more than 0")
        for name in _NOT_NEGATIVE:
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise self._wrong(name, "must be 0 or more")
        for name in (*_POSITIVE, *_NOT_NEGATIVE):
            if (getattr(self, name) or 0) >= 2**62:  # the kernels count in 64 bits
                raise self._wrong(name, "must be less than 2^62")
        if self.batch_size > MAX_BATCH_SIZE:
            raise self._wrong("batch_size", f"must be at most {MAX_BATCH_SIZE:,}")
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) < 1:
                raise self._wrong(name, "must be at least 0 and less than 1")
        if not all(size > 0 for size in self.multi_scale):
            raise self._wrong("multi_scale", "must be more than 0 each")
        if not all(0 < fraction <= 1 for fraction in self.milestones):
            raise self._wrong("milestones", "must be in (0, 1] each, fractions of the run")
        for name, hint in get_type_hints(TrainConfig).items():
            value, choices = getattr(self, name), _choices(hint)
            if choices and value not in choices:
                raise self._wrong(name, f"must be one of {', '.join(map(str, choices))}")
        if self.steps is not None and self.epochs is not None:
            raise UserError("--steps and --epochs exclude each other; give one of them")

    def _wrong(self, name: str, rule: str) -> UserError:
        return UserError(f"--{name.replace('_', '-')} {rule}, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def fields_from(cls, values: Any, source: str) -> dict[str, Any]:
        """Convert values of JSON, TOML or Python to arguments of this class.

        Raises:
            UserError: if a field is unknown or its value has the wrong type; it names `source`.
        """
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if not isinstance(values, dict):
            raise UserError(f"{source} must hold fields and values, got {values!r:.60}")
        for name in values:
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; see mrcnn train --help"
                raise UserError(f"{source} has no field {name!r}{hint}")
        fields = {}
        for name, value in values.items():
            try:
                fields[name] = typed(kinds[name], value)
            except (TypeError, ValueError):
                raise UserError(
                    f"{source}.{name} must be of type {kinds[name]}, got {value!r:.60}"
                ) from None
        return fields


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the values that an annotation with a `Literal` allows; () for other annotations."""
    literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
    optional = (None,) if type(None) in get_args(hint) else ()
    return (*get_args(literals[0]), *optional) if literals else ()
