"""Prediction of image and video files: overlays, a line per image, and one COCO file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrcnn.cli.progress import ProgressLine
from mrcnn.data.coco.write import coco_results
from mrcnn.errors import UserError
from mrcnn.inference import prediction_files
from mrcnn.inference.predictor import Detect
from mrcnn.inference.results import Result
from mrcnn.inference.sources import Source, overlay_names
from mrcnn.inference.video import VideoReader, written_video
from mrcnn.io.atomic import check_writable, replacing
from mrcnn.runtime.distributed import ALONE, World

MASKS = "masks"  # folder of label images
FRAMES_PER_LINE = 100  # of progress in a video
LARGEST_OVERLAY = 4096  # longer side, pixels; overlays of larger images are reduced to this


@dataclass(frozen=True)
class Outputs:
    """The files that are written beside the COCO file."""

    overlays: bool = True
    label_images: bool = False
    table: bool = False


@dataclass
class Summary:
    """Counts and errors of the files that were predicted; videos count as one."""

    attempted: int = 0
    skipped: int = 0  # finished before the run was resumed
    objects: int = 0
    failures: list[str] = field(default_factory=list)  # a message per unreadable file

    def text(self, out: Path, outputs: Outputs) -> str:
        """Return what was written to `out`."""
        count = self.attempted - len(self.failures)
        written = [f"{count} overlays"] * outputs.overlays
        written += [f"{count} label images"] * outputs.label_images
        written += [prediction_files.TABLE] * outputs.table
        listed = f"{', '.join(written)} and " if written else ""
        skipped = f", {self.skipped} images were already finished" if self.skipped else ""
        none = "\nno detections above the score threshold; lower --score-threshold or train more"
        is_empty = bool(count) and not self.objects
        return f"{listed}{prediction_files.RESULTS} in {out}{skipped}{none * is_empty}"


def predict_files(
    detect: Detect,
    sources: Sequence[Source],
    out: Path,
    settings: dict[str, Any],
    categories: Sequence[dict[str, Any]],
    *,
    outputs: Outputs = Outputs(),
    resume: bool = False,
    world: World = ALONE,
) -> Summary:
    """Detect the objects of files; every process handles a share, and the main one writes the sum.

    Args:
        detect: `Predictor.try_stream` with its options.
        sources: images and videos.
        out: folder for overlays and predictions.
        settings: all settings of the model and of `detect`, by flag. A resumed run must have the
            same.
        categories: records of the COCO file.
        outputs: what to write beside the COCO file.
        resume: skip files that are finished in `out`.
        world: the processes of this run.

    Returns:
        The summary of all processes.

    Raises:
        UserError: if `out` cannot be written or has other settings, or a file would be overwritten.
    """
    is_resumed = resume and world.is_main
    found = world.from_main(prediction_files.resume(out, settings) if is_resumed else None)
    finished: dict[str, str | None] = found or {}
    left = [source for source in sources if str(source.path) not in finished]
    names = overlay_names(left, [name for name in finished.values() if name])
    kept = {os.path.realpath(source.path) for source in sources}
    targets: list[str | Path] = [*names] * outputs.overlays
    targets += [_label_image(name) for name in names] * outputs.label_images
    for target in targets:
        path = out / target
        # A run that was interrupted may have written the file, but not yet the line.
        if os.path.realpath(path) in kept or (found is None and os.path.lexists(path)):
            raise UserError(f"--out {out}: would overwrite {path}; choose another folder")
    if outputs.table:
        check_writable(out / prediction_files.TABLE, prediction_files.TABLE_MARK)
    if world.is_main and found is None:
        prediction_files.begin(out, settings)
    world.wait()
    share = slice(world.rank, None, world.size)
    work = _Work(detect, out, world, outputs)
    work.run(left[share], names[share])
    summaries = world.from_main(world.gather(work.summary))  # now all lines are written
    if world.is_main:
        prediction_files.finish(
            out, [str(source.path) for source in sources], categories, outputs.table
        )
    return Summary(
        attempted=len(left),
        skipped=len(sources) - len(left),
        objects=sum(summary.objects for summary in summaries),
        failures=[failure for summary in summaries for failure in summary.failures],
    )


class _Work:
    """The share of one process."""

    def __init__(self, detect: Detect, out: Path, world: World, outputs: Outputs) -> None:
        self.detect, self.out, self.outputs = detect, out, outputs
        self.lines = prediction_files.Lines(out, world.rank)
        self.progress = ProgressLine(redraw=False) if world.is_main else None
        self.summary = Summary()
        self.done = 0  # images and frames

    def run(self, sources: Sequence[Source], names: Sequence[str]) -> None:
        """Process images first, then videos; each has a name for its overlay."""
        pairs = sorted(zip(sources, names, strict=True), key=lambda pair: pair[0].is_video)
        results = self.detect(source.path for source, _ in pairs if not source.is_video)
        for number, (source, name) in enumerate(pairs, start=1):
            label = f"[{number}/{len(pairs)}] {source.path}"
            text = (
                self._video(source.path, name, label)
                if source.is_video
                else self._image(next(results), source.path, name)
            )
            self._report(label, text)
        self.lines.close()

    def _report(self, label: str, text: str) -> None:
        if self.progress is not None:
            rate = self.progress.rate(self.done)
            self.progress.update(self.done, 0, f"{label}: {text}, {rate:.1f} img/s")

    def _image(self, result: Result, path: Path, name: str) -> str:
        """Write the files and the line of an image; return the text of its progress line."""
        if result.error:
            self.done += 1
            self.summary.failures.append(str(result.error))
            return "failed"
        if self.outputs.overlays:
            with replacing(self.out / name) as draft:
                result.plot(longest_side=LARGEST_OVERLAY).save(draft, quality=92)
        self._write(result, path, name, _label_image(name))
        return result.summary()

    def _video(self, path: Path, name: str, label: str) -> str:
        """Write the overlay and the lines of a video, or of a camera until Ctrl-C is pressed."""
        try:
            reader = VideoReader(path)
        except UserError as error:
            self.summary.failures.append(str(error))
            return "failed"
        video = (
            written_video(self.out / name, reader.rate) if self.outputs.overlays else nullcontext()
        )
        frame = 0
        with video as add_frame:
            try:
                for result in self.detect(reader):
                    if add_frame is not None:
                        add_frame(np.asarray(result.plot(longest_side=LARGEST_OVERLAY)))
                    target = _label_image(name) / f"{frame:06}.png"
                    self._write(result, path, name, target, frame=frame)
                    frame += 1
                    if frame % FRAMES_PER_LINE == 0:
                        total = f" of {reader.count}" if reader.count else ""
                        self._report(label, f"{frame}{total} frames")
            except KeyboardInterrupt:
                if not reader.is_camera:
                    raise
        if not reader.is_camera:
            files: dict[str, str | None] = {"overlay": name if self.outputs.overlays else None}
            if self.outputs.label_images:
                files["label_image"] = _label_image(name).as_posix()
            self.lines.write({"video": str(path), **files})
        return f"{frame} frames"

    def _write(
        self, result: Result, path: Path, name: str, label_image: Path, **frame: int
    ) -> None:
        """Write the label image and the line of an image, or of a frame."""
        files: dict[str, str | None] = {"overlay": name if self.outputs.overlays else None}
        if self.outputs.label_images:
            files["label_image"] = label_image.as_posix()
            with replacing(self.out / label_image) as draft:
                Image.fromarray(result.label_image()).save(draft)
        height, width = result.image.shape[:2]
        annotations = [
            {**entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
            for entry in coco_results(
                result.boxes, result.scores, result.labels, result.rles, result.category_ids
            )
        ]
        image = {"file_name": str(path), "height": height, "width": width, **frame}
        self.lines.write({"image": image, **files, "annotations": annotations})
        self.done += 1
        self.summary.objects += len(result)


def _label_image(name: str) -> Path:
    """Return the label image of an image, or the folder of those of a video, by its overlay."""
    path = Path(MASKS, name)
    return path.with_suffix("") if path.suffix == ".mp4" else path.with_suffix(".png")
