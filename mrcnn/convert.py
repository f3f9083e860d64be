"""`mrcnn convert`: convert detectors from and to other frameworks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from mrcnn.cli.flags import parse, run
from mrcnn.errors import UserError
from mrcnn.inference.model_flags import ModelFlags
from mrcnn.io.atomic import check_writable, replacing

if TYPE_CHECKING:
    from mrcnn.checkpoints import Checkpoint

TARGETS = {"mrcnn": ".safetensors", "torchvision": ".pth", "detectron2": ".pth"}


@dataclass(frozen=True)
class ConvertConfig(ModelFlags):
    """Convert a detector between mrcnn and other frameworks.

    Read a file of torchvision, Detectron2, MMDetection or maskrcnn-benchmark, and write a
    checkpoint with its configuration. Or read a checkpoint, and write a file of torchvision or
    Detectron2 (--to). The settings of the source model are inferred; --set overrides them.
    """

    source: Positional[Path]
    """File (.pt, .pth, .pkl), checkpoint or run folder."""
    target: Positional[Path]
    """File to write: .safetensors, or .pth for another framework."""
    to: Literal[tuple(TARGETS)] = "mrcnn"  # type: ignore[valid-type]
    """Framework to write the file for."""

    def __post_init__(self) -> None:
        suffix = TARGETS[self.to]
        if self.target.suffix != suffix:
            raise UserError(f"{self.target}: must end with {suffix} for --to {self.to}")


def main(argv: list[str] | None = None) -> None:
    """Read a detector, check that its weights fit its model, and write it."""
    args = parse(ConvertConfig, argv)
    import torch

    from mrcnn import checkpoints
    from mrcnn.checkpoints.foreign.write import export_checkpoint

    check_writable(args.target)
    checkpoint = checkpoints.load(args.source, **args.fields())
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


def _check_fits(source: Path, checkpoint: Checkpoint) -> None:
    import torch

    from mrcnn.models import build

    try:
        with torch.device("meta"):
            model = build(checkpoint.config)
        model.load_state_dict(checkpoint.state, assign=True)
    except (ValueError, RuntimeError) as error:
        reason = "\n  ".join(str(error).splitlines()[:4])
        raise UserError(f"{source}: its weights do not fit its model ({reason})") from error


if __name__ == "__main__":
    sys.exit(run(main))
