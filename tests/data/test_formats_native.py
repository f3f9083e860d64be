"""Exports of annotation tools that are not read: the message names the tool and what to export."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mrcnn.data.formats import find_splits
from mrcnn.errors import UserError
from tests.helpers import annotation_writers as writers

POINTS = [[1, 1], [9, 1], [9, 9]]
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
FILES = {  # file, content, the tool
    "Label Studio": (
        "project-1.json",
        [{"id": 1, "annotations": [{"id": 1, "result": []}], "data": {"image": "/data/a.png"}}],
        "Label Studio's JSON, which is not read; export COCO (menu"),
    "Label Studio, short": (
        "min.json",
        [{"id": 1, "image": "/data/a.png", "annotator": 1, "annotation_id": 1, "label": []}],
        "Label Studio's JSON-MIN"),
    "VIA 3": (
        "via.json",
        {"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}},
        "VIA 3's project"),
    "Supervisely": (
        "ds/ann/a.png.json",
        {"description": "", "tags": [], "size": {"height": 10, "width": 20},
         "objects": [{"classTitle": "a", "geometryType": "polygon", "points": {
             "exterior": POINTS, "interior": []}}]},
        "Supervisely's JSON"),
    "Supervisely's classes": (
        "meta.json", {"classes": [], "tags": [], "projectType": "images"}, "Supervisely's"),
    "Darwin": (
        "a.json",
        {"version": "2.0", "schema_ref": "", "item": {"name": "a.png"}, "annotations": []},
        "Darwin JSON of V7"),
    "Darwin 1": (
        "a.json", {"dataset": "d", "image": {"filename": "a.png"}, "annotations": []}, "Darwin"),
    "SuperAnnotate": (
        "a.png.json", {"metadata": {"name": "a.png"}, "instances": [], "tags": []}, "SuperAnnot"),
    "Datumaro": (
        "annotations/default.json",
        {"info": {}, "categories": {"label": {"labels": []}}, "items": []}, "Datumaro's JSON"),
    "Segments.ai": (
        "d-v1.json", {"name": "v1", "description": "", "dataset": {"samples": []}}, "Segments.ai"),
    "Hasty": (
        "h.json", {"project_name": "p", "label_classes": [], "images": []}, "Hasty's JSON"),
    "Encord": ("e.json", [{"label_hash": "x", "data_hash": "y", "data_units": {}}], "Encord's"),
    "Kili": ("k.json", [{"id": "1", "externalId": "a.png", "labels": []}], "Kili's JSON"),
    "Labelbox": ("l.ndjson", '{"data_row": {"id": "x"}, "projects": {}}', "Labelbox's NDJSON"),
    "QuPath": ("a.geojson", {"type": "FeatureCollection", "features": []}, "QuPath's GeoJSON"),
    "QuPath as JSON": (
        "a.json", [{"type": "Feature", "geometry": {}, "properties": {}}], "QuPath's GeoJSON"),
    "FiftyOne": ("samples.json", {"samples": [{"filepath": "data/a.png"}]}, "FiftyOne's own"),
    "CVAT for images": (
        "annotations.xml",
        "<?xml version='1.0'?>\n<annotations>\n<version>1.1</version>\n<image id='0'></image>\n"
        "</annotations>", "CVAT for images, which is not read; export COCO 1.0"),
    "boxes of VOC": (
        "Annotations/a.xml", f"<annotation>\n<object><name>a</name>{BOX}</object>\n</annotation>",
        "Pascal VOC with boxes"),
    "LabelMe": (
        "a.xml", "<annotation><object><polygon><pt></pt></polygon></object></annotation>",
        "LabelMe's XML"),
    "YOLO 1.1": ("obj.names", "a\nb\n", "a list of YOLO 1.1 with boxes, which is not read"),
    "Hugging Face": ("data/train-0.parquet", "PAR1", "a table of Hugging Face"),
    "TFRecord": ("a.tfrecord", "x", "TFRecord, which is not read; export COCO"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_the_format_of_a_tool_is_named(tmp_path, case):
    name, content, expected = FILES[case]
    writers.write_text(tmp_path / name, content)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    with pytest.raises(UserError) as caught:
        find_splits(tmp_path)
    assert f"{name} is {expected}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"is not a COCO file; .* is not read"):
        find_splits(tmp_path / name)


def test_other_files_are_not_taken_for_those_of_a_tool(tmp_path):
    for name, content in (
        ("list.json", "[]"),
        ("numbers.json", "[1, 2]"),
        ("text.json", '"a"'),
        ("package.json", json.dumps({"name": "x", "version": "1"})),
        ("feed.xml", "<rss><image></image></rss>"),
    ):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        find_splits(Path(tmp_path))
    assert "which is not read" not in str(caught.value)


def test_yolo_labels_beside_their_image(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    with pytest.raises(UserError, match=r"a\.txt holds YOLO labels beside its image; move images"):
        find_splits(tmp_path)
    (tmp_path / "a.txt").write_text("0 1 2 is a caption\n")
    with pytest.raises(UserError, match="holds no data set; known formats"):
        find_splits(tmp_path)
