"""Ground truth in the form of COCO files, with optional fields filled in."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

from mrcnn.data.coco.read import CocoDataset
from mrcnn.errors import class_label
from mrcnn.ops.rle import area, bounding_box, compress, from_segmentation

Record = dict[str, Any]


def as_coco(dataset: CocoDataset) -> Record:
    """Convert a data set to the content of a COCO file, which reads back as the same data set.

    Boxes are those of the data set, areas count pixels; masks stay polygons or RLE.
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
    texts = compress(masks.counts.numpy(), masks.instance_count.numpy())
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
                "area": float(area(from_segmentation(segmentation, *size))),
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
    """Return the records of some images, with `area`, `bbox` and `iscrowd` filled in.

    Images, annotations and categories keep the order of the file.
    """
    images = {image["id"]: image for image in truth["images"] if image["id"] in image_ids}
    annotations = []
    for record in truth["annotations"]:
        if record["image_id"] not in images:
            continue
        record = {"iscrowd": 0, **record}
        if "area" not in record or "bbox" not in record:
            image = images[record["image_id"]]
            mask = from_segmentation(record["segmentation"], image["height"], image["width"])
            record.setdefault("area", float(area(mask)))
            record.setdefault("bbox", list(bounding_box(mask)))
        annotations.append(record)
    return {
        "images": list(images.values()),
        "categories": [{**c, "name": class_label(c["name"])} for c in truth["categories"]],
        "annotations": annotations,
    }
