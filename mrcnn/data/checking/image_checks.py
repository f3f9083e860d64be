"""Checks of an image file. Each takes a `Sample` and yields what it finds."""

from __future__ import annotations

from PIL import Image

from mrcnn.data.checking.findings import Check, Told
from mrcnn.data.checking.samples import Sample

SMALLEST_SIDE = 32  # pixels: one cell of the coarsest map of a backbone

_OWN_SUFFIXES = {"MPO": "JPEG"}  # several pictures in one JPEG, as cameras write


def readable(sample: Sample) -> Check:
    """The pixels, not only the header."""
    if sample.file.error:
        _, _, problem = sample.file.error.partition(f"{sample.path}: ")
        reason, _, fix = problem.rpartition("; ")
        reason = reason.removeprefix("cannot be read (").removesuffix(")")
        yield _told(sample, "be an image that can be read", reason, fix)


def upright(sample: Sample) -> Check:
    """EXIF turns the picture: annotations may have been drawn on the unturned one."""
    if sample.file.orientation not in (0, 1):
        value = f"EXIF orientation {sample.file.orientation}"
        fix = "look whether the masks fit the turned picture; if so, save it upright"
        yield _told(sample, "be stored upright", value, fix)


def eight_bits(sample: Sample) -> Check:
    """16-bit grey keeps its high byte, which may be all black."""
    if sample.file.mode.startswith("I"):
        low, high = sample.file.values
        value = f"16 bits, values {low} to {high}"
        fix = "training sees value / 256; spread the values to 0 … 255 and save 8 bits"
        yield _told(sample, "hold 8 bits a channel", value, fix)


def opaque(sample: Sample) -> Check:
    """Training sees the colours under transparent pixels."""
    if sample.file.is_transparent:
        fix = "training sees the colours beneath; flatten it onto a background"
        yield _told(sample, "be opaque", f"transparent pixels ({sample.file.mode})", fix)


def still(sample: Sample) -> Check:
    """Of an animation, or a file of several pages, the first picture is taken."""
    if sample.file.frames > 1:
        value = f"{sample.file.frames} pictures in one file"
        yield _told(sample, "hold one picture", value, "the first is taken; save it alone")


def screen_colours(sample: Sample) -> Check:
    """CMYK is converted without its profile, and looks other than in print."""
    if sample.file.mode in ("CMYK", "LAB", "HSV"):
        yield _told(sample, "be grey or RGB", sample.file.mode, "convert it to RGB")


def named_after_format(sample: Sample) -> Check:
    """Other programs judge a file by its suffix."""
    Image.init()
    stored = _OWN_SUFFIXES.get(sample.file.format, sample.file.format)
    named = Image.EXTENSION.get(sample.path.suffix.lower())
    if stored and named and named != stored:
        value = f"{sample.path.suffix} of a {stored} file"
        yield _told(sample, "have the suffix of its format", value, "rename or convert it")


def not_blank(sample: Sample) -> Check:
    """All pixels alike: a failed export."""
    if sample.file.is_blank:
        yield _told(sample, "show something", "one colour only", "export it again or remove it")


def not_tiny(sample: Sample) -> Check:
    """A picture of a few pixels: a thumbnail, or a wrong file."""
    height, width = sample.size
    if min(height, width) < SMALLEST_SIDE:
        rule = f"have sides of at least {SMALLEST_SIDE} pixels"
        yield _told(sample, rule, f"{width} x {height}", "put the full picture there or remove it")


def has_objects(sample: Sample) -> Check:
    """An image that no annotation names trains as background."""
    if not sample.is_annotated:
        fix = "draw its objects; keep it if it is background"
        yield _told(sample, "have objects", "no annotation", fix)


def has_more_than_crowds(sample: Sample) -> Check:
    """Crowd regions are no targets: the image trains as background around them."""
    if sample.objects and all(one.crowd for one in sample.objects):
        fix = "draw single objects or remove the image"
        yield _told(sample, "have objects that are no crowd regions", len(sample.objects), fix)


def _told(sample: Sample, rule: str, value: object, fix: str) -> Told:
    return Told(f"{sample.place}: {sample.path}", rule, value, fix, sample.id)
