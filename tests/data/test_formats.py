"""Every format that is read, written from COCO records and read back as the same targets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle_codec

from mrcnn.data.coco.read import CocoDataset, read_coco, read_splits
from mrcnn.data.coco.truth import as_coco
from mrcnn.data.formats import find_splits
from mrcnn.ops.rle import from_segmentation
from tests.helpers import annotation_writers as writers

Record = dict


def strange(folder: Path) -> Record:
    """A hole, several parts, a crowd region, an image without objects and one that EXIF turns, an
    empty class, gaps between categories, names beyond ASCII, nested folders, suffixes in capitals.
    """
    ys, xs = np.mgrid[:40, :60]
    ring = (np.hypot(xs - 30, ys - 20) < 15) & (np.hypot(xs - 30, ys - 20) > 8)
    parts = ((xs < 8) & (ys > 30)) | ((xs > 52) & (ys < 6))
    squares = [[2, 2, 12, 2, 12, 9, 2, 9], [40, 30, 55, 30, 55, 38, 40, 38]]
    names = ["a b.JPG", "tief/größe.png", "tief/tiefer/日本.jpeg", "turned.jpg"]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if name == "turned.jpg":
            exif[0x0112] = 6
        size = (40, 60) if name == "turned.jpg" else (60, 40)
        noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(noise).save(path, exif=exif)
    drawn = [  # image, category, segmentation
        (1, 3, [squares[0]]),
        (1, 9, writers.runs(ring)),
        (2, 9, squares),
        (2, 3, writers.runs(parts)),
        (4, 9, [squares[1]]),
        (4, 3, writers.runs(parts)),
    ]
    return {
        "images": [{"id": i, "file_name": name, "width": 60, "height": 40}
                   for i, name in enumerate(names, start=1)],
        "categories": [{"id": 3, "name": "Nüsse"}, {"id": 5, "name": "none"},
                       {"id": 9, "name": "b c"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "segmentation": s, "iscrowd": int(n == 6)}
            for n, (i, c, s) in enumerate(drawn, start=1)
        ],
    }  # fmt: skip


class Format(NamedTuple):
    write: Callable[[Path, Record, Path], None]
    least: float = 1.0  # IoU of every mask
    bitmaps: bool = False  # polygons become pixels, and boxes are theirs
    maps: bool = False  # pixels belong to one instance only
    one_ring: bool = False  # instances are a ring each; several parts become pixels first
    crowd: bool = False
    classes: bool = True  # whether it tells classes


FORMATS = {
    "labelme": Format(writers.labelme),
    "YOLO": Format(writers.yolo, least=0.98, one_ring=True),
    "VIA 1": Format(writers.via_1, one_ring=True),
    "VIA 2": Format(writers.via_2, one_ring=True),
    "VOC": Format(writers.voc, bitmaps=True, maps=True),
    "Cityscapes": Format(writers.cityscapes, bitmaps=True, maps=True, crowd=True),
    "LVIS": Format(writers.lvis, crowd=True),
    "mask files": Format(writers.mask_files, bitmaps=True, classes=False),
    "indexed masks": Format(writers.indexed_masks, bitmaps=True, maps=True, classes=False),
}


def read_back(folder: Path) -> list[CocoDataset]:
    return [*read_splits(find_splits(folder)).values()]


def images_of(datasets: list[CocoDataset]) -> dict[str, list[tuple]]:
    """By file name: class, box, RLE, segmentation, crowd of instances, in one order."""
    found = {}
    for dataset in datasets:
        content = as_coco(dataset)
        names = writers.names_of(content)
        for image, drawn in writers.by_image(content):
            size = image["height"], image["width"]
            rows = []
            for a in drawn:
                mask = from_segmentation(a["segmentation"], *size)
                if isinstance(mask["counts"], bytes):
                    mask = {"size": [*size], "counts": mask["counts"].decode()}
                name = names[a["category_id"]]
                rows.append((name, a["bbox"], mask, a["segmentation"], a["iscrowd"]))
            name = Path(image["file_name"]).stem.removesuffix("_leftImg8bit")
            assert name not in found
            found[name] = sorted(rows, key=lambda row: (row[0], row[2]["counts"]))
    return found


def rounded(rings: list, others: list, size: tuple[int, int]) -> bool:
    """Whether rings differ by no more than six digits of parts of the image do.

    Where that moves an edge across the centres of pixels, few pixels have few in common.
    """
    step = 0.5e-6 * max(size) * 1.001
    return np.abs(np.array(rings) - np.array(others)).max() <= step


def check(format_: Format, content: Record, images: Path, folder: Path) -> None:
    """Write, read, compare: the same images, and each instance with its class and mask."""
    (folder / "coco.json").write_text(json.dumps(content))
    source = read_coco(folder / "coco.json", images)
    (folder / "coco.json").unlink()
    format_.write(folder, content, images)
    expected, actual = images_of([source]), images_of(read_back(folder))
    assert set(actual) == set(expected)
    for name, rows in expected.items():
        others = list(actual[name])
        assert len(others) == len(rows), name
        for class_name, box, mask, points, crowd in rows:
            iou = rle_codec.iou([other[2] for other in others], [mask], [0]).ravel()
            same = [not format_.classes or other[0] == class_name for other in others]
            best = int(np.argmax(np.where(same, iou, -1)))
            assert same[best]
            assert others[best][4] == crowd
            assert iou[best] >= format_.least or rounded(points, others[best][3], mask["size"])
            expected_box = rle_codec.toBbox(mask) if format_.bitmaps else box
            assert others[best][1] == pytest.approx(expected_box, abs=1e-3)
            del others[best]


def simplest(content: Record, format_: Format) -> Record:
    """What the format can hold of a data set."""
    if not format_.crowd:
        content = writers.without_crowd(content)
    if format_.write is writers.cityscapes:
        content = writers.with_classes_of_cityscapes(content)
    if format_.one_ring:
        content = writers.parts_as_runs(content)
    return writers.disjoint(content) if format_.maps else content


@pytest.mark.parametrize("name", FORMATS)
def test_unusual_images_survive_a_round_trip(tmp_path, name):
    content = simplest(strange(tmp_path / "source"), FORMATS[name])
    (tmp_path / "data").mkdir()
    check(FORMATS[name], content, tmp_path / "source", tmp_path / "data")


@pytest.mark.parametrize(
    "images", [slice(0, 12), pytest.param(slice(None), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", FORMATS)
def test_real_images_survive_a_round_trip(shared_data, tmp_path, name, images):
    source = shared_data / "coco_mini"
    content = json.loads((source / "annotations.json").read_text())
    content["images"] = content["images"][images]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    check(FORMATS[name], simplest(content, FORMATS[name]), source / "images", tmp_path)


def test_nuclei_as_published_are_those_of_the_coco_file(shared_data):
    raw = read_back(shared_data / "nuclei_raw")
    names = {Path(d.path(i)).stem[:16] for d in raw for i in range(len(d))}
    assert len(names) == 8
    chosen = []
    for dataset in read_back(shared_data / "nuclei"):
        index = [i for i in range(len(dataset)) if dataset.path(i).stem in names]
        chosen.append(dataset.subset(index))
    expected = {name[:16]: rows for name, rows in images_of(chosen).items()}
    actual = {name[:16]: rows for name, rows in images_of(raw).items()}
    assert set(actual) == set(expected) == names
    for name, rows in expected.items():
        assert [row[1:] for row in actual[name]] == [row[1:] for row in rows]


def test_what_is_read_is_the_same_as_its_coco_records(tmp_path):
    writers.labelme(tmp_path / "data", strange(tmp_path / "source"), tmp_path / "source")
    for dataset in read_back(tmp_path / "data"):
        (tmp_path / "again.json").write_text(json.dumps(as_coco(dataset)))
        again = read_coco(tmp_path / "again.json", dataset.folder)
        for field in ("image_ids", "sizes", "names", "start", "annotation_ids", "boxes", "labels"):
            assert torch.equal(getattr(again, field), getattr(dataset, field)), field
        for field, tensor in again.masks.tensors().items():
            assert torch.equal(tensor, getattr(dataset.masks, field)), field
