"""Checks of an image file."""

from __future__ import annotations

from PIL import Image

from mrcnn.data.checks.decoded import DecodedImage
from mrcnn.data.checks.findings import Violations

SMALLEST_SIDE = 32  # pixels: one cell of the coarsest feature map of a backbone

_SAME_FORMAT = {"MPO": "JPEG"}  # several images in one JPEG, as cameras write it


def readable(image: DecodedImage) -> Violations:
    """Check that the pixels can be read, not only the header."""
    if (error := image.file.error) is not None:
        yield image.violation("", error.problem, error.fix)


def upright(image: DecodedImage) -> Violations:
    """Check that EXIF does not rotate the image: masks may have been drawn on the stored pixels."""
    if (orientation := image.file.orientation) not in (0, 1):
        fix = "check that the masks fit the rotated image; if so, save it upright"
        yield image.violation("be stored upright", f"EXIF orientation {orientation}", fix)


def eight_bits(image: DecodedImage) -> Violations:
    """Check that pixels have 8 bits: of 16 only the high byte is kept, which may be all black."""
    if image.file.mode.startswith("I"):
        low, high = image.file.values
        fix = "training uses value / 256; spread the values to 0 … 255 and save 8 bits"
        yield image.violation("hold 8 bits per channel", f"16 bits, values {low} to {high}", fix)


def opaque(image: DecodedImage) -> Violations:
    """Check that no pixel is transparent: training uses the colours under them."""
    if image.file.is_transparent:
        fix = "training uses the colours beneath; flatten it onto a background"
        yield image.violation("be opaque", f"transparent pixels ({image.file.mode})", fix)


def single(image: DecodedImage) -> Violations:
    """Check that the file is not an animation or several pages: only the first image is used."""
    if (frames := image.file.frames) > 1:
        fix = "the first is used; save it alone"
        yield image.violation("hold one image", f"{frames} images in one file", fix)


def screen_colours(image: DecodedImage) -> Violations:
    """Check that colours are grey or RGB: CMYK is converted without its profile."""
    if image.file.mode in ("CMYK", "LAB", "HSV"):
        yield image.violation("be grey or RGB", image.file.mode, "convert it to RGB")


def named_after_format(image: DecodedImage) -> Violations:
    """Check that the suffix is that of the format, which other programs rely on."""
    Image.init()
    stored = _SAME_FORMAT.get(image.file.format, image.file.format)
    named = Image.EXTENSION.get(image.path.suffix.lower())
    if stored and named and named != stored:
        value = f"{image.path.suffix} of a {stored} file"
        yield image.violation("have the suffix of its format", value, "rename or convert it")


def not_blank(image: DecodedImage) -> Violations:
    """Check that pixels differ: equal ones come from a failed export."""
    if image.file.is_blank:
        fix = "export it again or remove it"
        yield image.violation("have pixels that differ", "one colour only", fix)


def not_tiny(image: DecodedImage) -> Violations:
    """Check that the image is not a thumbnail, or a wrong file."""
    height, width = image.size
    if min(height, width) < SMALLEST_SIDE:
        rule = f"have sides of at least {SMALLEST_SIDE} pixels"
        yield image.violation(rule, f"{width} x {height}", "use the full image or remove it")


def has_objects(image: DecodedImage) -> Violations:
    """Check that some annotation names the image, which otherwise trains as background."""
    if not image.is_annotated:
        fix = "draw its objects; keep it if it is background"
        yield image.violation("have objects", "no annotation", fix)


def has_more_than_crowds(image: DecodedImage) -> Violations:
    """Check that some object is a target, not a crowd region."""
    if image.objects and all(instance.crowd for instance in image.objects):
        rule, fix = "have objects that are not crowd regions", "draw single objects or remove it"
        yield image.violation(rule, len(image.objects), fix)
