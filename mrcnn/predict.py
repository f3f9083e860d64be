"""Command that detects objects in images: `python -m mrcnn.predict --weights RUN images/`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from mrcnn.cli.flags import parse, require_at_least, run
from mrcnn.errors import UserError
from mrcnn.inference.model_flags import ProgramFlags

if TYPE_CHECKING:
    from mrcnn.runtime.distributed import World


@dataclass(frozen=True)
class PredictConfig(ProgramFlags):
    """Detect objects in images; write an overlay per image, and predictions.json."""

    images: Positional[tuple[Path, ...]]
    """Image files, folders of images, patterns in quotes such as 'shots/**/*.jpg', video files,
    camera:0, or - for a list of these on standard input."""
    weights: Path
    """Run folder (its best checkpoint, or else its last), checkpoint file, detector of another
    framework, or name of a published model."""
    out: Path = Path("predictions")
    """Folder for the overlays and predictions.json. Existing predictions need --resume."""
    score_threshold: float = 0.5
    """Lowest score of the objects to keep."""
    class_threshold: tuple[str, ...] = ()
    """Lowest scores of single classes, such as cat=0.7 dog=0.6."""
    max_dets: int | None = None
    """Maximum detections per image. If not set, it is the model's own limit."""
    batch_size: int = 1
    """Images or tiles per batch; only images padded to the same size share a batch."""
    tiles: int | None = None
    """Side of a tile in pixels: process larger images in overlapping tiles."""
    tile_overlap: float = 0.25
    """Smallest fraction of their side that neighbouring tiles share."""
    tta: bool = False
    """Test-time augmentation: average three sizes, each mirrored too; about six times the work."""
    overlays: bool = True
    """Draw the objects over their image."""
    csv: bool = False
    """Also write predictions.csv: a row per object with its name, score, box, area and center."""
    masks: bool = False
    """Also write masks/NAME.png, a label image: 0 is background, 1, 2, … are the objects."""
    recursive: bool = False
    """Also search subfolders."""
    resume: bool = False
    """Resume an interrupted run in --out, skipping finished images."""
    device: str = "auto"
    """Device that runs the model: cpu, cuda, cuda:N, or auto for a GPU if there is one."""
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must be in [0, 1], got {self.score_threshold}")
        if not 0 <= self.tile_overlap <= 0.9:
            raise UserError(f"--tile-overlap must be in [0, 0.9], got {self.tile_overlap}")
        require_at_least(self, max_dets=1, batch_size=1)
        if not self.images:
            raise UserError("predict: name at least one image or folder")


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 2 if an image could not be read."""
    args = parse(PredictConfig, argv)
    from mrcnn.runtime.distributed import connected

    with connected(args.device) as world:
        return _predict(args, world)


def _predict(args: PredictConfig, world: World) -> int:
    from mrcnn.inference.load import load
    from mrcnn.inference.predict_files import Outputs, predict_files
    from mrcnn.inference.sources import find_images
    from mrcnn.inference.thresholds import parse_thresholds
    from mrcnn.inference.tiles import MIN_TILE

    require_at_least(args, tiles=MIN_TILE)
    class_thresholds = parse_thresholds(args.class_threshold)
    where = (args.images, args.recursive, args.out)
    found = world.from_main(find_images(*where) if world.is_main else None)
    lowest = min(args.score_threshold, *class_thresholds.values(), 1)
    fields = args.fields(score_threshold=lowest, max_detections=args.max_dets)
    predictor = load(args.weights, str(world.device(args.device)), amp=args.amp, **fields)
    for note in [*found.notes, *predictor.notes] if world.is_main else ():
        print(note)
    if args.masks and not predictor.config.masks:
        raise UserError(f"--masks: {args.weights} detects boxes only; omit it")
    predictor.thresholds(args.score_threshold, class_thresholds)  # checks the class names
    outputs = Outputs(args.overlays, args.masks, args.csv)
    summary = predict_files(
        partial(
            predictor.try_stream,
            score_threshold=args.score_threshold,
            class_thresholds=class_thresholds,
            batch_size=args.batch_size,
            tiles=args.tiles,
            tile_overlap=args.tile_overlap,
            tta=args.tta,
        ),
        found.sources,
        args.out,
        settings={
            "--weights": str(args.weights),
            "--set, --bgr": [*sorted(args.set), args.bgr],
            "--max-dets": args.max_dets,
            "--score-threshold": args.score_threshold,
            "--class-threshold": class_thresholds,
            "--tiles": args.tiles,
            "--tile-overlap": args.tile_overlap if args.tiles else None,
            "--tta": args.tta,
            "--masks": args.masks or None,
        },
        categories=predictor.categories,
        outputs=outputs,
        resume=args.resume,
        world=world,
    )
    if world.is_main:
        print(summary.text(args.out, outputs))
    if world.is_main and summary.failures:
        count = f"{len(summary.failures)} of {summary.attempted}"
        print(f"mrcnn: {count} images failed:", *summary.failures, sep="\n  ", file=sys.stderr)
    return 2 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(run(main))
