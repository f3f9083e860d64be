"""How data of VOC, Cityscapes, LVIS and mask files break: what is done, and what is said."""

import json
from pathlib import Path

import numpy as np

from tests.helpers.broken_annotations import Edit, change, gone, link_out, pixels, put, text

OBJECT, CLASS = "SegmentationObject/a.png", "SegmentationClass/a.png"
VOC = {
    "no class map": (gone(CLASS), [f"{CLASS}: does not exist"]),
    "no instance map": (gone(OBJECT), [f"{OBJECT}: does not exist"]),
    "a map of colours": (
        pixels(CLASS, np.full((6, 8, 3), 200, np.uint8)),
        [f"{CLASS} must hold the colours of classes, got ['c8c8c8']"]),
    "a list of colours without colours": (
        text("labelmap.txt", "# label:color\nperson:1,2::\n"),
        ["labelmap.txt: line 2 must be name:r,g,b::, got 'person:1,2::'; write the colour"]),
    "a map of 16 bits": (pixels(OBJECT, [1], np.uint16), [f"{OBJECT} must hold 8 bits per"]),
    "a map of another size": (
        pixels(OBJECT, np.zeros((6, 9), np.uint8)), [f"{OBJECT}: must be 8 x 6", "got 9 x 6"]),
    "a map that is no image": (text(CLASS, "x"), [f"{CLASS}: is not an image of a known format"]),
    "a map cut short": (
        lambda f: (f / CLASS).write_bytes((f / CLASS).read_bytes()[:-30]), [CLASS, "restore"]),
    "a map that was resized": (
        pixels(OBJECT, [0] * 8 + [1] * 8 + [2] * 8), [f"{OBJECT} must have sharp borders"]),
    "an unknown class": (
        pixels(CLASS, [9] * 48), [f"{CLASS}: instance 1 must be of a class from 1 to 2, got 9"]),
    "two classes": (
        pixels(CLASS, [1, 2] * 4 + [2, 1] * 4 + [1, 2] * 16),
        [f"{CLASS}: instance 2 must be of one class, got [1, 2]"]),
    "a listed image that is not there": (
        text("ImageSets/Segmentation/train.txt", "a\nz\n"),
        ["ImageSets/Segmentation/train.txt: line 2 must be the name of an image, got 'z'"]),
    "a list that leads out": (
        text("ImageSets/Segmentation/val.txt", "../../../etc/passwd\n"),
        ["ImageSets/Segmentation/val.txt: line 1 must stay inside"]),
    "a list in Latin-1": (
        text("ImageSets/Segmentation/val.txt", b"\xe9"), ["val.txt: byte 0 (0xe9) is not UTF-8"]),
    "a map out of the folder": (link_out(OBJECT), [f"{OBJECT}: is a link out of the folder; copy"]),
}  # fmt: skip

IDS = "gtFine/train/city/a_gtFine_instanceIds.png"
POLYGONS = "gtFine/train/city/a_gtFine_polygons.json"


def polygons(**changes: object) -> Edit:
    """Polygons in place of the instance ids; `label` and `polygon` are of the only object."""
    ring = [[1, 1], [5, 1], [5, 4]]
    one = {"label": "car", "polygon": ring}
    one |= {key: value for key, value in changes.items() if key in one}
    content = {"imgHeight": 6, "imgWidth": 8, "objects": [one]}
    content |= {key: value for key, value in changes.items() if key in content}

    def apply(folder: Path) -> None:
        (folder / IDS).unlink()
        (folder / POLYGONS).write_text(json.dumps(content))

    return apply


CITYSCAPES = {
    "ids of 8 bits": (pixels(IDS, [26]), [f"{IDS} must hold one number of 16 bits per pixel"]),
    "colours": (pixels(IDS, np.zeros((6, 8, 3), np.uint8)), [f"{IDS} must hold one number of 16"]),
    "another size": (pixels(IDS, np.zeros((6, 9), np.uint16)), [f"{IDS}: must be 8 x 6 pixels"]),
    "no image": (
        gone("leftImg8bit/train/city/a_leftImg8bit.png"),
        [f"{IDS}: ", "leftImg8bit/train/city/a_leftImg8bit.png: does not exist"]),
    "no annotations": (gone(IDS), ["a_leftImg8bit.png must have annotations in gtFine/"]),
    "broken JSON": (
        lambda f: (polygons()(f), text(POLYGONS, "{")(f)), [f"{POLYGONS}: is not JSON"]),
    "another height": (polygons(imgHeight=7), [f"{POLYGONS}: imgHeight must be 6", "got 7"]),
    "no objects": (polygons(objects=None), [f"{POLYGONS}: objects must be a list, got None"]),
    "an object of text": (polygons(objects=["x"]), [f"{POLYGONS}: objects[0] must be an object"]),
    "an unknown label": (polygons(label="dog"), [f"{POLYGONS}: objects[0].label must be a label"]),
    "no polygon": (polygons(polygon=None), [f"{POLYGONS}: objects[0].polygon must be a list of"]),
    "two points": (polygons(polygon=[[1, 1], [2, 2]]), ["objects[0].polygon must hold at least 3"]),
    "a point far away": (polygons(polygon=[[1, 1], [99, 1], [2, 2]]), ["objects[0].polygon[1]"]),
}  # fmt: skip

LVIS_FILE = "lvis_v1_train.json"
URL = "images[0] (id 1): coco_url must end in the folder and name of a file"


def of_lvis(value: object, *path: object) -> Edit:
    return put(LVIS_FILE, value, *path)


LVIS = {
    "an address without folder": (of_lvis("a.png", "images", 0, "coco_url"), [URL, "'a.png'"]),
    "an address that is a number": (of_lvis(3, "images", 0, "coco_url"), ["coco_url must end", ""]),
    "an address that leads out": (
        of_lvis("http://x/../a.png", "images", 0, "coco_url"), [URL, "'http://x/../a.png'"]),
    "an address of another image": (
        of_lvis("http://x/train2017/z.png", "images", 0, "coco_url"), ["z.png: does not exist"]),
    "no address": (change(LVIS_FILE, lambda c: c["images"][0].pop("coco_url")),
                   ["images[0] (id 1): file_name must be a non-empty text, got None"]),
    "negatives of text": (
        of_lvis("x", "images", 0, "neg_category_ids"),
        ["images[0] (id 1): neg_category_ids must be ids of categories, got 'x'"]),
    "unknown inexhaustive": (
        of_lvis([99], "images", 0, "not_exhaustive_category_ids"), ["not_exhaustive_category_ids"]),
    "an unknown frequency": (
        of_lvis("x", "categories", 0, "frequency"), ["(id 24): frequency must be one of r,"]),
}  # fmt: skip

ONE = "1/masks/000000000002.png"
MASK_FILES = {
    "a mask of nothing": (pixels(ONE, [0]), [f"{ONE} must hold some foreground, got 'zeros only'"]),
    "a mask of another size": (
        pixels(ONE, np.ones((6, 9), np.uint8)), [f"{ONE}: must be 8 x 6 pixels", "got 9 x 6"]),
    "a mask cut short": (
        lambda f: (f / ONE).write_bytes((f / ONE).read_bytes()[:-30]), [ONE, "restore or remove"]),
    "a mask with loss": (pixels("1/masks/x.jpg", [255]), ["1/masks/x.jpg must be in a lossless"]),
    "a mask out of the folder": (link_out(ONE), [f"{ONE} must not be a link to a folder or ou"]),
    "two classes": (text("classes.txt", "a\nb\n"), ["the list of classes must hold one name", "'"]),
    "floating-point masks": (
        pixels("1/masks/x.tif", [1], np.float32), ["1/masks/x.tif: holds floating-point pixels"]),
    "masks without image": (
        lambda f: ((f / "masks").mkdir(), pixels("masks/x.png", [1])(f)),
        ["masks/x.png must have an image beside its folder"]),
}  # fmt: skip

MAP = "PedMasks/a_mask.png"
INDEXED = {
    "a map of 0 and 255": (pixels(MAP, [255]), [f"{MAP} must number its instances from 1, got '0"]),
    "a map of bits": (pixels(MAP, [True], bool), [f"{MAP} must number its instances, got '1 bit"]),
    "a map of colours": (
        pixels(MAP, np.eye(48, 3, dtype=np.uint8).reshape(6, 8, 3)), [f"{MAP} must hold one numb"]),
    "a map with a soft border": (
        pixels(MAP, [0] * 8 + [60] * 8 + [127] * 8 + [255] * 24), [f"{MAP} must have sharp bor"]),
    "a map of white and grey": (
        pixels(MAP, [85, 85, 0, 170, 0, 255]), [f"{MAP} must number its instances from 1, got '0"]),
    "a white map of 16 bits": (
        pixels(MAP, [65535] * 9, np.uint16), [f"{MAP} must number its instances from 1, got '0"]),
    "a map of another size": (
        pixels(MAP, np.ones((8, 6), np.uint8)), [f"{MAP}: must be 8 x 6 pixels", "saved upright"]),
    "no map": (gone(MAP), ["PNGImages/a.png: its masks must be one file, got []"]),
    "two maps": (
        pixels("PedMasks/a.png", [1]), ["PNGImages/a.png: its masks must be one file, got ['Ped"]),
    "a map of no image": (pixels("PedMasks/z.png", [1]), ["PedMasks/z.png must be named after an"]),
    "a map with loss": (
        lambda f: (f / MAP).rename(f / "PedMasks/a_mask.jpg"),
        ["PedMasks/a_mask.jpg must be in a lossless format"]),
    "a map out of the folder": (link_out(MAP), [f"{MAP} must not be a link to a folder or out"]),
}  # fmt: skip
