"""Detectors of other frameworks as checkpoints: `mrcnn convert theirs.pth ours.safetensors`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mrcnn import checkpoints
from mrcnn.errors import UserError
from mrcnn.files import check_writable
from mrcnn.flags import parse, run
from mrcnn.predictor import load


@dataclass(frozen=True)
class ConvertConfig:
    """Write a state dict of torchvision's Mask R-CNN as a checkpoint with its configuration."""

    source: Positional[Path]
    """State dict (.pt, .pth)."""
    target: Positional[Path]
    """Checkpoint to write (.safetensors)."""
    norm_eps: float | None = None
    """Epsilon of frozen batch norms; by default 0 for the published file's names, else 1e-5."""

    def __post_init__(self) -> None:
        if self.target.suffix != ".safetensors":
            raise UserError(f"{self.target}: must be named .safetensors")
        if self.norm_eps is not None and not 0 <= self.norm_eps < 1:
            raise UserError(f"--norm-eps must lie in [0, 1), got {self.norm_eps}")


def main(argv: list[str] | None = None) -> None:
    """Read, check that the weights fit the model, write."""
    args = parse(ConvertConfig, argv)
    check_writable(args.target)
    load(args.source, norm_eps=args.norm_eps)  # the whole model takes them, or an error says why
    state, config, extra = checkpoints.load(args.source, norm_eps=args.norm_eps)
    checkpoints.save(args.target, state, config, extra)
    for note in extra.get("notes", []):
        print(note)
    print(f"{len(state)} tensors in {args.target}")


if __name__ == "__main__":
    sys.exit(run(main))
