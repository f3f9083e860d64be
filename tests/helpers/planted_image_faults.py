"""Faults of image files, each planted in another image."""

import os
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.helpers.damaged_copy import Copy, Planted, square

Edit = Callable[[Image.Image], Image.Image]
Fault = Callable[[Copy], list[Planted]]


def truncated(copy: Copy) -> list[Planted]:
    image = copy.image()
    data = copy.path(image).read_bytes()
    copy.put(image, data[: len(data) // 2])
    return [Planted("unreadable image", "truncated", image["id"])]


def missing(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.path(image).unlink()
    return [Planted("images.file_name", "does not exist", image["id"])]


def saved(kind: str, text: str, edit: Edit, suffix: str = ".jpg", **options: object) -> Fault:
    """Save an edited image in its place."""

    def fault(copy: Copy) -> list[Planted]:
        image = copy.image()
        copy.save(image, edit(copy.picture(image)), suffix, **options)
        return [Planted(kind, text, image["id"])]

    return fault


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def linked_out(copy: Copy) -> list[Planted]:
    image = copy.image()
    outside = copy.folder.parent / "outside.jpg"
    outside.write_bytes(copy.path(image).read_bytes())
    copy.path(image).unlink()
    os.symlink(outside, copy.path(image))
    return [Planted("images.file_name", "must not be a link out of", image["id"])]


def animated(copy: Copy) -> list[Planted]:
    image = copy.image()
    picture = copy.picture(image)
    copy.save(image, picture, ".gif", save_all=True, append_images=[picture.rotate(90)])
    return [Planted("several images in a file", "got '2 images in one file'", image["id"])]


def thumbnail(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).resize((20, 20)), ".png")
    image.update(width=20, height=20)
    for i, a in enumerate(copy.annotations(image)):
        y, x = divmod(i, 12)
        a.update(segmentation=square(x, y, 8), bbox=[x, y, 8, 8], area=64, iscrowd=0)
    return [Planted("tiny image", "got '20 x 20'", image["id"])]


def same_bytes(copy: Copy) -> list[Planted]:
    image = copy.image()
    twin = copy.twin(image, "same_bytes.jpg")
    copy.path(twin).write_bytes(copy.path(image).read_bytes())
    return [Planted("image twice", "got 'the bytes of another image'", twin["id"])]


def same_pixels(copy: Copy) -> list[Planted]:
    image = copy.image()
    twin = copy.twin(image, "same_pixels.png")
    copy.picture(image).save(copy.path(twin))
    return [Planted("image twice", "got 'the pixels of another image'", twin["id"])]


def leak(copy: Copy) -> list[Planted]:
    image = copy.image()
    other = {**image, "file_name": "validated.png"}
    copy.picture(image).save(copy.path(other))
    copy.val["images"].append(other)
    copy.val["annotations"] += [{**a, "category_id": 1} for a in copy.annotations(image)]
    return [Planted("image in both splits", "got 'the pixels of a validation image'", image["id"])]


def names_alike(copy: Copy) -> list[Planted]:
    images = [copy.image(), copy.image()]
    for image, name in zip(images, ("Photo.jpg", "photo.jpg"), strict=True):
        path = copy.path(image)
        image["file_name"] = name
        path.rename(copy.path(image))
    return [Planted("similar file names", "got 'photo.jpg'", images[1]["id"])]


def unlisted(copy: Copy) -> list[Planted]:
    Image.new("L", (9, 9)).save(copy.folder / "images" / "stray.png")
    for name in ("stray.HEIC", "._stray.jpg", "Thumbs.db"):  # only the first is an image
        (copy.folder / "images" / name).touch()
    text = "got '2 that are in none: stray.HEIC, stray.png'"
    return [Planted("files without a record", text, split="")]


def with_alpha(picture: Image.Image) -> Image.Image:
    picture.putalpha(128)
    return picture


def sixteen_bits(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 16)


IMAGE_FAULTS = {
    "floating point": saved(
        "unreadable image", "they must be in [0, 1]", lambda p: p.convert("F"), ".tif"),
    "lying": saved(
        "images.size", "EXIF orientation or the record is rotated", lambda p: p, exif=oriented(6)),
    "upside down": saved(
        "EXIF orientation", "got 'EXIF orientation 3'", lambda p: p.rotate(180), exif=oriented(3),
        quality=95),
    "resized": saved("images.size", "must be the 300 x 200 of", lambda p: p.resize((300, 200))),
    "16 bits": saved("16 bits", "16 bits, values 0 to", sixteen_bits, ".png"),
    "transparent": saved("transparency", "got 'transparent pixels (RGBA)'", with_alpha, ".png"),
    "for print": saved("print colours", "got 'CMYK'", lambda p: p.convert("CMYK")),
    "misnamed": saved("wrong suffix", "got '.jpg of a PNG file'", lambda p: p, format="PNG"),
    "black": saved(
        "blank image", "must have pixels that differ", lambda p: Image.new("RGB", p.size)),
} | {
    fault.__name__: fault
    for fault in (
        truncated, missing, linked_out, animated, thumbnail, same_bytes, same_pixels, leak,
        names_alike, unlisted,
    )
}  # fmt: skip
