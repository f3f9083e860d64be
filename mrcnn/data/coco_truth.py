"""Ground truth as COCO files hold it, with what is optional filled in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pycocotools import mask as rle_codec

Record = dict[str, Any]


def filled_truth(truth: Record, image_ids: Collection[int]) -> Record:
    """The ground truth of some images; `area`, `bbox` and `iscrowd` are filled in where absent.

    Args:
        truth: content of a COCO annotation file.
    Returns:
        images, annotations and categories, each in the order of the file.
    """
    images = {image["id"]: image for image in truth["images"] if image["id"] in image_ids}
    annotations = []
    for record in truth["annotations"]:
        if record["image_id"] not in images:
            continue
        record = {"iscrowd": 0, **record}
        if "area" not in record or "bbox" not in record:
            image = images[record["image_id"]]
            mask = encoded_mask(record["segmentation"], image["height"], image["width"])
            record.setdefault("area", float(rle_codec.area(mask)))
            record.setdefault("bbox", rle_codec.toBbox(mask).tolist())
        annotations.append(record)
    return {
        "images": list(images.values()),
        "categories": truth["categories"],
        "annotations": annotations,
    }


def encoded_mask(segmentation: Any, height: int, width: int) -> Record:
    """Polygons or run lengths of any spelling, as the compressed run lengths of one mask."""
    encoded: Record
    if isinstance(segmentation, list):
        encoded = rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = rle_codec.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    return encoded
