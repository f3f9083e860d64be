"""Every check. To add one, write a function that yields `Told`, and give it a line here.

What the reader refuses (ids, names, sizes, masks that are none) is found before these run: they see
what it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mrcnn.data.checking import image_checks, object_checks, set_checks
from mrcnn.data.checking.findings import ERROR, WARNING, Check
from mrcnn.data.checking.samples import Sample
from mrcnn.data.checking.set_checks import Whole


class OfSample(NamedTuple):
    """A check of one image and its objects."""

    severity: str
    find: Callable[[Sample], Check]
    mend: str = ""  # what a cleaned copy does: leaves out the "image" or "annotation", or "rewrite"


class OfSet(NamedTuple):
    """A check of all images together."""

    severity: str
    find: Callable[[Whole], Check]
    mend: str = ""


OF_SAMPLES = {
    "unreadable image": OfSample(ERROR, image_checks.readable, "image"),
    "EXIF orientation": OfSample(WARNING, image_checks.upright),
    "16 bits": OfSample(WARNING, image_checks.eight_bits),
    "transparency": OfSample(WARNING, image_checks.opaque),
    "several pictures in a file": OfSample(WARNING, image_checks.still),
    "colours of print": OfSample(WARNING, image_checks.screen_colours),
    "wrong suffix": OfSample(WARNING, image_checks.named_after_format),
    "blank image": OfSample(WARNING, image_checks.not_blank),
    "tiny image": OfSample(WARNING, image_checks.not_tiny),
    "image without objects": OfSample(WARNING, image_checks.has_objects),
    "image of crowds": OfSample(WARNING, image_checks.has_more_than_crowds),
    "box of something else": OfSample(ERROR, object_checks.box_of_mask, "rewrite"),
    "loose box": OfSample(WARNING, object_checks.tight_box, "rewrite"),
    "area that is no number": OfSample(ERROR, object_checks.area_value, "rewrite"),
    "area of something else": OfSample(WARNING, object_checks.area_of_mask, "rewrite"),
    "mask without a pixel": OfSample(ERROR, object_checks.covers_pixels, "annotation"),
    "mask of few pixels": OfSample(WARNING, object_checks.enough_pixels),
    "points off the image": OfSample(WARNING, object_checks.inside_image),
    "ring without area": OfSample(WARNING, object_checks.rings_with_area),
    "mask of the whole image": OfSample(WARNING, object_checks.not_everything),
    "crowd as a polygon": OfSample(WARNING, object_checks.crowds_as_runs),
    "mask drawn twice": OfSample(ERROR, object_checks.drawn_once, "annotation"),
    "mask of two classes": OfSample(WARNING, object_checks.one_class_each),
    "mask nearly drawn twice": OfSample(WARNING, object_checks.not_nearly_twice),
}
OF_SETS = {
    "image in both splits": OfSet(ERROR, set_checks.own_images, "image"),
    "picture twice": OfSet(WARNING, set_checks.different_images),
    "missing split": OfSet(WARNING, set_checks.both_splits),
    "class names alike": OfSet(WARNING, set_checks.names_apart),
    "blanks in a class name": OfSet(WARNING, set_checks.trimmed_names),
    "gaps of category ids": OfSet(WARNING, set_checks.no_gaps),
    "class without instances": OfSet(WARNING, set_checks.classes_in_use),
    "file names alike": OfSet(WARNING, set_checks.names_in_any_case),
    "files without a record": OfSet(WARNING, set_checks.all_listed),
}
CHECKS = {**OF_SAMPLES, **OF_SETS}  # kind -> its check
