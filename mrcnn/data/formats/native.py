"""Formats of annotation tools that are not read: recognized, so that messages name the export."""

from __future__ import annotations

import posixpath
import re
from itertools import islice
from typing import NamedTuple

from mrcnn.data.formats.folder import Listing
from mrcnn.errors import FileError
from mrcnn.io.json_files import read_json

_SAMPLES = 8  # files of each kind
_START = 2**20  # bytes of a text that are searched


class _Native(NamedTuple):
    format: str
    keys: tuple[str, ...]  # of the file's object, or of the first object in its list
    export: str  # what to export instead


_QUPATH = "a mask per image that numbers the objects (LabeledImageServer)"
# From the tools' descriptions of their formats. The first whose keys are all there is taken.
_JSON = (
    _Native("Label Studio's JSON", ("data", "annotations"), "COCO (menu Export)"),
    _Native("Label Studio's JSON-MIN", ("annotation_id", "annotator"), "COCO (menu Export)"),
    _Native("VIA 3's project", ("project", "config", "attribute", "file"),
            "COCO, by a converter; projects of VIA 2 are read"),
    _Native("Supervisely's JSON", ("size", "objects", "tags"), "COCO (app Export to COCO)"),
    _Native("Supervisely's meta.json", ("classes", "tags", "projectType"),
            "COCO (app Export to COCO)"),
    _Native("Darwin JSON of V7", ("item", "annotations"), "COCO (Export data)"),
    _Native("Darwin JSON of V7", ("dataset", "image", "annotations"), "COCO (Export data)"),
    _Native("SuperAnnotate's JSON", ("metadata", "instances"), "COCO, with its Python SDK"),
    _Native("Datumaro's JSON", ("categories", "items"),
            "COCO (datum convert -if datumaro -f coco_instances -- --save-media)"),
    _Native("Segments.ai's release", ("dataset", "name", "description"),
            "COCO (segments.utils.export_dataset(…, export_format='coco-instance'))"),
    _Native("Hasty's JSON", ("label_classes", "images"), "COCO (menu Export data)"),
    _Native("Encord's JSON", ("data_units", "label_hash"), "COCO (Export labels)"),
    _Native("Kili's JSON", ("labels", "externalId"), "COCO (menu Export)"),
    _Native("Labelbox's JSON", ("data_row", "projects"), "COCO, by a converter"),
    _Native("QuPath's GeoJSON", ("type", "features"), _QUPATH),
    _Native("QuPath's GeoJSON", ("type", "geometry"), _QUPATH),
    _Native("FiftyOne's own dataset", ("samples",), "COCO (fiftyone.types.COCODetectionDataset)"),
)  # fmt: skip
_TEXTS = (  # suffix, what the text holds, format, what to export instead
    (".xml", r"<annotations>.*?<image\b", "CVAT for images",
     "COCO 1.0 (menu Actions, Export dataset)"),
    (".xml", r"<annotation>.*?<bndbox>", "Pascal VOC with boxes",
     "COCO with polygons or masks; boxes are not masks"),
    (".xml", r"<annotation>.*?<polygon>", "LabelMe's XML", "COCO 1.0, after an import into CVAT"),
    (".ndjson", r'"data_row"', "Labelbox's NDJSON", "COCO, by a converter"),
)  # fmt: skip
_YOLO = re.compile(r"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.MULTILINE)  # a box or polygon
_SUFFIXES = {
    ".names": ("a list of YOLO 1.1 with boxes", "Ultralytics YOLO Segmentation, or COCO"),
    ".geojson": ("QuPath's GeoJSON", _QUPATH),
    ".parquet": ("a table of Hugging Face", "its images and objects as files, as COCO"),
    ".tfrecord": ("TFRecord", "COCO"),
    ".tfrecords": ("TFRecord", "COCO"),
}


def recognize_native(listing: Listing) -> str:
    """Return a sentence on a format that is not read and what to export instead, or nothing."""
    for file in islice(listing.ending(".json"), _SAMPLES):
        try:
            content = read_json(listing.checked(file))
        except FileError:
            continue
        first = next(iter(content), None) if isinstance(content, list) else content
        keys = first.keys() if isinstance(first, dict) else set()
        for native in _JSON:
            if keys >= set(native.keys):
                return _sentence(file, native.format, native.export)
    for suffix, pattern, format, export in _TEXTS:
        for file in islice(listing.ending(suffix), _SAMPLES):
            if re.search(pattern, _start(listing, file), re.DOTALL):
                return _sentence(file, format, export)
    for suffix, (format, export) in _SUFFIXES.items():
        if file := next(listing.ending(suffix), ""):
            return _sentence(file, format, export)
    files = set(listing.files)
    for image in islice(listing.images(), _SAMPLES):
        file = f"{posixpath.splitext(image)[0]}.txt"
        if file in files and _YOLO.match(_start(listing, file)):
            fix = "move images to images/ and text files to labels/"
            return f"{file} holds YOLO labels beside its image; {fix}"
    return ""


def _start(listing: Listing, file: str) -> str:
    """Read the first megabyte of a text; nothing of a file that cannot be read."""
    try:
        with listing.checked(file).open("rb") as stream:
            return stream.read(_START).decode(errors="replace")
    except (FileError, OSError):
        return ""


def _sentence(file: str, format: str, export: str) -> str:
    return f"{file} is {format}, which is not read; export {export}"
