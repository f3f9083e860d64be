"""`mrcnn convert`: convert detectors from and to other frameworks."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tyro.conf import Positional

from mrcnn import checkpoints
from mrcnn.checkpoints.foreign.write import export_checkpoint
from mrcnn.cli.flags import parse, run
from mrcnn.errors import UserError
from mrcnn.io.atomic import check_writable, replacing
from mrcnn.models import build

TARGETS = {"mrcnn": ".safetensors", "torchvision": ".pth", "detectron2": ".pth"}


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a detector between mrcnn and other frameworks.

    Read a file of torchvision, Detectron2, MMDetection or maskrcnn-benchmark, and write a
    checkpoint with its configuration. Or read a checkpoint, and write a file of torchvision or
    Detectron2 (--to). The settings of the source model are inferred; flags override them.
    """

    source: Positional[Path]
    """File (.pt, .pth, .pkl), checkpoint or run folder."""
    target: Positional[Path]
    """File to write: .safetensors, or .pth for another framework."""
    to: Literal[tuple(TARGETS)] = "mrcnn"  # type: ignore[valid-type]
    """Framework to write the file for."""
    bgr: bool | None = None
    """True if the source model reads pixels as blue, green, red."""
    norm_eps: float | None = None
    """Epsilon of the source model's frozen batch norms."""
    stride_in_1x1: bool | None = None
    """True if the bottlenecks of the source model have their stride in the first 1 x 1
    convolution."""
    pixel_mean: tuple[float, float, float] | None = None
    """Mean of the pixels that the source model subtracts: red, green, blue, 0 to 255."""
    pixel_std: tuple[float, float, float] | None = None
    """Standard deviation that it divides by: red, green, blue, 0 to 255."""
    class_names: tuple[str, ...] | None = None
    """Class names, in the order of the model's outputs."""

    def __post_init__(self) -> None:
        suffix = TARGETS[self.to]
        if self.target.suffix != suffix:
            raise UserError(f"{self.target}: must end with {suffix} for --to {self.to}")
        if self.norm_eps is not None and not 0 <= self.norm_eps < 1:
            raise UserError(f"--norm-eps must be in [0, 1), got {self.norm_eps}")
        if self.pixel_std is not None and not all(value > 0 for value in self.pixel_std):
            raise UserError(f"--pixel-std must be positive, got {self.pixel_std}")
        for flag, values in (("mean", self.pixel_mean), ("std", self.pixel_std)):
            if values is not None and not all(map(math.isfinite, values)):
                raise UserError(f"--pixel-{flag} must be finite, got {values}")
        if self.target.resolve() == self.source.resolve():
            raise UserError(f"{self.target}: is the source; choose another file to write")


def main(argv: list[str] | None = None) -> None:
    """Read a detector, check that its weights fit its model, and write it."""
    args = parse(ConvertConfig, argv)
    check_writable(args.target)
    checkpoint = checkpoints.load(
        args.source,
        bgr=args.bgr,
        norm_eps=args.norm_eps,
        stride_in_1x1=args.stride_in_1x1,
        pixel_mean=args.pixel_mean,
        pixel_std=args.pixel_std,
        class_names=args.class_names,
    )
    _check_fits(args.source, checkpoint)
    for note in checkpoint.extra.get("notes", []):
        print(note)
    if args.to == "mrcnn":
        checkpoints.save(args.target, *checkpoint)
        print(f"{len(checkpoint.state)} tensors in {args.target}")
        return
    state, settings = export_checkpoint(args.to, checkpoint)
    with replacing(args.target) as draft:
        torch.save(state if args.to == "torchvision" else {"model": state}, draft)
    print(f"{len(state)} tensors in {args.target}; to build the model in {args.to}:")
    for setting in settings:
        print(f"  {setting}")


def _check_fits(source: Path, checkpoint: checkpoints.Checkpoint) -> None:
    try:
        with torch.device("meta"):
            model = build(checkpoint.config)
        model.load_state_dict(checkpoint.state, assign=True)
    except (ValueError, RuntimeError) as error:
        reason = "\n  ".join(str(error).splitlines()[:4])
        raise UserError(f"{source}: its weights do not fit its model ({reason})") from error


if __name__ == "__main__":
    sys.exit(run(main))
