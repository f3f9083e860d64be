"""What one training run is: every number that can be chosen."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from mrcnn.config import MODELS
from mrcnn.errors import UserError
from mrcnn.training.recipes import RECIPES

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
    """One training run. Steps, warm-up and learning rate that are not given come from the recipe,
    by the linear rule for another batch size."""

    data: Path | None = None
    """Folder with images and annotations; without it, shapes are drawn and learnt."""
    out: Path | None = None
    """Run folder, new or empty; by default the next number in runs/."""
    recipe: Literal[tuple(RECIPES)] = "cpu-demo"  # type: ignore[valid-type]
    """Where all numbers come from that are not given."""
    config: Path | None = None
    """Take the numbers from a file: config.json of a run, or some of them in JSON or TOML."""
    resume: Path | None = None
    """Continue this run exactly where it stopped; other flags change what they name."""
    auto_resume: bool = False
    """Continue --out where it holds a run, else begin it."""

    model: Literal[tuple(MODELS)] | None = None  # type: ignore[valid-type]
    """Which model; by default that of a detector in --weights, else that of the recipe."""
    weights: Path | None = None
    """Start from a run, a checkpoint, a detector of torchvision, Detectron2, MMDetection or
    maskrcnn-benchmark, or a backbone's ImageNet weights."""
    set: tuple[str, ...] = ()
    """Fields of the model's configuration, as roi_samples=256 box_loss=giou."""

    batch_size: int = 2
    """Images a step, over all processes."""
    steps: int | None = None
    """Batches to train on."""
    epochs: float | None = None
    """Times to see every image, in place of --steps."""
    accumulate: int = 1
    """Parts that a process cuts its images of a step into, one after the other, to save memory."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum is what the published models used; AdamW learns faster from scratch."""
    lr: float | None = None
    """Learning rate after warm-up."""
    warmup: int | None = None
    """Steps until the learning rate is reached."""
    warmup_factor: float = 0.001
    """Of the learning rate, where warm-up begins."""
    schedule: Literal["step", "cosine"] = "step"
    """How the rate falls: tenfold at each of --milestones, or along a cosine to zero."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Of the schedule `step`, in parts of the steps."""
    momentum: float = 0.9
    """Of SGD, and of the first moment of AdamW."""
    weight_decay: float = 1e-4
    decay_norms: bool = False
    """Weight decay also on the weights and biases of norms."""
    decay_biases: bool = True
    """Weight decay also on other biases."""
    clip_norm: float | None = None
    """Limit of the global gradient norm."""
    ema: float = 0.0
    """Decay of a running mean of the weights, which is then what is evaluated and kept as best and
    last; 0 keeps none."""

    image_size: int | None = None
    """Shorter side that images are resized to, pixels."""
    scale: float | None = None
    """Resize every image by this factor instead, for images of one magnification."""
    multi_scale: tuple[int, ...] = ()
    """Shorter sides to draw from in training."""
    large_scale_jitter: int | None = None
    """Train on squares of this side, cut from images resized by 0.1 to 2 times what fits it."""
    crop: int | None = None
    """Train on random squares of this side, in pixels of the files."""
    vertical_flip: bool = False
    """Flip half of the images upside down, too: for images without an up."""
    colour_jitter: float = 0.0
    """Change brightness, contrast and saturation by up to this part, and hue a little."""
    copy_paste: float = 0.0
    """Share of images onto which instances of another image are pasted."""
    transform: str | None = None
    """Your own change of pixels, as module:function; see docs/training.md."""
    group_orientations: bool = True
    """Batches of only wide or only tall images: less padding."""
    repeat_threshold: float = 0.0
    """Show images of classes that fewer than this share of the images hold more often (LVIS)."""
    anchor_sizes: tuple[float, ...] = ()
    """One a pyramid level, fine to coarse, pixels after resizing."""
    max_detections: int | None = None
    """Objects an image, for the model and its evaluation."""

    eval_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    patience: int = 0
    """Evaluations without a better AP after which training ends early; 0 never does."""
    val_loss: bool = True
    """Measure the losses on the validation images, too."""
    save_every: int = 500
    """Steps between saved states to resume from; the last two are kept."""
    keep_every: int = 0
    """Steps between states that are kept for good; 0 keeps none."""
    print_every: int = 20
    """Steps between progress lines, and rows of results.csv."""
    tensorboard: bool = False
    """Write events for TensorBoard, too."""

    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Compute convolutions and matrix products in half precision: faster on GPUs, less memory."""
    compile: bool = False
    """Compile the model with torch.compile. On a CPU the eager model is faster where images have
    few objects: it leaves out the masks of padding."""
    capture: bool = False
    """Run forward and backward as CUDA graphs: nothing waits for the host."""
    checkpoint_activations: bool = False
    """Compute the backbone twice instead of keeping its activations: less memory."""
    deterministic: bool = False
    """Same bits every time on a GPU, too; on a CPU they are the same anyway."""
    workers: int = 0
    """Processes that read images, for each training process."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do at a loss or gradient that is not finite; skipping waits for every step."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do at an image that cannot be read."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if (value := getattr(self, name)) is not None and not value > 0:  # NaN fails, too
                raise self._wrong(name, "must be more than 0")
        for name in _NOT_NEGATIVE:
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise self._wrong(name, "must be 0 or more")
        for name in _FRACTIONS:
            if not 0 <= getattr(self, name) < 1:
                raise self._wrong(name, "must be at least 0 and less than 1")
        if not all(size > 0 for size in self.multi_scale):
            raise self._wrong("multi_scale", "must be more than 0 each")
        if not all(0 < part <= 1 for part in self.milestones):
            raise self._wrong("milestones", "must lie in (0, 1] each, parts of the steps")
        for name, hint in get_type_hints(TrainConfig).items():
            value, choices = getattr(self, name), _choices(hint)
            if choices and value not in choices:
                raise self._wrong(name, f"must be one of {', '.join(map(str, choices))}")
        if self.steps is not None and self.epochs is not None:
            raise UserError("--steps and --epochs exclude each other; give one of them")

    def _wrong(self, name: str, rule: str) -> UserError:
        return UserError(f"--{name.replace('_', '-')} {rule}, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def fields_from(cls, values: Any, source: str) -> dict[str, Any]:
        """Values of a file as arguments of this class.

        Args:
            source: of the values, for messages.
        Raises:
            UserError: if a field is unknown, or its value is of another kind than the field's.
        """
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if not isinstance(values, dict):
            raise UserError(f"{source}: train must hold fields and values, got {values!r:.60}")
        for name in values:
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; see mrcnn train --help"
                raise UserError(f"{source}: train has no field {name!r}{hint}")
        found = {}
        for name, value in values.items():
            try:
                found[name] = typed(kinds[name], value)
            except (TypeError, ValueError):
                raise UserError(
                    f"{source}: train.{name} must be of type {kinds[name]}, got {value!r:.60}"
                ) from None
        return found


def _choices(hint: Any) -> tuple[Any, ...]:
    """What an annotation with a `Literal` in it allows; nothing for other annotations."""
    options = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
    optional = (None,) if type(None) in get_args(hint) else ()
    return (*get_args(options[0]), *optional) if options else ()


def typed(kind: str, value: Any) -> Any:
    """A value of JSON or TOML as one of the annotation `kind`; TypeError where it is none."""
    plain = kind.removesuffix(" | None")
    if value is None and plain != kind:
        return None
    if plain.startswith("tuple["):
        if not isinstance(value, list):
            raise TypeError
        return tuple(typed(plain[len("tuple[") : -len(", ...]")], one) for one in value)
    if plain == "float" and type(value) is int:
        return float(value)
    if type(value) is not {"int": int, "float": float, "bool": bool}.get(plain, str):
        raise TypeError
    return Path(str(value)) if plain == "Path" else value
