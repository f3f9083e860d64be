"""Matching of detections with annotations: precision and recall, confusions, kinds of errors.

All functions take the result of `pair_images`. There are N images, C classes (the categories in
ascending order of their ids), and D detections and G annotations per image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.coco.truth import Record
from mrcnn.evaluation.coco import FIELDS, Kind
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.ops import rle

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECALLS = np.linspace(0, 1, 101)  # at which COCO samples precision
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}  # COCO's: smallest area of each, pixels
DEFAULT_SCORE = 0.5  # used where no score is better than another
TOUCHING = 0.1  # lowest IoU of a localization error, as in TIDE (ECCV 2020)

DETECTION_KINDS = ("correct", "duplicate", "class", "location", "class and location", "background")
OBJECT_KINDS = ("found", "class", "location", "missed")


@dataclass(frozen=True)
class ImagePair:
    """Annotations and detections of one image."""

    image_id: int
    labels: Ints  # (G,) in [0, C), in the order of the file
    crowd: NDArray[np.bool_]  # (G,)
    areas: Floats  # (G,) pixels
    entries: Ints  # (D,) positions in the result entries, best score first
    detection_labels: Ints  # (D,) in [0, C)
    scores: Floats  # (D,)
    detection_areas: Floats  # (D,) pixels
    ious: Floats  # (D, G); of a crowd region, the share of the detection inside it


@dataclass(frozen=True)
class Curves:
    """Precision and recall of all detections above a score, over a range of scores."""

    scores: Floats  # (S,)
    precision: Floats  # (S,), NaN without detections
    recall: Floats  # (S,)
    f1: Floats  # (S,)

    def best(self) -> int:
        """Return the position of the best F1: of equals the lowest, of zeros `DEFAULT_SCORE`."""
        default = int(np.searchsorted(self.scores, DEFAULT_SCORE))
        return int(self.f1.argmax()) if self.f1.any() else default


@dataclass(frozen=True)
class Outcomes:
    """Kinds of K detections or objects, without crowd regions and the detections in them."""

    kinds: tuple[str, ...]  # DETECTION_KINDS or OBJECT_KINDS
    kind: Ints  # (K,) positions in `kinds`
    label: Ints  # (K,)
    area: Floats  # (K,) pixels
    image: Ints  # (K,) position of the image
    position: Ints  # (K,) among the result entries, or among the annotations of the image

    def counts(self, groups: Ints, num_groups: int) -> Ints:
        """Count by group (K,) and kind: (num_groups, kinds)."""
        shape = num_groups, len(self.kinds)
        cells = np.bincount(groups * shape[1] + self.kind, minlength=math.prod(shape))
        return cells.reshape(shape)

    def totals(self) -> dict[str, int]:
        """Return the number of each kind."""
        counts = np.bincount(self.kind, minlength=len(self.kinds))
        return dict(zip(self.kinds, counts.tolist(), strict=True))


def pair_images(
    truth: GroundTruth, entries: Sequence[Record], kind: Kind, max_detections: int = 100
) -> Iterator[ImagePair]:
    """Pair annotations and detections image by image, in ascending order of the image ids.

    As for COCO's metrics, detections of unknown categories are left out, and the best count per
    image and class. A list of the pairs takes 8 bytes for every detection times annotation of an
    image: about 30 MB for COCO's 5,000 validation images.

    Args:
        truth: Annotations of the images that count.
        entries: Checked entries of a result file.
        kind: Whether boxes or masks are compared.
        max_detections: Number of detections that count, per image and class.
    """
    label_of = {category["id"]: label for label, category in enumerate(truth.categories)}
    images = sorted(truth.records["images"], key=lambda image: int(image["id"]))
    annotations: dict[int, list[Record]] = {image["id"]: [] for image in images}
    positions_of: dict[int, list[int]] = {image["id"]: [] for image in images}
    for record in truth.drawn if kind == "segm" else truth.records["annotations"]:
        annotations[record["image_id"]].append(record)
    for position, entry in enumerate(entries):
        if entry["image_id"] in positions_of and entry["category_id"] in label_of:
            positions_of[entry["image_id"]].append(position)

    for image in images:
        objects = annotations[image["id"]]
        positions = np.array(positions_of[image["id"]], np.int64)
        labels = np.array([label_of[entries[p]["category_id"]] for p in positions], np.int64)
        scores = np.array([entries[p]["score"] for p in positions], np.float64)
        order = np.argsort(-scores, kind="stable")
        order = order[_rank_in_class(labels[order]) < max_detections]
        shapes: list[Any] = [entries[p][FIELDS[kind]] for p in positions[order]]
        crowd = np.array([bool(record["iscrowd"]) for record in objects], bool)
        if kind == "bbox":
            true_shapes: list[Any] = [record["bbox"] for record in objects]
            areas = [box[2] * box[3] for box in shapes]
        else:
            true_shapes = [record["segmentation"] for record in objects]
            areas = [float(rle.area(shape)) for shape in shapes]
        yield ImagePair(
            image_id=image["id"],
            labels=np.array([label_of[record["category_id"]] for record in objects], np.int64),
            crowd=crowd,
            areas=np.array([record["area"] for record in objects], np.float64),
            entries=positions[order],
            detection_labels=labels[order],
            scores=scores[order],
            detection_areas=np.array(areas, np.float64),
            ious=rle.iou(shapes, true_shapes, crowd.tolist()),
        )


def match(pair: ImagePair, iou: float = 0.5) -> Ints:
    """Match detections to annotations of their class, as COCO does.

    Best score first, each detection takes the free object that it overlaps most, or else the crowd
    region, which stays free for others.

    Returns:
        Position of the annotation of each detection, (D,); -1 without one.
    """
    matched = np.full(len(pair.entries), -1)
    free = ~pair.crowd
    near = pair.detection_labels[:, None] == pair.labels
    near &= pair.ious >= min(iou, 1 - 1e-10)  # as in COCOeval
    for d in np.flatnonzero(near.any(axis=1)):
        for allowed in (near[d] & free, near[d] & pair.crowd):
            if allowed.any():
                matched[d] = _last_argmax(np.where(allowed, pair.ious[d], -1))
                free[matched[d]] = False
                break
    return matched


def precision_at_recalls(pairs: Iterable[ImagePair], num_classes: int, iou: float = 0.5) -> Floats:
    """Compute COCO's precision-recall curves.

    Returns:
        Highest precision at each of `RECALLS` or beyond, (C, 101); 0 where that recall is not
        reached, -1 for a class without objects. The mean of a row is the class's AP at this IoU.
    """
    objects = np.zeros(num_classes, np.int64)
    scores, labels, correct = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for pair in pairs:
        objects += np.bincount(pair.labels[~pair.crowd], minlength=num_classes)
        counts, is_correct = _correct(pair, iou)
        scores.append(pair.scores[counts])
        labels.append(pair.detection_labels[counts])
        correct.append(is_correct[counts])
    all_labels, all_correct = np.concatenate(labels), np.concatenate(correct)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    precision = np.full((num_classes, len(RECALLS)), -1.0)
    for label in np.flatnonzero(objects):
        hits = all_correct[order[all_labels[order] == label]]
        recall = np.cumsum(hits) / objects[label]
        exact = np.cumsum(hits) / (np.arange(1, len(hits) + 1) + np.spacing(1))  # as in COCOeval
        highest = np.maximum.accumulate(exact[::-1])[::-1]
        position = np.searchsorted(recall, RECALLS, side="left")
        precision[label] = np.append(highest, 0.0)[position]
    return precision


def score_curves(pairs: Iterable[ImagePair], iou: float = 0.5) -> Curves:
    """Compute precision, recall and F1 of all classes together, at scores 0.01, 0.02, … 0.99."""
    thresholds = np.arange(1, 100) / 100
    detected = correct = np.zeros(len(thresholds), np.int64)
    objects = 0
    for pair in pairs:
        counts, is_correct = _correct(pair, iou)
        reached = pair.scores >= thresholds[:, None]  # (S, D)
        detected = detected + (reached & counts).sum(axis=1)
        correct = correct + (reached & is_correct).sum(axis=1)
        objects += int((~pair.crowd).sum())
    return Curves(
        scores=thresholds,
        precision=np.where(detected > 0, correct / np.maximum(detected, 1), np.nan),
        recall=correct / max(objects, 1),
        f1=2 * correct / np.maximum(detected + objects, 1),
    )


def confusion_matrix(
    pairs: Iterable[ImagePair], num_classes: int, score: float, iou: float = 0.5
) -> Ints:
    """Count detections by the class of their object and their own.

    Detections with at least this score take the objects of their class as in `match`. The others,
    best score first, take the free object of any class that they overlap most, by `iou` at least.

    Returns:
        Counts (C + 1, C + 1): the row is the class of the object, the column that of the detection.
        The last row counts detections without an object, which may be duplicates; the last column
        counts objects without a detection.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for pair in pairs:
        count = int((pair.scores >= score).sum())
        matched = match(pair, iou)[:count]
        free = ~pair.crowd
        free[matched[matched >= 0]] = False
        for d, position in enumerate(matched):
            if position < 0:
                overlaps = np.where(free, pair.ious[d], -1)
                if overlaps.size and overlaps.max() >= min(iou, 1 - 1e-10):
                    position = _last_argmax(overlaps)
                    free[position] = False
            if position < 0:
                matrix[num_classes, pair.detection_labels[d]] += 1
            elif not pair.crowd[position]:
                matrix[pair.labels[position], pair.detection_labels[d]] += 1
        np.add.at(matrix[:, num_classes], pair.labels[free], 1)
    return matrix


def outcomes(
    pairs: Iterable[ImagePair], score: float, iou: float = 0.5
) -> tuple[Outcomes, Outcomes]:
    """Classify every detection with at least this score, and every object, of one image or more.

    A detection that `match` gives an object is correct. Any other is compared with the object that
    it overlaps most (at equal overlap, one of its class). With an IoU of at least `iou` it is a
    duplicate if the class is the same, else wrong in its class; of at least `TOUCHING`, wrong in
    its location, or in both; below that it is background. An object is found; or else detections
    of the kinds "class" or "location" were compared with it, the former first; or it is missed.
    The kinds are those of TIDE (Bolya et al., ECCV 2020), which compares classes separately.
    """
    detections: list[tuple[NDArray[Any], ...]] = []
    objects: list[tuple[NDArray[Any], ...]] = []
    for number, pair in enumerate(pairs):
        counts, is_correct = _correct(pair, iou)
        counts &= pair.scores >= score
        is_correct &= counts
        kinds, nearest = _error_kinds(pair, iou)
        kinds[is_correct] = DETECTION_KINDS.index("correct")
        image = np.full(len(kinds), number)
        columns = kinds, pair.detection_labels, pair.detection_areas, image, pair.entries
        detections.append(tuple(column[counts] for column in columns))
        object_kinds = np.full(len(pair.labels), OBJECT_KINDS.index("missed"))
        for kind in ("location", "class"):  # the latter prevails
            is_kind = counts & (kinds == DETECTION_KINDS.index(kind))
            object_kinds[nearest[is_kind]] = OBJECT_KINDS.index(kind)
        object_kinds[match(pair, iou)[is_correct]] = OBJECT_KINDS.index("found")
        position = np.arange(len(object_kinds))
        columns = object_kinds, pair.labels, pair.areas, np.full(len(position), number), position
        objects.append(tuple(column[~pair.crowd] for column in columns))
    detected, annotated = (
        map(np.concatenate, zip(*rows, strict=True)) for rows in (detections, objects)
    )
    return Outcomes(DETECTION_KINDS, *detected), Outcomes(OBJECT_KINDS, *annotated)


def image_f1(detections: Outcomes, objects: Outcomes, num_images: int) -> Floats:
    """Compute the F1 of each image, (N,); 1 without objects and detections."""
    correct = detections.counts(detections.image, num_images)[:, 0]
    both = sum(np.bincount(side.image, minlength=num_images) for side in (detections, objects))
    return np.where(both > 0, 2 * correct / np.maximum(both, 1), 1.0)


def size_of(areas: Floats) -> Ints:
    """Return the position in `SIZES` of each area in pixels."""
    return np.searchsorted(list(SIZES.values()), areas, side="right") - 1


def _correct(pair: ImagePair, iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which detections count, being outside crowd regions, and which are correct, (D,)."""
    matched = match(pair, iou)
    ignored = np.append(pair.crowd, False)[matched]  # -1, no object, takes the last
    return ~ignored, (matched >= 0) & ~ignored


def _error_kinds(pair: ImagePair, iou: float) -> tuple[Ints, Ints]:
    """Return the kind of each detection, were it not correct, and its nearest object, (D,)."""
    # A column of no overlap keeps the maximum of an image without objects defined.
    overlaps = np.where(pair.crowd, -1.0, pair.ious)
    overlaps = np.pad(overlaps, ((0, 0), (0, 1)), constant_values=-1.0)  # (D, G + 1)
    in_class = np.where(pair.detection_labels[:, None] == np.append(pair.labels, -1), overlaps, -1)
    most = overlaps.max(axis=1)
    is_same = in_class.max(axis=1) == most
    nearest = np.where(is_same, in_class.argmax(axis=1), overlaps.argmax(axis=1))
    near, touching = most >= min(iou, 1 - 1e-10), most >= TOUCHING
    # In the order of DETECTION_KINDS, between "correct" and "background".
    conditions = [near & is_same, near, touching & is_same, touching]
    return np.select(conditions, range(1, 5), 5), nearest


def _rank_in_class(labels: Ints) -> Ints:
    """Count the equal labels before each."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order], side="left")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - first
    return ranks


def _last_argmax(values: Floats) -> int:
    """Return the last maximum: COCOeval gives a tie to the later object."""
    return len(values) - 1 - int(values[::-1].argmax())
