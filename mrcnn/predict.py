"""Objects in images, as overlays and JSON: `python -m mrcnn.predict --weights RUN images/`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tyro.conf import Positional

from mrcnn.data.coco_writer import coco_results
from mrcnn.errors import UserError
from mrcnn.files import replacing
from mrcnn.flags import parse, run
from mrcnn.pictures import Picture
from mrcnn.prediction_files import RESULTS, Lines, begin, finish, resumed
from mrcnn.predictor import Predictor, load
from mrcnn.results import Result
from mrcnn.sources import Source, find_images, overlay_names
from mrcnn.training.distributed import World, join, leave
from mrcnn.video import VideoReader, written_video

FRAMES_A_LINE = 100  # of a video
LARGEST_OVERLAY = 4096  # longer side, pixels; a larger image is drawn at this size


@dataclass(frozen=True)
class PredictConfig:
    """Find the objects in images: an overlay for each, and all of them in predictions.json."""

    images: Positional[tuple[Path, ...]]
    """Image files, folders whose images are taken, patterns in quotes as 'shots/**/*.jpg', video
    files, camera:0, and - for a list of these on standard input."""
    weights: Path
    """A run folder (its best checkpoint, else its last), a checkpoint file, a detector of another
    framework, or the name of a published one."""
    out: Path = Path("predictions")
    """Folder for the overlays and predictions.json."""
    score_threshold: float = 0.5
    """Objects with a lower score are left out."""
    class_threshold: tuple[str, ...] = ()
    """The same for some classes, as cat=0.7 dog=0.6."""
    max_dets: int | None = None
    """Objects an image, at most; by default as the model was trained."""
    batch_size: int = 1
    """Images, or tiles, that go through the network together, if padded to the same size."""
    tiles: int | None = None
    """Side of a tile, pixels: larger images are looked at by overlapping tiles."""
    tile_overlap: float = 0.25
    """Part of their side that neighbouring tiles share, at least."""
    tta: bool = False
    """Look at every image in three sizes, each also mirrored, and average: about six times the
    work."""
    overlays: bool = True
    """Draw the objects over their image."""
    recursive: bool = False
    """Take the folders in folders, too."""
    resume: bool = False
    """Go on in the folder --out, and skip the images that have their predictions there."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must lie in [0, 1], got {self.score_threshold}")
        if not 0 <= self.tile_overlap <= 0.9:
            raise UserError(f"--tile-overlap must lie in [0, 0.9], got {self.tile_overlap}")
        for name in ("max_dets", "batch_size", "tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if not self.images:
            raise UserError("predict: name at least one image or folder")
        assert isinstance(self.class_thresholds, dict)  # refuses words that are no thresholds

    @property
    def class_thresholds(self) -> dict[str, float]:
        """`class_threshold` as numbers by name."""
        thresholds = {}
        for word in self.class_threshold:
            name, _, value = word.rpartition("=")
            try:
                thresholds[name] = float(value)
            except ValueError:
                name = ""
            if not name or not 0 <= thresholds[name] <= 1:
                raise UserError(
                    f"--class-threshold {word}: must be name=score, with a score in [0, 1]"
                )
        return thresholds


def main(argv: list[str] | None = None) -> int:
    """Predict, draw, write; returns 2 if an image could not be read."""
    args = parse(PredictConfig, argv)
    world = join(args.device)
    try:
        return _predict(args, world)
    finally:
        leave()


def _predict(args: PredictConfig, world: World) -> int:
    sources: list[Source] = world.from_main(
        find_images(args.images, args.recursive, args.out) if world.is_main else None
    )
    predictor = load(
        args.weights,
        f"cuda:{world.local_rank}" if args.device == "cuda" and world.size > 1 else args.device,
        amp=args.amp,
        score_threshold=min(args.score_threshold, *args.class_thresholds.values(), 1),
        max_detections=args.max_dets,
    )
    predictor.thresholds(args.score_threshold, args.class_thresholds)  # refuses unknown names
    done: dict[str, str | None] | None = None
    if world.is_main:
        for note in predictor.notes:
            print(note)
        done = resumed(args.out, _settings(args)) if args.resume else None
    done = world.from_main(done)
    left = [source for source in sources if str(source.path) not in (done or {})]
    overlays = overlay_names(left, [name for name in (done or {}).values() if name])
    _check_inputs(sources, overlays if args.overlays else [], args.out)
    if world.is_main and done is None:
        begin(args.out, _settings(args))
    world.wait()
    share = slice(world.rank, None, world.size)
    work = _Share(args, predictor, world)
    work.predict(left[share], overlays[share])
    gathered = world.gather((work.failures, work.objects))  # all lines are written
    failures = world.from_main([failure for share, _ in gathered for failure in share])
    if world.is_main:
        ids, class_names = predictor.category_ids, predictor.config.class_names
        categories = [{"id": id, "name": name} for id, name in zip(ids, class_names, strict=True)]
        finish(args.out, [str(source.path) for source in sources], categories)
        drawn = f"{len(left) - len(failures)} overlays and " if args.overlays else ""
        skipped = f", {len(sources) - len(left)} images were done before" if done else ""
        print(f"{drawn}{RESULTS} in {args.out}{skipped}")
        if len(left) > len(failures) and not any(objects for _, objects in gathered):
            print(
                "no object reaches its threshold; a lower --score-threshold shows what the model "
                "is less sure of, longer training makes it surer"
            )
        if failures:
            listed = "\n  ".join(failures)
            print(
                f"mrcnn: {len(failures)} of {len(left)} images failed:\n  {listed}",
                file=sys.stderr,
            )
    return 2 if failures else 0


def _settings(args: PredictConfig) -> dict[str, object]:
    """What the predictions follow from."""
    return {
        "--weights": str(args.weights),
        "--score-threshold": args.score_threshold,
        "--class-threshold": args.class_thresholds,
        "--max-dets": args.max_dets,
        "--tiles": args.tiles,
        "--tile-overlap": args.tile_overlap if args.tiles else None,
        "--tta": args.tta,
    }


def _check_inputs(sources: Sequence[Source], overlays: Sequence[str], out: Path) -> None:
    """Refuse to draw over an input."""
    written = {(out / name).resolve() for name in overlays}
    if clash := written & {source.path.resolve() for source in sources}:
        raise UserError(f"--out {out}: would write over {min(clash)}; name another folder")


class _Share:
    """The images and videos of one process, and what becomes of them.

    Attributes:
        failures: a message for each that could not be read.
        objects: how many were found.
    """

    def __init__(self, args: PredictConfig, predictor: Predictor, world: World) -> None:
        self.args, self.predictor, self.speaks = args, predictor, world.is_main
        self.lines = Lines(args.out, world.rank)
        self.failures: list[str] = []
        self.objects = 0
        self.done, self.start = 0, time.perf_counter()  # images and frames

    def predict(self, sources: Sequence[Source], overlays: Sequence[str]) -> None:
        """Write the lines and overlays, of images first."""
        both = sorted(zip(sources, overlays, strict=True), key=lambda pair: pair[0].is_video)
        outcomes = self._find(source.path for source, _ in both if not source.is_video)
        for number, (source, name) in enumerate(both, start=1):
            overlay = name if self.args.overlays else None
            place = f"[{number}/{len(both)}] {source.path}"
            if source.is_video:
                self._say(place, self._video(source.path, overlay, place))
            else:
                self._say(place, self._image(next(outcomes), source.path, overlay))
        self.lines.close()

    def _find(self, images: Iterable[Picture]) -> Iterator[Result | UserError]:
        args = self.args
        return self.predictor.attempts(
            images,
            args.score_threshold,
            args.class_thresholds,
            batch_size=args.batch_size,
            tiles=args.tiles,
            tile_overlap=args.tile_overlap,
            tta=args.tta,
        )

    def _say(self, place: str, what: str) -> None:
        if self.speaks:
            rate = self.done / (time.perf_counter() - self.start)
            print(f"{place}: {what}, {rate:.1f} img/s", flush=True)

    def _image(self, found: Result | UserError, path: Path, overlay: str | None) -> str:
        """Draw and write what was found; nobody keeps the image longer."""
        self.done += 1
        if isinstance(found, UserError):
            self.failures.append(str(found))
            return "failed"
        if overlay is not None:
            with replacing(self.args.out / overlay) as draft:
                found.plot(longest_side=LARGEST_OVERLAY).save(draft, quality=92)
        self.lines.add(*_records(found, path), overlay)
        self.objects += len(found)
        return found.summary()

    def _video(self, path: Path, overlay: str | None, place: str) -> str:
        """Draw and write the frames of a video; a camera's until stopped from the keyboard."""
        try:
            reader = VideoReader(path)
        except UserError as error:
            self.failures.append(str(error))
            return "failed"
        before = self.done
        with (
            nullcontext()
            if overlay is None
            else written_video(self.args.out / overlay, reader.rate)
        ) as writer:
            try:
                for found in self._find(reader):
                    assert isinstance(found, Result)  # arrays can be read
                    if writer is not None:
                        writer.add(np.asarray(found.plot(longest_side=LARGEST_OVERLAY)))
                    image, annotations = _records(found, path)
                    frame = self.done - before
                    self.lines.add({**image, "frame": frame}, annotations, overlay)
                    self.done += 1
                    self.objects += len(found)
                    if (frame + 1) % FRAMES_A_LINE == 0:
                        of = f" of {reader.count}" if reader.count else ""
                        self._say(place, f"{frame + 1}{of} frames")
            except KeyboardInterrupt:
                if not reader.is_camera:
                    raise
        if not reader.is_camera:
            self.lines.end_video(str(path), overlay)
        return f"{self.done - before} frames"


def _records(found: Result, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An image and its objects as a COCO file has them, without ids."""
    height, width = found.image.shape[:2]
    entries = coco_results(found.boxes, found.scores, found.labels, found.rles, found.category_ids)
    annotations = [
        {**entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0} for entry in entries
    ]
    return {"file_name": str(path), "height": height, "width": width}, annotations


if __name__ == "__main__":
    sys.exit(run(main))
