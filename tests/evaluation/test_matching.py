"""Errors of a detector are counted: hand-made scenes, and pycocotools' own precision."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from mrcnn.evaluation import matching
from mrcnn.evaluation.matching import ImagePair
from mrcnn.evaluation.truth import GroundTruth
from tests.helpers.random_results import scored_by_pycocotools

CATEGORIES = [{"id": 30, "name": "dog"}, {"id": 7, "name": "cat"}]  # labels 1 and 0
CAT, DOG = 7, 30


def scene(objects: list[tuple], found: list[tuple]) -> tuple[dict, list[dict]]:
    """Annotations (image, category, x, y, width, height[, iscrowd]); detections (…, score)."""
    truth = {
        "images": [{"id": id, "width": 400, "height": 400} for id in (9, 2)],
        "categories": CATEGORIES,
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box,
             "iscrowd": int(bool(crowd)), "area": box[2] * box[3],
             "segmentation": [corners(*box)]}
            for i, (image, category, *box, crowd) in enumerate(
                [o if len(o) == 7 else (*o, 0) for o in objects], start=1)
        ],
    }  # fmt: skip
    entries = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score,
         "segmentation": rle_codec.frPyObjects([corners(*box)], 400, 400)[0]}
        for image, category, *box, score in found
    ]  # fmt: skip
    return truth, entries


def corners(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def compare(truth: dict, entries: list[dict], kind: str, limit: int = 100) -> list[ImagePair]:
    return list(matching.pair_images(GroundTruth.from_records(truth), entries, kind, limit))


def kinds(outcomes: tuple[matching.Outcomes, matching.Outcomes]) -> tuple[list[str], list[str]]:
    detections, objects = ([side.kinds[k] for k in side.kind] for side in outcomes)
    return detections, objects


# An object of 100 x 100 at (100, 100); a box of the same size moved by 20 overlaps with IoU
# 80 / 120 = 0.67, by 40 with 60 / 140 = 0.43, by 90 with 10 / 190 = 0.053.
OBJECT = (2, CAT, 100, 100, 100, 100)
SCENES = {
    "found": ([OBJECT], [(2, CAT, 120, 100, 100, 100, 0.9)], ["correct"], ["found"]),
    "nothing": ([OBJECT], [], [], ["missed"]),
    "no objects": ([], [(2, CAT, 0, 0, 10, 10, 0.9)], ["background"], []),
    "another image": ([OBJECT], [(9, *OBJECT[1:], 0.9)], ["background"], ["missed"]),
    "another class": ([OBJECT], [(2, DOG, *OBJECT[2:], 0.9)], ["class"], ["class"]),
    "far off": ([OBJECT], [(2, CAT, 140, 100, 100, 100, 0.9)], ["location"], ["location"]),
    "off and another": (
        [OBJECT],
        [(2, DOG, 140, 100, 100, 100, 0.9)],
        ["class and location"],
        ["missed"],
    ),
    "too far off": ([OBJECT], [(2, CAT, 190, 100, 100, 100, 0.9)], ["background"], ["missed"]),
    "twice": ([OBJECT], [(*OBJECT, 0.9), (*OBJECT, 0.95)], ["correct", "duplicate"], ["found"]),
    "the better score wins": (
        [OBJECT],
        [(*OBJECT, 0.8), (2, CAT, 120, 100, 100, 100, 0.9)],
        ["correct", "duplicate"],
        ["found"],
    ),
    "below the score": ([OBJECT], [(*OBJECT, 0.2)], [], ["missed"]),
    "wrong in class and in location": (
        [OBJECT],
        [(2, CAT, 140, 100, 100, 100, 0.9), (2, DOG, *OBJECT[2:], 0.8)],
        ["location", "class"],
        ["class"],
    ),
    "both classes": (
        [OBJECT],
        [(2, DOG, *OBJECT[2:], 0.9), (*OBJECT, 0.8)],
        ["class", "correct"],
        ["found"],
    ),
    "one class over the other": (
        [OBJECT, (2, DOG, *OBJECT[2:])],
        [(*OBJECT, 0.9), (*OBJECT, 0.8)],
        ["correct", "duplicate"],
        ["found", "missed"],
    ),
    "equal overlap: the later object": (
        [OBJECT, (2, CAT, 140, 100, 100, 100)],
        [(2, CAT, 120, 100, 100, 100, 0.9), (*OBJECT, 0.8)],
        ["correct", "correct"],
        ["found", "found"],
    ),
    "equal overlap: not the earlier object": (
        [(2, CAT, 140, 100, 100, 100), OBJECT],
        [(2, CAT, 120, 100, 100, 100, 0.9), (*OBJECT, 0.8)],
        ["correct", "duplicate"],
        ["missed", "found"],
    ),
    "in a crowd": (
        [(2, CAT, 0, 0, 400, 400, 1)],
        [(*OBJECT, 0.9), (*OBJECT, 0.8), (2, DOG, *OBJECT[2:], 0.7)],
        ["background"],  # the dog
        [],
    ),
    "an object before the crowd": (
        [(2, CAT, 0, 0, 400, 400, 1), OBJECT],
        [(2, CAT, 120, 100, 100, 100, 0.9)],
        ["correct"],
        ["found"],
    ),
}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("case", SCENES)
def test_kinds_of_errors(case, kind):
    objects, found, found_kinds, object_kinds = SCENES[case]
    pairs = compare(*scene(objects, found), kind)
    assert [pair.image_id for pair in pairs] == [2, 9]
    result = matching.outcomes(pairs, score=0.5)
    assert kinds(result) == (found_kinds, object_kinds)
    matrix = matching.confusion_matrix(pairs, 2, score=0.5)
    correct = found_kinds.count("correct")
    assert np.trace(matrix) == correct
    assert matrix[:2].sum() == len(object_kinds)
    assert matrix[:, :2].sum() == len(found_kinds)


def test_an_iou_at_the_threshold_counts():
    """100 x 50 inside 100 x 100."""
    truth, entries = scene([OBJECT], [(2, CAT, 100, 100, 100, 50, 0.9)])
    pairs = compare(truth, entries, "segm")
    assert pairs[0].ious.tolist() == [[0.5]]
    assert kinds(matching.outcomes(pairs, 0.5)) == (["correct"], ["found"])
    assert kinds(matching.outcomes(pairs, 0.5, iou=0.51)) == (["location"], ["location"])


def test_confusions():
    """A dog called a cat, a cat that is both, a dog missed, a cat out of nowhere, a duplicate."""
    objects = [
        (2, DOG, 0, 0, 50, 50),
        (2, CAT, 100, 0, 50, 50),
        (9, DOG, 0, 0, 50, 50),
        (9, CAT, 200, 200, 50, 50),
    ]
    found = [
        (2, CAT, 0, 0, 50, 50, 0.9),
        (2, DOG, 100, 0, 50, 50, 0.9),
        (2, CAT, 100, 0, 50, 50, 0.8),
        (9, DOG, 0, 0, 50, 50, 0.3),
        (9, CAT, 0, 300, 50, 50, 0.9),
        (9, CAT, 200, 200, 50, 50, 0.9),
        (9, CAT, 200, 200, 50, 50, 0.8),
    ]
    pairs = compare(*scene(objects, found), "segm")
    matrix = matching.confusion_matrix(pairs, 2, score=0.5)
    assert matrix.tolist() == [[2, 0, 0], [1, 0, 1], [2, 1, 0]]
    assert matching.confusion_matrix(pairs, 2, score=0.3)[1].tolist() == [1, 1, 0]


def test_areas_images_and_entries():
    objects = [(9, CAT, 0, 0, 31, 32), (2, CAT, 0, 0, 32, 32), (2, DOG, 0, 0, 96, 96)]
    found = [(9, CAT, 0, 0, 31, 32, 0.5), (2, DOG, 300, 300, 40, 40, 0.9)]
    pairs = compare(*scene(objects, found), "segm")
    detected, annotated = matching.outcomes(pairs, score=0.5)
    assert annotated.image.tolist() == [0, 0, 1]
    assert annotated.position.tolist() == [0, 1, 0]
    assert annotated.label.tolist() == [0, 1, 0]
    sizes = [[*matching.SIZES][i] for i in matching.size_of(annotated.area)]
    assert sizes == ["medium", "large", "small"]
    assert detected.position.tolist() == [1, 0]
    assert detected.area.tolist() == [1600, 992]
    assert detected.label.tolist() == [1, 0]
    assert annotated.counts(annotated.label, 2).tolist() == [[1, 0, 0, 1], [0, 0, 0, 1]]
    assert detected.counts(detected.image, 2)[:, [0, 5]].tolist() == [[0, 1], [1, 0]]


def test_f1_of_images():
    """2 of 3 found and 1 wrong: 2 * 2 / (3 + 3); nothing to find and nothing found is right."""
    objects = [(2, CAT, x, 0, 50, 50) for x in (0, 100, 200)]
    found = [(2, CAT, x, 0, 50, 50, 0.9) for x in (0, 100, 300)]
    for present, expected in ((objects, [4 / 6, 1]), ([], [0, 1])):
        outcomes = matching.outcomes(compare(*scene(present, found), "bbox"), score=0.5)
        assert matching.image_f1(*outcomes, 2).tolist() == expected


def test_curves_over_the_score():
    """Right at 0.9 and 0.6, wrong at 0.7, of four objects."""
    objects = [(2, CAT, x, 0, 50, 50) for x in (0, 100, 200, 300)]
    found = [
        (2, CAT, 0, 0, 50, 50, 0.9),
        (9, CAT, 0, 0, 50, 50, 0.7),
        (2, CAT, 100, 0, 50, 50, 0.6),
    ]
    curves = matching.score_curves(compare(*scene(objects, found), "bbox"))
    at = {round(float(s), 2): i for i, s in enumerate(curves.scores)}
    assert curves.precision[[at[0.9], at[0.7], at[0.6], at[0.01]]].tolist() == pytest.approx(
        [1, 1 / 2, 2 / 3, 2 / 3]
    )
    assert np.isnan(curves.precision[at[0.91]])
    assert curves.recall[[at[0.91], at[0.9], at[0.61], at[0.6]]].tolist() == [0, 0.25, 0.25, 0.5]
    assert curves.f1[at[0.6]] == pytest.approx(2 * 2 / 7)
    assert curves.best() == at[0.01]


def test_the_best_of_a_class_and_image_count():
    found = [(2, CAT, 10 * i, 0, 5, 5, 0.5 + i / 100) for i in range(5)]
    truth, entries = scene([OBJECT], [*found, (2, DOG, 0, 0, 5, 5, 0.1)])
    entries.append({**entries[0], "category_id": 999})
    (pair, _) = compare(truth, entries, "bbox", 2)
    assert pair.entries.tolist() == [4, 3, 5]
    part = GroundTruth.from_records(truth, [9])
    assert [pair.image_id for pair in matching.pair_images(part, entries, "bbox")] == [9]


def test_hundreds_of_detections_in_an_image():
    found = [(2, CAT, i % 20 * 20, i // 20 * 20, 10 + i % 3, 10, 0.5) for i in range(400)]
    objects = [(*box[:4], 10 + i % 3, 10) for i, box in enumerate(found)]
    pairs = compare(*scene(objects, found), "segm", 400)
    assert pairs[0].detection_areas.tolist() == pairs[0].areas.tolist()
    assert matching.outcomes(pairs, 0.5)[0].totals()["correct"] == 400


def precision_of_pycocotools(truth: dict, entries: list[dict], kind: str, limit: int):
    """(IoU thresholds, recalls, classes)."""
    evaluator = scored_by_pycocotools(truth, entries, kind, [limit])
    return evaluator.eval["precision"][:, :, :, 0, 0]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(10))
def test_precision_equals_that_of_pycocotools(seed, kind):
    """Crowds, ties of scores and of overlaps, a limit, classes without objects."""
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> list[tuple]:
        corner, size = rng.integers(0, 6, (count, 2)) * 40, rng.integers(1, 4, (count, 2)) * 40
        images, classes = rng.choice([2, 9], count), rng.choice([CAT, DOG], count, p=[0.8, 0.2])
        return list(zip(images.tolist(), classes.tolist(), *corner.T.tolist(), *size.T.tolist(),
                        strict=True))  # fmt: skip

    objects = [(*box, int(rng.random() < 0.15)) for box in boxes(14)]
    if seed == 0:
        objects = [box for box in objects if box[1] == CAT]
    found = [(*box, rng.integers(1, 8) / 8) for box in boxes(40)]
    truth, entries = scene(objects, found)
    expected = precision_of_pycocotools(truth, entries, kind, limit=12)
    pairs = compare(truth, entries, kind, 12)
    for position, iou in enumerate(np.linspace(0.5, 0.95, 10)):
        precision = matching.precision_at_recalls(pairs, 2, iou)
        np.testing.assert_array_equal(precision, expected[position].T)
    if seed == 0:
        assert (precision[1] == -1).all()


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_precision_on_real_annotations(shared_data, kind):
    folder = shared_data / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    entries = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    expected = precision_of_pycocotools(truth, entries, kind, limit=100)
    pairs = compare(truth, entries, kind)
    for position, iou in ((0, 0.5), (5, 0.75)):
        precision = matching.precision_at_recalls(pairs, expected.shape[2], iou)
        np.testing.assert_array_equal(precision, expected[position].T)
