"""LVIS: COCO files that name images by address and annotate only some classes of each image."""

from __future__ import annotations

from dataclasses import replace

from mrcnn.data.coco.tables import CocoRecords, ids
from mrcnn.data.image_files import file_name_rule
from mrcnn.data.problems import Problems

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
FREQUENCIES = ("r", "c", "f")

_FIX = "restore the file"
_NOTE = (
    "LVIS: a class that an image's record does not name is unknown in that image. Training takes "
    "it as absent. AP is COCO's, unless you use `mrcnn evaluate --protocol lvis`"
)


def adapt(records: CocoRecords, problems: Problems) -> CocoRecords:
    """Name the image files of LVIS records by the last folder and name of their addresses.

    Records of other data sets are returned unchanged.
    """
    images, categories = records.images, records.categories
    if not any(key in record for record in images.records for key in FEDERATED):
        return records
    known = ids(categories.records, "id")
    for i, record in enumerate(categories.records):
        if record.get("frequency", "f") not in FREQUENCIES:
            add = problems.of_record("categories", i, categories.labels[i])
            add("frequency", f"be one of {', '.join(FREQUENCIES)}", record["frequency"], _FIX)
    for i, record in enumerate(images.records):
        add = problems.of_record("images", i, images.labels[i])
        for key in FEDERATED:
            values = record.get(key, [])
            if not (
                isinstance(values, list) and all(type(v) is int and v in known for v in values)
            ):
                add(key, "be ids of categories", values, _FIX)
        if "coco_url" in record:
            url = record["coco_url"]
            name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else url
            if not isinstance(url, str) or url.count("/") < 2 or file_name_rule(name):
                rule = "end in the folder and name of a file, as in …/train2017/000000000009.jpg"
                add("coco_url", rule, url, _FIX)
                name = record.get("file_name")
            record["file_name"] = name
    return replace(records, notes=(*records.notes, _NOTE))
