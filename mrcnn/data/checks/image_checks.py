"""Checks of an image file. Each takes a `DecodedImage` and yields its violations."""

from __future__ import annotations

from PIL import Image

from mrcnn.data.checks.decoded import DecodedImage
from mrcnn.data.checks.findings import Violation, Violations
from mrcnn.data.problems import Problem

SMALLEST_SIDE = 32  # pixels: one cell of the coarsest feature map of a backbone

_SAME_FORMAT = {"MPO": "JPEG"}  # several images in one JPEG, as cameras write it


def readable(image: DecodedImage) -> Violations:
    """The pixels can be read, not only the header."""
    if (error := image.file.error) is not None:
        yield _violation(image, "", error.problem, error.fix)


def upright(image: DecodedImage) -> Violations:
    """EXIF does not rotate the image: annotations may have been drawn on the stored pixels."""
    if image.file.orientation not in (0, 1):
        value = f"EXIF orientation {image.file.orientation}"
        fix = "check that the masks fit the rotated image; if so, save it upright"
        yield _violation(image, "be stored upright", value, fix)


def eight_bits(image: DecodedImage) -> Violations:
    """The image has 8 bits: of 16-bit grey only the high byte is kept, which may be all black."""
    if image.file.mode.startswith("I"):
        low, high = image.file.values
        value = f"16 bits, values {low} to {high}"
        fix = "training uses value / 256; spread the values to 0 … 255 and save 8 bits"
        yield _violation(image, "hold 8 bits per channel", value, fix)


def opaque(image: DecodedImage) -> Violations:
    """No pixel is transparent: training uses the colours under them."""
    if image.file.is_transparent:
        fix = "training uses the colours beneath; flatten it onto a background"
        yield _violation(image, "be opaque", f"transparent pixels ({image.file.mode})", fix)


def single(image: DecodedImage) -> Violations:
    """The file is not an animation or several pages: only the first image is used."""
    if image.file.frames > 1:
        value = f"{image.file.frames} images in one file"
        yield _violation(image, "hold one image", value, "the first is used; save it alone")


def screen_colours(image: DecodedImage) -> Violations:
    """The colours are grey or RGB: CMYK is converted without its profile."""
    if image.file.mode in ("CMYK", "LAB", "HSV"):
        yield _violation(image, "be grey or RGB", image.file.mode, "convert it to RGB")


def named_after_format(image: DecodedImage) -> Violations:
    """The suffix is that of the format, which other programs rely on."""
    Image.init()
    stored = _SAME_FORMAT.get(image.file.format, image.file.format)
    named = Image.EXTENSION.get(image.path.suffix.lower())
    if stored and named and named != stored:
        value = f"{image.path.suffix} of a {stored} file"
        yield _violation(image, "have the suffix of its format", value, "rename or convert it")


def not_blank(image: DecodedImage) -> Violations:
    """The pixels differ: equal ones come from a failed export."""
    if image.file.is_blank:
        fix = "export it again or remove it"
        yield _violation(image, "have pixels that differ", "one colour only", fix)


def not_tiny(image: DecodedImage) -> Violations:
    """The image is not a thumbnail, or a wrong file."""
    height, width = image.size
    if min(height, width) < SMALLEST_SIDE:
        rule = f"have sides of at least {SMALLEST_SIDE} pixels"
        fix = "use the full image or remove it"
        yield _violation(image, rule, f"{width} x {height}", fix)


def has_objects(image: DecodedImage) -> Violations:
    """Some annotation names the image, which else trains as background."""
    if not image.is_annotated:
        fix = "draw its objects; keep it if it is background"
        yield _violation(image, "have objects", "no annotation", fix)


def has_more_than_crowds(image: DecodedImage) -> Violations:
    """Some object is not a crowd region: these are not targets, so the image has none."""
    if image.objects and all(instance.crowd for instance in image.objects):
        rule, fix = "have objects that are not crowd regions", "draw single objects or remove it"
        yield _violation(image, rule, len(image.objects), fix)


def _violation(image: DecodedImage, rule: str, value: object, fix: str) -> Violation:
    label = f"{image.place}: {image.path}"
    return Violation(Problem(label, rule, value, fix), image.id)
