"""Prediction of image and video files: overlays, a line per image, and one COCO file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.cli.progress import ProgressLine
from mrcnn.data.coco.write import coco_results
from mrcnn.errors import UserError
from mrcnn.inference import prediction_files
from mrcnn.inference.predictor import Detect
from mrcnn.inference.results import Result
from mrcnn.inference.sources import Source, overlay_names
from mrcnn.inference.video import VideoReader, written_video
from mrcnn.io.atomic import replacing
from mrcnn.runtime.distributed import ALONE, World

FRAMES_PER_LINE = 100  # of progress in a video
LARGEST_OVERLAY = 4096  # longer side, pixels; overlays of larger images are reduced to this


@dataclass
class Summary:
    """Counts and errors of the files that were predicted; videos count as one."""

    attempted: int = 0
    skipped: int = 0  # finished before the run was resumed
    objects: int = 0
    failures: list[str] = field(default_factory=list)  # a message per unreadable file


def predict_files(
    detect: Detect,
    sources: Sequence[Source],
    out: Path,
    settings: dict[str, Any],
    categories: Sequence[dict[str, Any]],
    *,
    overlays: bool = True,
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
        overlays: draw the objects over their image.
        resume: skip files that are finished in `out`.
        world: the processes of this run.

    Returns:
        The summary of all processes.

    Raises:
        UserError: if `out` cannot be written or has other settings, or an overlay would overwrite a
            source.
    """
    is_resumed = resume and world.is_main
    found = world.from_main(prediction_files.resume(out, settings) if is_resumed else None)
    finished: dict[str, str | None] = found or {}
    left = [source for source in sources if str(source.path) not in finished]
    names = overlay_names(left, [name for name in finished.values() if name])
    if overlays:
        kept = {os.path.realpath(source.path) for source in sources}
        for path in (out / name for name in names):
            # A run that was interrupted may have written the overlay, but not yet the line.
            if os.path.realpath(path) in kept or (found is None and os.path.lexists(path)):
                raise UserError(f"--out {out}: would overwrite {path}; choose another folder")
    if world.is_main and found is None:
        prediction_files.begin(out, settings)
    world.wait()
    share = slice(world.rank, None, world.size)
    work = _Work(detect, out, world)
    work.run(left[share], names[share] if overlays else [None] * len(left[share]))
    summaries = world.from_main(world.gather(work.summary))  # now all lines are written
    if world.is_main:
        prediction_files.finish(out, [str(source.path) for source in sources], categories)
    return Summary(
        attempted=len(left),
        skipped=len(sources) - len(left),
        objects=sum(summary.objects for summary in summaries),
        failures=[failure for summary in summaries for failure in summary.failures],
    )


def parse_thresholds(words: Iterable[str]) -> dict[str, float]:
    """Parse the words of --class-threshold, such as cat=0.7.

    Raises:
        UserError: if a word is not a name and a score.
    """
    thresholds = {}
    for word in words:
        name, _, value = word.rpartition("=")
        try:
            thresholds[name] = float(value)
        except ValueError:
            name = ""
        if not name or not 0 <= thresholds[name] <= 1:
            raise UserError(f"--class-threshold {word}: must be name=score, with a score in [0, 1]")
    return thresholds


class _Work:
    """The share of one process."""

    def __init__(self, detect: Detect, out: Path, world: World) -> None:
        self.detect, self.out = detect, out
        self.lines = prediction_files.Lines(out, world.rank)
        self.progress = ProgressLine(redraw=False) if world.is_main else None
        self.summary = Summary()
        self.done = 0  # images and frames

    def run(self, sources: Sequence[Source], overlays: Sequence[str | None]) -> None:
        """Process images first, then videos."""
        pairs = sorted(zip(sources, overlays, strict=True), key=lambda pair: pair[0].is_video)
        results = self.detect(source.path for source, _ in pairs if not source.is_video)
        for number, (source, overlay) in enumerate(pairs, start=1):
            label = f"[{number}/{len(pairs)}] {source.path}"
            text = (
                self._video(source.path, overlay, label)
                if source.is_video
                else self._image(next(results), source.path, overlay)
            )
            self._report(label, text)
        self.lines.close()

    def _report(self, label: str, text: str) -> None:
        if self.progress is not None:
            rate = self.progress.rate(self.done)
            self.progress.update(self.done, 0, f"{label}: {text}, {rate:.1f} img/s")

    def _image(self, result: Result, path: Path, overlay: str | None) -> str:
        """Write the overlay and the line of an image; return the text of its progress line."""
        if result.error:
            self.done += 1
            self.summary.failures.append(str(result.error))
            return "failed"
        if overlay is not None:
            with replacing(self.out / overlay) as draft:
                result.plot(longest_side=LARGEST_OVERLAY).save(draft, quality=92)
        self._write(result, path, overlay)
        return result.summary()

    def _video(self, path: Path, overlay: str | None, label: str) -> str:
        """Write the overlay and the lines of a video, or of a camera until Ctrl-C is pressed."""
        try:
            reader = VideoReader(path)
        except UserError as error:
            self.summary.failures.append(str(error))
            return "failed"
        video = nullcontext() if overlay is None else written_video(self.out / overlay, reader.rate)
        frame = 0
        with video as add_frame:
            try:
                for result in self.detect(reader):
                    if add_frame is not None:
                        add_frame(np.asarray(result.plot(longest_side=LARGEST_OVERLAY)))
                    self._write(result, path, overlay, frame=frame)
                    frame += 1
                    if frame % FRAMES_PER_LINE == 0:
                        total = f" of {reader.count}" if reader.count else ""
                        self._report(label, f"{frame}{total} frames")
            except KeyboardInterrupt:
                if not reader.is_camera:
                    raise
        if not reader.is_camera:
            self.lines.write({"video": str(path), "overlay": overlay})
        return f"{frame} frames"

    def _write(self, result: Result, path: Path, overlay: str | None, **frame: int) -> None:
        """Write the line of an image, or of a frame."""
        height, width = result.image.shape[:2]
        annotations = [
            {**entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
            for entry in coco_results(
                result.boxes, result.scores, result.labels, result.rles, result.category_ids
            )
        ]
        image = {"file_name": str(path), "height": height, "width": width, **frame}
        self.lines.write({"image": image, "overlay": overlay, "annotations": annotations})
        self.done += 1
        self.summary.objects += len(result)
