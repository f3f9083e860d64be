"""LVIS: COCO files whose images are named by address, and annotated for some classes only."""

from __future__ import annotations

from mrcnn.data.coco_tables import file_name_rule
from mrcnn.data.problems import Problems
from mrcnn.data.readers.pictures import Content

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
FREQUENCIES = ("r", "c", "f")

_NOTE = (
    "LVIS: a class that an image's record does not name is unknown there; training takes it as "
    "absent, and AP is COCO's but for mrcnn evaluate --protocol lvis"
)


def adapt(content: Content, problems: Problems) -> Content:
    """Name the image files of LVIS records by the last folder and name of their addresses.

    Other records come back as they are.
    """
    images = [record for record in content.images if isinstance(record, dict)]
    if not any(key in record for record in images for key in FEDERATED):
        return content
    categories = [record for record in content.categories if isinstance(record, dict)]
    ids = {record["id"] for record in categories if isinstance(record.get("id"), int)}
    for position, record in enumerate(content.categories):
        if isinstance(record, dict) and record.get("frequency", "f") not in FREQUENCIES:
            rule = f"be one of {', '.join(FREQUENCIES)}"
            place = f"categories[{position}].frequency"
            problems.add(place, rule, record["frequency"], "restore the file")
    for position, record in enumerate(content.images):
        if not isinstance(record, dict):
            continue
        place = f"images[{position}] (id {record.get('id')!r:.30})"
        for key in FEDERATED:
            values = record.get(key, [])
            if not isinstance(values, list) or not all(type(v) is int and v in ids for v in values):
                problems.add(f"{place}: {key}", "be ids of categories", values, "restore the file")
        if "coco_url" in record:
            url = record["coco_url"]
            name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else url
            if not isinstance(url, str) or url.count("/") < 2 or file_name_rule(name):
                rule = "end in the folder and name of a file, as in …/train2017/000000000009.jpg"
                problems.add(f"{place}: coco_url", rule, url, "restore the file")
                name = record.get("file_name")
            record["file_name"] = name
    return Content(
        content.images, content.annotations, content.categories, notes=(*content.notes, _NOTE)
    )
