"""Average precision as LVIS defines it (Gupta et al., CVPR 2019): a federated data set.

An image is annotated for some of the categories only. It counts for a category that it holds
objects of, or that is known to be absent (`neg_category_ids`); detections of others are left out.
Where objects of a category may lack annotations (`not_exhaustive_category_ids`), detections without
an object are no errors. All else is COCO's matching, without crowd regions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_codec

from mrcnn.analysis import RECALLS, Floats, Ints
from mrcnn.coco_scores import AREAS, FIELDS, Kind, check_entries, mean_known, precision_figures
from mrcnn.data.coco_truth import Record, encoded_mask, filled_truth
from mrcnn.data.problems import shown
from mrcnn.errors import UserError

MAX_DETECTIONS = 300  # an image, of all categories together
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}  # in less than 10, 100, or more images

_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # pixels, of AREAS
_IOUS = np.linspace(0.5, 0.95, 10)

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Matched:
    """D detections of a category in an image beside its G objects, for A areas and T IoUs."""

    scores: Floats  # (D,) best first
    correct: Flags  # (A, T, D)
    ignored: Flags  # (A, T, D) neither right nor wrong
    objects: Ints  # (A,) that count


def score_lvis(
    truth: Record,
    entries: Sequence[Record],
    kind: Kind,
    max_detections: int = MAX_DETECTIONS,
    image_ids: Collection[int] | None = None,
) -> dict[str, float]:
    """Score detections as LVIS does.

    The area of a detected mask is that of its pixels, as the `lvis` package has it for entries
    without a `bbox`.

    Args:
        truth: content of an LVIS annotation file.
        entries: of a COCO result file.
        kind: whether boxes or masks are compared.
        max_detections: an image; the best ones count.
        image_ids: score these images only.
    Returns:
        AP, AP50, AP75, APs, APm, APl, APr, APc, APf (of rare, common and frequent categories), AR,
        ARs, ARm, ARl; and of every class AP/<class>, … as `score_results` has them; -1 where there
        is no ground truth.
    Raises:
        UserError: if the annotations are not of LVIS, or an entry is wrong.
    """
    check_lvis(truth, "ground truth")
    check_entries(entries, [kind], truth, "results")
    kept = {image["id"] for image in truth["images"]}
    if image_ids is not None:
        kept &= set(image_ids)
    categories = sorted(truth["categories"], key=lambda category: int(category["id"]))
    objects, found, open_pairs = _by_category(truth, entries, kept, max_detections)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    precision = np.full((len(_IOUS), len(RECALLS), len(categories), len(AREAS)), -1.0)
    recall = np.full((len(_IOUS), len(categories), len(AREAS)), -1.0)
    for k, category in enumerate(categories):
        own, hits = objects[category["id"]], found[category["id"]]
        matched = [
            _match(own[id], hits[id], kind, sizes[id], (id, category["id"]) in open_pairs)
            for id in sorted(own.keys() | hits.keys())
        ]
        for a in range(len(AREAS)):
            curves = _curves(matched, a)
            if curves is not None:
                precision[:, :, k, a], recall[:, k, a] = curves
    return _figures(precision, recall, categories)


def check_lvis(truth: Record, source: str) -> None:
    """Raise UserError, naming `source`, unless annotations say what LVIS scores need."""
    for place, record in enumerate(truth["images"]):
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            if not isinstance(record.get(field), list):
                raise UserError(
                    f"{source}: images[{place}].{field} must be a list of category ids, got "
                    f"{shown(record.get(field))}; LVIS scores need an LVIS annotation file"
                )
    for place, record in enumerate(truth["categories"]):
        if record.get("frequency") not in FREQUENCIES:
            raise UserError(
                f"{source}: categories[{place}].frequency must be r, c or f, got "
                f"{shown(record.get('frequency'))}; LVIS scores need an LVIS annotation file"
            )


_Grouped = dict[int, dict[int, list[Record]]]  # category id -> image id -> records


def _by_category(
    truth: Record, entries: Sequence[Record], kept: Collection[int], max_detections: int
) -> tuple[_Grouped, _Grouped, set[tuple[int, int]]]:
    """Objects; detections that count, best first; and the (image, category) pairs whose objects may
    lack annotations."""
    objects: _Grouped = defaultdict(lambda: defaultdict(list))
    for record in filled_truth(truth, kept)["annotations"]:
        objects[record["category_id"]][record["image_id"]].append(record)
    images = [image for image in truth["images"] if image["id"] in kept]
    absent = {(image["id"], id) for image in images for id in image["neg_category_ids"]}
    open_pairs = {(i["id"], id) for i in images for id in i["not_exhaustive_category_ids"]}
    of_image: dict[int, list[Record]] = defaultdict(list)
    for entry in entries:
        if entry["image_id"] in kept:
            of_image[entry["image_id"]].append(entry)
    found: _Grouped = defaultdict(lambda: defaultdict(list))
    for image_id, of_one in of_image.items():
        of_one.sort(key=lambda entry: -float(entry["score"]))  # stable: equals keep their order
        for entry in of_one[:max_detections]:
            category = entry["category_id"]
            if (image_id, category) in absent or image_id in objects[category]:
                found[category][image_id].append(entry)
    return objects, found, open_pairs


def _match(
    objects: list[Record], found: list[Record], kind: Kind, size: tuple[int, int], is_open: bool
) -> Matched:
    """Match as COCO does, at all areas and IoUs at once.

    Best score first, each detection takes the free object that it overlaps most, of equals the
    later one; objects of another area only where none of this area is left.
    """
    areas = np.array([record["area"] for record in objects], np.float64)
    shapes = [entry[FIELDS[kind]] for entry in found]
    if kind == "bbox":
        true_shapes = [record["bbox"] for record in objects]
        found_areas = np.array([box[2] * box[3] for box in shapes], np.float64)
    else:
        true_shapes = [encoded_mask(record["segmentation"], *size) for record in objects]
        found_areas = np.array([float(rle_codec.area(shape)) for shape in shapes], np.float64)
    outside = _outside(areas)  # (A, G)
    shape = len(AREAS), len(_IOUS), len(found)
    correct, is_matched = np.zeros(shape, bool), np.zeros(shape, bool)
    if objects and found:
        ious = rle_codec.iou(shapes, true_shapes, [0] * len(objects))
        free = np.ones((len(AREAS), len(_IOUS), len(objects)), bool)
        for d in np.flatnonzero(ious.max(axis=1) >= _IOUS[0]):
            near = free & (ious[d] >= np.minimum(_IOUS, 1 - 1e-10)[:, None])  # as in COCOeval
            wanted = near & ~outside[:, None]
            is_right = wanted.any(axis=2)
            wanted = np.where(is_right[..., None], wanted, near)
            overlaps = np.where(wanted, ious[d], -1)[..., ::-1]
            taken = len(objects) - 1 - overlaps.argmax(axis=2)  # (A, T)
            is_matched[..., d], correct[..., d] = near.any(axis=2), is_right
            a, t = np.nonzero(is_matched[..., d])
            free[a, t, taken[a, t]] = False
    excused = is_open | _outside(found_areas)[:, None]  # (A, 1, D)
    return Matched(
        scores=np.array([entry["score"] for entry in found], np.float64),
        correct=correct,
        ignored=np.where(is_matched, ~correct, excused),
        objects=(~outside).sum(axis=1),
    )


def _outside(areas: Floats) -> Flags:
    """(A, K) whether each of K areas lies out of each range."""
    outside: Flags = (areas < _RANGES[:, :1]) | (areas > _RANGES[:, 1:])
    return outside


def _curves(matched: Sequence[Matched], a: int) -> tuple[Floats, Floats] | None:
    """(T, 101) precision and (T,) recall of a category at one area; None without objects."""
    objects = sum(int(image.objects[a]) for image in matched)
    if not objects:
        return None
    order = np.argsort(-_joined(image.scores for image in matched), kind="stable")
    correct = _joined(image.correct[a] for image in matched)[:, order]
    ignored = _joined(image.ignored[a] for image in matched)[:, order]
    right, wrong = correct.cumsum(axis=1), (~correct & ~ignored).cumsum(axis=1)
    recall = right / objects
    exact = right / (right + wrong + np.spacing(1))  # as in COCOeval
    highest = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
    reached = np.pad(highest, ((0, 0), (0, 1)))
    places = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    precision = np.stack([row[place] for row, place in zip(reached, places, strict=True)])
    return precision, recall[:, -1] if recall.size else np.zeros(len(_IOUS))


def _joined(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(list(parts), axis=-1)


def _figures(precision: Floats, recall: Floats, categories: Sequence[Record]) -> dict[str, float]:
    frequency = np.array([category["frequency"] for category in categories])
    figures = precision_figures(precision)
    for letter in FREQUENCIES:
        figures[f"AP{letter}"] = mean_known(precision[:, :, frequency == letter, 0])
    figures |= {f"AR{a}": mean_known(recall[:, :, i]) for a, i in AREAS.items()}
    for k, category in enumerate(categories):
        own = precision_figures(precision[:, :, k : k + 1]) | {"AR": mean_known(recall[:, k, 0])}
        figures |= {f"{figure}/{category['name']}": value for figure, value in own.items()}
    return figures
