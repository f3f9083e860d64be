"""Run all checks of a data set, in one pass over its images by several processes.

To add a check, write a function that yields `Violation`, and add it to one of the tables. Before
them, the reader refuses broken ids, names, sizes and masks.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
import torch

from mrcnn.data.checks import image_checks, object_checks, set_checks
from mrcnn.data.checks.decoded import DecodedImage, ImageDecoder
from mrcnn.data.checks.findings import (
    ERROR,
    WARNING,
    CheckedData,
    CheckedSplit,
    Finding,
    ImageSummary,
    Violation,
    Violations,
)
from mrcnn.errors import UserError

_CHUNK = 8  # images per task of a process
_FEW = 32  # images that are not worth a process


class Check(NamedTuple):
    """A check of an image, of an object, or of the whole set."""

    severity: str
    find: Callable[[Any], Violations]
    fix: str = ""  # for a cleaned copy: "rewrite" the record, or the table to remove it from


IMAGE_CHECKS = {
    "unreadable image": Check(ERROR, image_checks.readable, "images"),
    "EXIF orientation": Check(WARNING, image_checks.upright),
    "16 bits": Check(WARNING, image_checks.eight_bits),
    "transparency": Check(WARNING, image_checks.opaque),
    "several images in a file": Check(WARNING, image_checks.single),
    "print colours": Check(WARNING, image_checks.screen_colours),
    "wrong suffix": Check(WARNING, image_checks.named_after_format),
    "blank image": Check(WARNING, image_checks.not_blank),
    "tiny image": Check(WARNING, image_checks.not_tiny),
    "image without objects": Check(WARNING, image_checks.has_objects),
    "image of crowds": Check(WARNING, image_checks.has_more_than_crowds),
}
OBJECT_CHECKS = {
    "box of something else": Check(ERROR, object_checks.box_of_mask, "rewrite"),
    "loose box": Check(WARNING, object_checks.tight_box, "rewrite"),
    "area of something else": Check(WARNING, object_checks.area_of_mask, "rewrite"),
    "mask without a pixel": Check(ERROR, object_checks.covers_pixels, "annotations"),
    "mask of few pixels": Check(WARNING, object_checks.enough_pixels),
    "points off the image": Check(WARNING, object_checks.inside_image),
    "ring without area": Check(WARNING, object_checks.rings_with_area),
    "mask of the whole image": Check(WARNING, object_checks.not_everything),
    "crowd as a polygon": Check(WARNING, object_checks.crowds_as_rle),
}
PAIR_CHECKS = {  # of the objects of an image
    "mask drawn twice": Check(ERROR, object_checks.drawn_once, "annotations"),
    "mask of two classes": Check(WARNING, object_checks.one_class_each),
    "mask nearly drawn twice": Check(WARNING, object_checks.not_nearly_twice),
}
SET_CHECKS = {
    "image in both splits": Check(ERROR, set_checks.separate_images, "images"),
    "image twice": Check(WARNING, set_checks.different_images),
    "missing split": Check(WARNING, set_checks.both_splits),
    "similar class names": Check(WARNING, set_checks.names_apart),
    "blanks in a class name": Check(WARNING, set_checks.trimmed_names),
    "gaps in category ids": Check(WARNING, set_checks.no_gaps),
    "class without instances": Check(WARNING, set_checks.classes_in_use),
    "similar file names": Check(WARNING, set_checks.names_in_any_case),
    "files without a record": Check(WARNING, set_checks.all_listed),
}
CHECKS = IMAGE_CHECKS | OBJECT_CHECKS | PAIR_CHECKS | SET_CHECKS  # kind -> its check


def run_checks(data: CheckedData, workers: int, progress: Callable[[int], object]) -> None:
    """Run all checks on what `read_leniently` returned, and add what they find to `data`.

    There are `workers` processes; 0 works in this one. `progress` takes the number of images done.
    """
    for done, (findings, summary) in enumerate(_all_images(data.splits, workers), start=1):
        data.findings += findings
        data.images.append(summary)
        progress(done)
    file_of = {split.name: str(split.files.annotations) for split in data.splits}
    for kind, check in SET_CHECKS.items():
        for violation in check.find(data):
            file = file_of.get(violation.split, str(data.folder))
            data.findings.append(_finding(kind, violation.split, file, violation))


Result = tuple[list[Finding], ImageSummary]


def check_image(decoder: ImageDecoder, split: str, index: int) -> Result:
    """Decode and check one image."""
    image = decoder.read(index)
    file = str(decoder.dataset.annotations)
    findings = [
        _finding(kind, split, file, violation)
        for checks, items in (
            (IMAGE_CHECKS, [image]), (OBJECT_CHECKS, image.objects), (PAIR_CHECKS, [image])
        )
        for kind, check in checks.items()
        for item in items
        for violation in check.find(item)
    ]  # fmt: skip
    return findings, _summary(image, split)


def _finding(kind: str, split: str, file: str, violation: Violation) -> Finding:
    problem, image, annotation, _ = violation
    return Finding(CHECKS[kind].severity, kind, split, file, image, annotation, str(problem))


def _summary(image: DecodedImage, split: str) -> ImageSummary:
    objects = [instance for instance in image.objects if not instance.crowd]
    return ImageSummary(
        split=split,
        label=image.place,
        id=image.id,
        path=image.path,
        content_digest=image.file.content_digest,
        pixel_digest=image.file.pixel_digest,
        size=image.size,
        labels=np.array([instance.label for instance in objects], np.int64),
        areas=np.array([instance.area for instance in objects], np.float64),
        boxes=np.array([instance.box for instance in objects], np.float64).reshape(-1, 4),
        crowds=len(image.objects) - len(objects),
    )


def _all_images(splits: Sequence[CheckedSplit], workers: int) -> Iterator[Result]:
    """Yield the result for every image, in order."""
    decoders = {split.name: ImageDecoder(split) for split in splits if split.dataset is not None}
    keys = [(name, i) for name, decoder in decoders.items() for i in range(len(decoder))]
    if workers == 0 or len(keys) <= _FEW:
        for name, i in keys:
            yield check_image(decoders[name], name, i)
        return
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    pool = ProcessPoolExecutor(workers, initializer=_start_process, initargs=(decoders,))
    try:
        for results in pool.map(_check_chunk, chunks):
            yield from results
    except BrokenProcessPool as error:
        raise UserError(
            "check-data: a process died, probably because memory ran out; lower --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_decoders: dict[str, ImageDecoder] = {}  # of a worker process


def _start_process(decoders: dict[str, ImageDecoder]) -> None:
    """Prepare a worker process. It ignores Ctrl-C, which the main process handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _decoders.update(decoders)


def _check_chunk(keys: Sequence[tuple[str, int]]) -> list[Result]:
    return [check_image(_decoders[name], name, i) for name, i in keys]
