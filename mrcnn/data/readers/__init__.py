"""Readers of other formats than COCO: what they find becomes COCO records.

Each format is a file with a function that takes a `Listing` and returns `Pictures`, noting what is
wrong; `READERS` names them, and `recognise` says which one a folder needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mrcnn.data.problems import Problems
from mrcnn.data.readers import cityscapes, labelme, mask_files, via, voc, yolo
from mrcnn.data.readers.listing import Listing
from mrcnn.data.readers.pictures import Pictures
from mrcnn.errors import UserError

_JSON_LOOKED_AT = 8  # files; the first that is of a known format decides


class Reader(NamedTuple):
    """A format."""

    read: Callable[[Listing, Problems], Pictures]
    layout: str  # as the help shows it


READERS = {
    "Cityscapes": Reader(
        cityscapes.read,
        "leftImg8bit/{train,val}/CITY/*.png, gtFine/ likewise (instanceIds or polygons)",
    ),
    "Pascal VOC": Reader(
        voc.read,
        "JPEGImages/, SegmentationObject/, SegmentationClass/,\n"
        "    ImageSets/Segmentation/{train,val}.txt",
    ),
    "mask files": Reader(
        mask_files.read,
        "NAME/images/NAME.png, NAME/masks/*.png (one instance each), or PNGImages/NAME.png,\n"
        "    PedMasks/NAME_mask.png (also images/, masks/; pixels count the instances)",
    ),
    "YOLO": Reader(
        yolo.read,
        "data.yaml, images/{train,val}/, labels/{train,val}/*.txt (polygons; also train/images/,\n"
        "    train/labels/)",
    ),
    "VIA": Reader(via.read, "via_region_data.json (VGG Image Annotator 1 or 2) beside its images"),
    "labelme": Reader(labelme.read, "*.json of labelme beside their images, in any folders"),
}

_BY_NAMES = {  # formats told by the names of files alone
    "Cityscapes": cityscapes.is_cityscapes,
    "Pascal VOC": voc.is_voc,
    "mask files": mask_files.is_mask_files,
    "YOLO": yolo.is_yolo,
}


def recognise(listing: Listing) -> str | None:
    """The name of the format of a folder, None if it is none of these.

    Raises:
        UserError: if it could be one of them, were a JSON file not broken.
    """
    for name, is_there in _BY_NAMES.items():
        if is_there(listing):
            return name
    broken: UserError | None = None
    for _, file in zip(range(_JSON_LOOKED_AT), listing.ending(".json"), strict=False):
        try:
            content = listing.json_object(file)
        except UserError as error:
            broken = broken or error
            continue
        if labelme.is_labelme(content):
            return "labelme"
        if via.is_via(content):
            return "VIA"
    if broken:
        raise broken
    return None
