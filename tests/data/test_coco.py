"""Reading valid COCO files: real ones compared with pycocotools, and small ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from mrcnn.data.coco.read import read_coco, read_splits
from mrcnn.data.formats import Split
from mrcnn.errors import UserError
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.ops.instance_masks import (
    InstanceMasks,
    concatenate,
    mask_boxes,
    select,
    transformed,
)
from tests.helpers.masks import masks_of

REAL = {
    "nuclei": ("nuclei/val.json", "nuclei/images"),
    "coco_mini": ("coco_mini/annotations.json", "coco_mini/images"),
}


def decode(masks: InstanceMasks, i: int) -> np.ndarray:
    """Bitmap (h, w) of instance `i`, which must have counts."""
    counts = masks.counts[masks.instance_count[i] : masks.instance_count[i + 1]].numpy()
    height, width = masks.frame[i].tolist()
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


@pytest.mark.parametrize("name", REAL)
def test_real_data_equal_pycocotools(shared_data, name):
    annotations, images = (shared_data / part for part in REAL[name])
    judge = COCO(annotations)
    dataset = read_coco(annotations, images)
    assert dataset.image_ids.tolist() == list(judge.imgs)
    assert dataset.category_ids == tuple(sorted(judge.cats))
    assert dataset.class_names == tuple(judge.cats[id]["name"] for id in dataset.category_ids)
    for i, (id, record) in enumerate(judge.imgs.items()):
        assert dataset.path(i) == images / record["file_name"]
        assert dataset.sizes[i].tolist() == [record["height"], record["width"]]
        span = slice(int(dataset.start[i]), int(dataset.start[i + 1]))
        expected = judge.imgToAnns[id]
        assert dataset.annotation_ids[span].tolist() == [a["id"] for a in expected]
        assert dataset.crowd[span].tolist() == [a["iscrowd"] == 1 for a in expected]
        ids = [dataset.category_ids[label] for label in dataset.labels[span]]
        assert ids == [a["category_id"] for a in expected]
        for j, annotation in enumerate(expected, start=span.start):
            x, y, w, h = annotation["bbox"]
            actual = dataset.boxes[j].tolist()
            if isinstance(annotation["segmentation"], list):
                rings = annotation["segmentation"]
                first, last = dataset.masks.instance_ring[j : j + 2].tolist()
                assert last - first == len(rings)
                span_of = dataset.masks.ring_start[[first, last]].tolist()
                points = dataset.masks.points[slice(*span_of)]
                assert points.flatten().tolist() == [v for ring in rings for v in ring]
                # The file rounds boxes of polygons to hundredths.
                np.testing.assert_allclose(actual, [x, y, x + w, y + h], atol=0.011)
            else:
                x, y, w, h = rle.toBbox(judge.annToRLE(annotation))
                assert actual == [x, y, x + w, y + h]
                if j % 10 == 0:
                    assert np.array_equal(decode(dataset.masks, j), judge.annToMask(annotation))


def test_crowd_regions_are_kept_but_are_not_targets(shared_data):
    annotations, images = (shared_data / part for part in REAL["coco_mini"])
    dataset = read_coco(annotations, images)
    assert dataset.crowd.sum() == 13
    targets = [dataset.targets(i) for i in range(len(dataset))]
    taken = torch.cat(targets)
    assert len(taken) == len(dataset.labels) - 13
    assert not dataset.crowd[taken].any()


def write(folder, categories, annotations=(), images=1) -> tuple[Path, Path]:
    """A data set of 8 x 6 images; annotations are (image_id, category_id)."""
    (folder / "images").mkdir(exist_ok=True)
    for i in range(images):
        Image.new("L", (8, 6)).save(folder / "images" / f"{i}.png")
    square = [[1, 1, 5, 1, 5, 4, 1, 4]]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 6}
                   for i in range(images)],
        "categories": categories,
        "annotations": [{"id": n, "image_id": i, "category_id": c, "segmentation": square}
                        for n, (i, c) in enumerate(annotations)],
    }  # fmt: skip
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json", folder / "images"


def test_labels_follow_ascending_category_ids_with_gaps(tmp_path):
    categories = [{"id": 90, "name": "c"}, {"id": 1, "name": "a"}, {"id": 13, "name": "b"}]
    dataset = read_coco(*write(tmp_path, categories, [(0, 13), (0, 90), (0, 1)]))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.category_ids == (1, 13, 90)
    assert dataset.labels.tolist() == [1, 2, 0]


def test_instances_are_grouped_by_image_and_empty_images_stay(tmp_path):
    paths = write(tmp_path, [{"id": 1, "name": "a"}], [(2, 1), (0, 1), (2, 1)], images=4)
    dataset = read_coco(*paths)
    assert len(dataset) == 4
    assert dataset.start.tolist() == [0, 1, 1, 3, 3]
    assert dataset.annotation_ids.tolist() == [1, 0, 2]
    assert dataset.targets(1).tolist() == []


def test_a_data_set_without_annotations_is_read(tmp_path):
    dataset = read_coco(*write(tmp_path, [{"id": 1, "name": "a"}]))
    assert dataset.boxes.shape == (0, 4)
    assert len(dataset.masks) == 0


ROOT = [
    {"id": 0, "name": "fruits", "supercategory": "none"},
    {"id": 1, "name": "apple", "supercategory": "fruits"},
    {"id": 2, "name": "pear", "supercategory": "fruits"},
]


def test_the_heading_of_roboflow_is_not_a_class_and_a_note_says_so(tmp_path):
    dataset = read_coco(*write(tmp_path, ROOT, [(0, 2)]))
    assert dataset.class_names == ("apple", "pear")
    assert dataset.labels.tolist() == [1]
    assert "fruits" in dataset.notes[0]


def test_a_category_0_that_is_used_is_a_class(tmp_path):
    dataset = read_coco(*write(tmp_path, ROOT, [(0, 2), (0, 0)]))
    assert dataset.class_names == ("fruits", "apple", "pear")
    assert dataset.notes == ()


HEADINGS = {  # (name, supercategory) of categories, those with objects, expected classes
    "the same name": ([("fish", "none"), ("fish", "fish")], {1}, ("fish",)),
    "the same name, no objects": ([("fish", "none"), ("fish", "fish")], set(), ("fish",)),
    "another id": ([("cat", "pets"), ("pets", "none"), ("dog", "pets")], {0, 2}, ("cat", "dog")),
    "three levels": ([("all", ""), ("fish", "all"), ("salmon", "fish")], {2}, ("salmon",)),
    "a level with objects": (
        [("all", ""), ("fish", "all"), ("salmon", "fish")], {1, 2}, ("fish", "salmon")),
    "two headings": (
        [("a", "none"), ("b", "a"), ("c", "none"), ("d", "c")], {1, 3}, ("b", "d")),
    "a class without objects": ([("a", "none"), ("b", "none")], {0}, ("a", "b")),
    "its own supercategory": ([("person", "person"), ("car", "vehicle")], {1}, ("person", "car")),
    "headings of each other": ([("a", "b"), ("b", "a")], set(), ("a", "b")),
    "odd values": ([("a", ["a"]), ("b", None), ("c", 3)], {0}, ("a", "b", "c")),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADINGS)
def test_headings_become_no_classes(tmp_path, case):
    pairs, used, expected = HEADINGS[case]
    categories = [{"id": i, "name": n, "supercategory": s} for i, (n, s) in enumerate(pairs)]
    dataset = read_coco(*write(tmp_path, categories, [(0, i) for i in used]))
    assert dataset.class_names == expected
    assert len(dataset.notes) == (len(expected) < len(pairs))
    truth = GroundTruth.of_dataset(dataset)
    assert tuple(category["name"] for category in truth.categories) == expected


def test_classes_of_a_model_are_matched_by_name(tmp_path):
    categories = [{"id": 4, "name": "b"}, {"id": 5, "name": "a"}, {"id": 6, "name": "unused"}]
    paths = write(tmp_path, categories, [(0, 4), (0, 5)])
    dataset = read_coco(*paths, class_names=("a", "b", "c"), category_ids=(1, 2, 4))
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.category_ids == (5, 4, 6)  # c had 4, which the file gives to b
    assert "'unused'" in dataset.notes[0]
    with pytest.raises(UserError, match=r"categories\[0\] \(id 4\): name must be a class of the m"):
        read_coco(*paths, class_names=("a",))


def test_splits_share_the_classes_of_the_first(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    train = write(tmp_path / "one", [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], [(0, 2)])
    val = write(tmp_path / "two", [{"id": 2, "name": "a"}, {"id": 1, "name": "b"}], [(0, 2)])
    datasets = read_splits({"train": Split(*train), "val": Split(*val, notes=("take care",))})
    assert datasets["train"].labels.tolist() == [1]
    assert datasets["val"].labels.tolist() == [0]
    assert datasets["val"].category_ids == (2, 1)
    assert datasets["val"].notes == ("take care",)


def test_problems_of_all_splits_are_reported_at_once(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    train = write(tmp_path / "one", [{"id": 1, "name": "a"}], [(7, 1)])
    val = write(tmp_path / "two", [{"id": 1, "name": "a"}], [(0, 9)])
    with pytest.raises(UserError) as caught:
        read_splits({"train": Split(*train), "val": Split(*val)})
    for part in (f"{train[0]}: 1 problem", f"{val[0]}: 1 problem", "got 7", "got 9"):
        assert part in str(caught.value)


def test_select_and_concatenate_keep_every_instance_whole():
    parts = [
        masks_of([[[0, 0, 4, 0, 4, 4], [5, 5, 6, 5, 6, 9]]], frame=(10, 10)),
        masks_of(runs=[[11, 3, 86]], frame=(10, 10)),
        masks_of([[]], frame=(10, 10)),
        masks_of([[[1, 1, 2, 1, 2, 3]]], frame=(10, 10)),
    ]
    masks = concatenate(parts)
    for index in ([0, 1, 2, 3], [3, 0], [1], [2, 2, 1, 0, 0], []):
        expected = concatenate([parts[i] for i in index]).tensors()
        actual = select(masks, torch.tensor(index, dtype=torch.int64)).tensors()
        for field, tensor in expected.items():
            assert torch.equal(actual[field], tensor), field
    assert mask_boxes(masks).tolist() == [[0, 0, 6, 9], [1, 1, 2, 4], [0, 0, 0, 0], [1, 1, 2, 3]]


def test_transformed_composes():
    masks = masks_of([[[0, 0, 4, 0, 4, 4]]])
    twice = transformed(transformed(masks, (2, 3), (5, 7)), (-1, 0.5), (10, 0))
    assert twice.transform.tolist() == [[-2, 1.5, 5, 3.5]]
    shifted = transformed(masks, (1, 1), (0.1, 0)).transform  # rounded as boxes are
    assert shifted[0, 2] == torch.tensor(0.1, dtype=torch.float32)
