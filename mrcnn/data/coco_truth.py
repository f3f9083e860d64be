"""Ground truth as COCO files hold it, with what is optional filled in."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from pycocotools import mask as rle_codec

from mrcnn.data import instances
from mrcnn.data.coco import CocoDataset
from mrcnn.data.problems import read_json

Record = dict[str, Any]


def ground_truth(dataset: CocoDataset) -> Record:
    """The COCO records of a data set: its annotation file, or what stands for one.

    Raises:
        UserError: if the annotation file cannot be read.
    """
    if dataset.annotations.is_dir():
        return as_coco(dataset)
    content: Record = read_json(dataset.annotations)
    return content


def as_coco(dataset: CocoDataset) -> Record:
    """A data set as the content of a COCO file, which reads back as the same data set.

    Boxes are those of the data set, areas those of the pixels; masks stay polygons or run lengths.
    """
    images = [
        {
            "id": int(dataset.image_ids[i]),
            "file_name": dataset.path(i).relative_to(dataset.folder).as_posix(),
            "height": int(dataset.sizes[i, 0]),
            "width": int(dataset.sizes[i, 1]),
        }
        for i in range(len(dataset))
    ]
    masks = dataset.masks
    texts = instances.host.rle_to_strings(masks.counts.numpy(), masks.instance_count.numpy())
    points = masks.points.flatten().tolist()
    ring_start = (2 * masks.ring_start).tolist()
    rings = [points[a:b] for a, b in pairwise(ring_start)]
    ring_of = masks.instance_ring.tolist()
    owner = dataset.image_ids.repeat_interleave(dataset.start.diff()).tolist()
    rows = zip(
        dataset.annotation_ids.tolist(),
        owner,
        dataset.labels.tolist(),
        dataset.crowd.tolist(),
        dataset.boxes.tolist(),
        masks.frame.tolist(),
        strict=True,
    )
    annotations = []
    for i, (id, image_id, label, crowd, (x1, y1, x2, y2), size) in enumerate(rows):
        segmentation = rings[ring_of[i] : ring_of[i + 1]] or {"size": size, "counts": texts[i]}
        annotations.append(
            {
                "id": id,
                "image_id": image_id,
                "category_id": dataset.category_ids[label],
                "segmentation": segmentation,
                "area": float(rle_codec.area(encoded_mask(segmentation, *size))),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": int(crowd),
            }
        )
    categories = [
        {"id": id, "name": name}
        for id, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


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
