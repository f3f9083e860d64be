"""Faults of the files of images, each planted in one of its own."""

import os
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.helpers.damaged_copy import Copy, Planted, square


def truncated(copy: Copy) -> list[Planted]:
    image = copy.image()
    data = copy.path(image).read_bytes()
    copy.put(image, data[: len(data) // 2])
    return [Planted("unreadable image", "truncated", image["id"])]


def floating_point(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).convert("F"), ".tif")
    return [Planted("unreadable image", "holds floating-point pixels", image["id"])]


def missing(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.path(image).unlink()
    return [Planted("images.file_name", "does not exist", image["id"])]


def holding(data: bytes, text: str) -> Callable[[Copy], list[Planted]]:
    """A file with other contents."""

    def fault(copy: Copy) -> list[Planted]:
        image = copy.image()
        copy.put(image, data)
        return [Planted("images.file_name", text, image["id"])]

    return fault


def linked_out(copy: Copy) -> list[Planted]:
    image = copy.image()
    outside = copy.folder.parent / "outside.jpg"
    outside.write_bytes(copy.path(image).read_bytes())
    copy.path(image).unlink()
    os.symlink(outside, copy.path(image))
    return [Planted("images.file_name", "must not be a link out of", image["id"])]


def lying(copy: Copy) -> list[Planted]:
    image = copy.image()
    assert image["width"] != image["height"]
    exif = Image.Exif()
    exif[0x0112] = 6
    copy.save(image, copy.picture(image), exif=exif)
    return [Planted("images.size", "EXIF orientation or the record is rotated", image["id"])]


def upside_down(copy: Copy) -> list[Planted]:
    image = copy.image()
    exif = Image.Exif()
    exif[0x0112] = 3
    copy.save(image, copy.picture(image).rotate(180), exif=exif, quality=95)
    return [Planted("EXIF orientation", "got 'EXIF orientation 3'", image["id"])]


def resized(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).resize((300, 200)))
    return [Planted("images.size", "must be the 300 x 200 of", image["id"])]


def sixteen_bits(copy: Copy) -> list[Planted]:
    image = copy.image()
    grey = np.asarray(copy.picture(image).convert("L")).astype(np.uint16) * 16
    copy.save(image, Image.fromarray(grey), ".png")
    return [Planted("16 bits", "16 bits, values 0 to", image["id"])]


def transparent(copy: Copy) -> list[Planted]:
    image = copy.image()
    picture = copy.picture(image)
    picture.putalpha(Image.new("L", picture.size, 128))
    copy.save(image, picture, ".png")
    return [Planted("transparency", "got 'transparent pixels (RGBA)'", image["id"])]


def animated(copy: Copy) -> list[Planted]:
    image = copy.image()
    picture = copy.picture(image)
    copy.save(image, picture, ".gif", save_all=True, append_images=[picture.rotate(90)])
    return [Planted("several images in a file", "got '2 images in one file'", image["id"])]


def for_print(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).convert("CMYK"))
    return [Planted("print colours", "got 'CMYK'", image["id"])]


def misnamed(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image), ".jpg", format="PNG")
    return [Planted("wrong suffix", "got '.jpg of a PNG file'", image["id"])]


def black(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, Image.new("RGB", copy.picture(image).size))
    return [Planted("blank image", "must have pixels that differ", image["id"])]


def thumbnail(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).resize((20, 20)), ".png")
    image.update(width=20, height=20)
    for i, a in enumerate(copy.annotations(image)):
        a.update(segmentation=square(i, 1, 8), bbox=[i, 1, 8, 8], area=64)
        a.update(iscrowd=0)
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
    return [Planted("files without a record", "got '1 that are in none: stray.png'", split="")]


PICTURE_FAULTS = {
    "truncated": truncated,
    "floating point": floating_point,
    "empty": holding(b"", "is empty (0 bytes)"),
    "missing": missing,
    "no picture": holding(b"<html>404</html>", "is not an image of a known format"),
} | {
    fault.__name__: fault
    for fault in (
        linked_out, lying, upside_down, resized, sixteen_bits, transparent, animated, for_print,
        misnamed, black, thumbnail, same_bytes, same_pixels, leak, names_alike, unlisted,
    )
}  # fmt: skip
