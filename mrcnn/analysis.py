"""What a detector gets right and wrong: precision and recall, confusions, kinds of errors.

Everything starts from `compare`. N images, C classes (the categories in ascending order of their
ids), D detections and G annotations of an image.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_codec

from mrcnn.data.coco_truth import Record, encoded_mask, filled_truth

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECALLS = np.linspace(0, 1, 101)  # where COCO reads precision
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}  # COCO's; from this area on, pixels
DEFAULT_SCORE = 0.5  # taken where no score is better than another
TOUCHING = 0.1  # IoU from which a detection has to do with an object, as in TIDE (ECCV 2020)

FOUND = ("correct", "duplicate", "class", "location", "class and location", "background")
OBJECTS = ("found", "class", "location", "missed")


@dataclass(frozen=True)
class ImagePair:
    """The annotations of an image beside what was found in it."""

    image_id: int
    labels: Ints  # (G,) in [0, C), in the order of the file
    crowd: NDArray[np.bool_]  # (G,)
    areas: Floats  # (G,) pixels
    found: Ints  # (D,) positions in the result entries, best score first
    found_labels: Ints  # (D,) in [0, C)
    scores: Floats  # (D,)
    found_areas: Floats  # (D,) pixels
    ious: Floats  # (D, G); of a crowd region, the part of the detection that lies inside


@dataclass(frozen=True)
class Curves:
    """Precision and recall of all detections from a score on, over a range of scores."""

    scores: Floats  # (S,)
    precision: Floats  # (S,), NaN where nothing is found
    recall: Floats  # (S,)
    f1: Floats  # (S,)

    def best(self) -> int:
        """Position of the best F1, the lowest score of equals; without any, of `DEFAULT_SCORE`."""
        default = int(np.searchsorted(self.scores, DEFAULT_SCORE))
        return int(self.f1.argmax()) if self.f1.any() else default


@dataclass(frozen=True)
class Outcomes:
    """What became of K detections and M objects; crowd regions, and what lies there, left out."""

    found_kind: Ints  # (K,) into FOUND
    found_label: Ints  # (K,)
    found_area: Floats  # (K,) pixels
    found_image: Ints  # (K,) position of the image
    found_entry: Ints  # (K,) position in the result entries
    object_kind: Ints  # (M,) into OBJECTS
    object_label: Ints  # (M,)
    object_area: Floats  # (M,) pixels
    object_image: Ints  # (M,) position of the image
    object_place: Ints  # (M,) position among the annotations of the image

    def found_counts(self, groups: Ints, num_groups: int) -> Ints:
        """(num_groups, 6) detections of each group and kind; groups is (K,)."""
        return _tally(groups, self.found_kind, (num_groups, len(FOUND)))

    def object_counts(self, groups: Ints, num_groups: int) -> Ints:
        """(num_groups, 4) objects of each group and kind; groups is (M,)."""
        return _tally(groups, self.object_kind, (num_groups, len(OBJECTS)))

    def f1(self, num_images: int) -> Floats:
        """(N,) F1 of each image; 1 where there was nothing to find and nothing is found."""
        found = self.found_counts(self.found_image, num_images)
        objects = self.object_counts(self.object_image, num_images)
        both = found.sum(axis=1) + objects.sum(axis=1)
        return np.where(both > 0, 2 * found[:, 0] / np.maximum(both, 1), 1.0)


def compare(
    truth: Record,
    entries: Sequence[Record],
    kind: Literal["bbox", "segm"],
    max_detections: int = 100,
    image_ids: Collection[int] | None = None,
) -> Iterator[ImagePair]:
    """Pair ground truth and detections image by image, in ascending order of the image ids.

    As for COCO's figures, detections of unknown categories are left out, and of an image and
    class the best count. A list of the pairs takes 8 bytes for every detection times annotation
    of an image: about 30 MB for COCO's 5,000 validation images.

    Args:
        truth: content of a COCO annotation file; `area`, `bbox` and `iscrowd` may be absent.
        entries: of a COCO result file.
        kind: whether boxes or masks are compared.
        max_detections: an image and class.
        image_ids: take these images only.
    """
    label_of = {id: label for label, id in enumerate(sorted(c["id"] for c in truth["categories"]))}
    known = {image["id"] for image in truth["images"]}
    filled = filled_truth(truth, known if image_ids is None else known & set(image_ids))
    annotations: dict[int, list[Record]] = {image["id"]: [] for image in filled["images"]}
    found: dict[int, list[int]] = {image["id"]: [] for image in filled["images"]}
    for record in filled["annotations"]:
        annotations[record["image_id"]].append(record)
    for position, entry in enumerate(entries):
        if entry["image_id"] in found and entry["category_id"] in label_of:
            found[entry["image_id"]].append(position)

    for image in sorted(filled["images"], key=lambda image: int(image["id"])):
        objects, positions = annotations[image["id"]], np.array(found[image["id"]], np.int64)
        labels = np.array([label_of[entries[p]["category_id"]] for p in positions], np.int64)
        scores = np.array([entries[p]["score"] for p in positions], np.float64)
        order = np.argsort(-scores, kind="stable")
        order = order[_rank_in_class(labels[order]) < max_detections]
        best = [entries[p] for p in positions[order]]
        crowd = np.array([bool(record["iscrowd"]) for record in objects], bool)
        if kind == "bbox":
            shapes: list[Any] = [entry["bbox"] for entry in best]
            true_shapes: list[Any] = [record["bbox"] for record in objects]
            found_areas = [box[2] * box[3] for box in shapes]
        else:
            shapes = [entry["segmentation"] for entry in best]
            size = image["height"], image["width"]
            true_shapes = [encoded_mask(record["segmentation"], *size) for record in objects]
            # One by one: pycocotools 2.0.11 cannot count more than 255 masks in a call.
            found_areas = [float(rle_codec.area(shape)) for shape in shapes]
        ious = rle_codec.iou(shapes, true_shapes, crowd.tolist()) if shapes and objects else []
        yield ImagePair(
            image_id=image["id"],
            labels=np.array([label_of[record["category_id"]] for record in objects], np.int64),
            crowd=crowd,
            areas=np.array([record["area"] for record in objects], np.float64),
            found=positions[order],
            found_labels=labels[order],
            scores=scores[order],
            found_areas=np.array(found_areas, np.float64),
            ious=np.array(ious, np.float64).reshape(len(best), len(objects)),
        )


def match(pair: ImagePair, iou: float = 0.5) -> Ints:
    """Match detections to annotations of their class, as COCO does.

    Best score first, each takes the free object that it overlaps most, and else the crowd region,
    which stays free for others.

    Returns:
        (D,) position of the annotation, -1 without one.
    """
    matched = np.full(len(pair.found), -1)
    free = ~pair.crowd
    near = pair.found_labels[:, None] == pair.labels
    near &= pair.ious >= min(iou, 1 - 1e-10)  # as in COCOeval
    for d in np.flatnonzero(near.any(axis=1)):
        for allowed in (near[d] & free, near[d] & pair.crowd):
            if allowed.any():
                matched[d] = _last_argmax(np.where(allowed, pair.ious[d], -1))
                free[matched[d]] = False
                break
    return matched


def precision_at_recalls(pairs: Iterable[ImagePair], num_classes: int, iou: float = 0.5) -> Floats:
    """COCO's precision-recall curves.

    Returns:
        (C, 101) the highest precision at each of `RECALLS` or beyond, 0 where that recall is not
        reached; -1 for a class without objects. The mean of a row is the class's AP at this IoU.
    """
    objects = np.zeros(num_classes, np.int64)
    scores, labels, correct = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for pair in pairs:
        objects += np.bincount(pair.labels[~pair.crowd], minlength=num_classes)
        counts, is_correct = _judged(pair, iou)
        scores.append(pair.scores[counts])
        labels.append(pair.found_labels[counts])
        correct.append(is_correct[counts])
    all_labels, all_correct = np.concatenate(labels), np.concatenate(correct)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    precision = np.full((num_classes, len(RECALLS)), -1.0)
    for label in np.flatnonzero(objects):
        hits = all_correct[order[all_labels[order] == label]]
        recall = np.cumsum(hits) / objects[label]
        exact = np.cumsum(hits) / (np.arange(1, len(hits) + 1) + np.spacing(1))  # as in COCOeval
        highest = np.maximum.accumulate(exact[::-1])[::-1]
        place = np.searchsorted(recall, RECALLS, side="left")
        precision[label] = np.append(highest, 0.0)[place]
    return precision


def score_curves(pairs: Iterable[ImagePair], iou: float = 0.5) -> Curves:
    """Precision, recall and F1 over all classes together, at scores 0.01, 0.02, … 0.99."""
    thresholds = np.arange(1, 100) / 100
    found = correct = np.zeros(len(thresholds), np.int64)
    objects = 0
    for pair in pairs:
        counts, is_correct = _judged(pair, iou)
        reached = pair.scores >= thresholds[:, None]  # (S, D)
        found = found + (reached & counts).sum(axis=1)
        correct = correct + (reached & is_correct).sum(axis=1)
        objects += int((~pair.crowd).sum())
    return Curves(
        scores=thresholds,
        precision=np.where(found > 0, correct / np.maximum(found, 1), np.nan),
        recall=correct / max(objects, 1),
        f1=2 * correct / np.maximum(found + objects, 1),
    )


def confusion_matrix(
    pairs: Iterable[ImagePair], num_classes: int, score: float, iou: float = 0.5
) -> Ints:
    """Count which class is found as which.

    Detections with at least this score take the objects of their class as in `match`; those left
    over, best score first, the free object of any class that they overlap most, by `iou` at least.

    Returns:
        (C + 1, C + 1): the row is the class of the object, the column that of the detection. The
        last row counts detections left without an object, which may be duplicates; the last
        column objects left without a detection.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for pair in pairs:
        count = int((pair.scores >= score).sum())
        matched = match(pair, iou)[:count]
        free = ~pair.crowd
        free[matched[matched >= 0]] = False
        for d, place in enumerate(matched):
            if place < 0:
                overlaps = np.where(free, pair.ious[d], -1)
                if overlaps.size and overlaps.max() >= min(iou, 1 - 1e-10):
                    place = _last_argmax(overlaps)
                    free[place] = False
            if place < 0:
                matrix[num_classes, pair.found_labels[d]] += 1
            elif not pair.crowd[place]:
                matrix[pair.labels[place], pair.found_labels[d]] += 1
        np.add.at(matrix[:, num_classes], pair.labels[free], 1)
    return matrix


def outcomes(pairs: Iterable[ImagePair], score: float, iou: float = 0.5) -> Outcomes:
    """Tell what became of every detection with at least this score, and of every object.

    A detection that `match` gives an object is correct. Any other is judged by the object that it
    overlaps most (at equal overlap, one of its class): from `iou` on it is a duplicate if the
    class is its own, else wrong in its class; from `TOUCHING` on wrong in its location, or in both;
    below that it is background. An object is found, or wrong detections of the kinds "class" or
    "location" were judged by it, the former first, or it is missed. The kinds are those of TIDE
    (Bolya et al., ECCV 2020), which compares classes separately.
    """
    found: list[tuple[Any, ...]] = []
    objects: list[tuple[Any, ...]] = []
    for number, pair in enumerate(pairs):
        counts, is_correct = _judged(pair, iou)
        counts &= pair.scores >= score
        is_correct &= counts
        kinds, judge = _error_kinds(pair, iou)
        kinds[is_correct] = FOUND.index("correct")
        found += zip(
            kinds[counts],
            pair.found_labels[counts],
            pair.found_areas[counts],
            [number] * int(counts.sum()),
            pair.found[counts],
            strict=True,
        )
        fate = np.full(len(pair.labels), OBJECTS.index("missed"))
        for kind in ("location", "class"):  # the latter prevails
            fate[judge[counts & (kinds == FOUND.index(kind))]] = OBJECTS.index(kind)
        fate[match(pair, iou)[is_correct]] = OBJECTS.index("found")
        real = np.flatnonzero(~pair.crowd)
        objects += zip(
            fate[real],
            pair.labels[real],
            pair.areas[real],
            [number] * len(real),
            real,
            strict=True,
        )
    return Outcomes(*_columns(found), *_columns(objects))


def size_of(areas: Floats) -> Ints:
    """Position in `SIZES` of each area in pixels."""
    return np.searchsorted(list(SIZES.values()), areas, side="right") - 1


def _tally(groups: Ints, kinds: Ints, shape: tuple[int, int]) -> Ints:
    return np.bincount(groups * shape[1] + kinds, minlength=math.prod(shape)).reshape(shape)


def _judged(pair: ImagePair, iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(D,) detections that count, those in crowd regions left out; (D,) those that are correct."""
    matched = match(pair, iou)
    ignored = np.append(pair.crowd, False)[matched]  # -1, without an object, takes the last
    return ~ignored, (matched >= 0) & ~ignored


def _error_kinds(pair: ImagePair, iou: float) -> tuple[Ints, Ints]:
    """(D,) into FOUND, as if no detection were correct; (D,) the object judged by, if any."""
    same = pair.found_labels[:, None] == pair.labels  # (D, G)
    overlaps = np.where(pair.crowd, -1.0, pair.ious)
    # A column of no overlap keeps the maximum of an image without objects defined.
    padded = np.pad(overlaps, ((0, 0), (0, 1)), constant_values=-1.0)
    most = padded.max(axis=1)
    ours = np.where(same, overlaps, -1.0)
    own = np.pad(ours, ((0, 0), (0, 1)), constant_values=-1.0)
    is_same = own.max(axis=1) == most
    judge = np.where(is_same, own.argmax(axis=1), padded.argmax(axis=1))
    near, touching = most >= min(iou, 1 - 1e-10), most >= TOUCHING
    kinds = np.select(
        [near & is_same, near, touching & is_same, touching],
        [FOUND.index(k) for k in ("duplicate", "class", "location", "class and location")],
        FOUND.index("background"),
    )
    return kinds, judge


def _rank_in_class(labels: Ints) -> Ints:
    """How many of the same label stand before each."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order], side="left")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - first
    return ranks


def _last_argmax(values: Floats) -> int:
    """COCOeval gives a tie to the later object."""
    return len(values) - 1 - int(values[::-1].argmax())


def _columns(rows: list[tuple[Any, ...]]) -> list[NDArray[Any]]:
    kinds = (np.int64, np.int64, np.float64, np.int64, np.int64)
    return [np.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
