"""Detections and ground truth as files, brought together and scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mrcnn.coco_scores import Backend, Kind, score_results
from mrcnn.data.coco import CocoDataset, read_coco
from mrcnn.data.coco_truth import ground_truth
from mrcnn.data.formats import find_splits
from mrcnn.data.problems import shown
from mrcnn.data.subset import subset
from mrcnn.errors import UserError
from mrcnn.lvis_scores import MAX_DETECTIONS, check_lvis, score_lvis

Protocol = Literal["coco", "lvis"]
LIMITS: dict[Protocol, int] = {"coco": 100, "lvis": MAX_DETECTIONS}  # detections by default


def score(
    dataset: CocoDataset,
    entries: Sequence[dict[str, Any]],
    kinds: Sequence[Kind],
    max_detections: int = 100,
    *,
    protocol: Protocol = "coco",
    backend: Backend = "pycocotools",
) -> dict[str, float]:
    """Score the entries of a result file.

    Args:
        dataset: entries of its other images are left out.
        kinds: what every entry has of boxes and masks.
        max_detections: an image and class; by the protocol of LVIS an image.
        backend: of the protocol of COCO.
    Returns:
        The figures of `score_results`, or of `score_lvis`, as bbox_AP, … and segm_AP, …; and
        images, max_detections, and images_at_limit, which have as many detections as are allowed.
    """
    truth = ground_truth(dataset)
    chosen = {int(id) for id in dataset.image_ids}
    metrics: dict[str, float] = {}
    for kind in kinds:
        if protocol == "lvis":
            scores = score_lvis(truth, entries, kind, max_detections, chosen)
        else:
            scores = score_results(truth, list(entries), kind, max_detections, chosen, backend)
        metrics |= {f"{kind}_{name}": value for name, value in scores.items()}
    found = Counter(entry["image_id"] for entry in entries)
    at_limit = sum(found[id] >= max_detections for id in chosen)
    counts = {"images": len(chosen), "max_detections": max_detections, "images_at_limit": at_limit}
    return {**metrics, **counts}


def check_protocol(dataset: CocoDataset, protocol: Protocol) -> None:
    """Raise UserError unless the annotations say what the protocol needs."""
    if protocol == "lvis":
        check_lvis(read_json(dataset.annotations), str(dataset.annotations))


def read_truth(data: Path | None, ground_truth: Path | None, split: str) -> CocoDataset:
    """The annotations to score against; its images are not looked at.

    Args:
        data: folder of a data set.
        ground_truth: annotation file, in place of `data`.
        split: "train" or "val" of `data`.
    Raises:
        UserError: if it is not there, or wrong.
    """
    if (data is None) == (ground_truth is None):
        raise UserError(
            "name either --data, the folder of a data set, or --ground-truth, an annotation file"
        )
    if data is None:
        assert ground_truth is not None
        return read_coco(ground_truth, None)
    found = find_splits(data, needs=(split,))[split]
    dataset = read_coco(found.annotations, None, content=found.content)
    return replace(dataset, notes=(found.note, *dataset.notes) if found.note else dataset.notes)


def chosen_images(dataset: CocoDataset, image_ids: Collection[int] | None) -> CocoDataset:
    """The images with these ids, or all, in the order of the data set; at least one.

    Raises:
        UserError: if there is none, or an id is of none.
    """
    if image_ids is not None:
        ids, taken = dataset.image_ids.tolist(), set(image_ids)
        if unknown := sorted(taken - set(ids)):
            raise UserError(
                f"{dataset.annotations}: has no image with id {unknown[0]} "
                f"({len(unknown)} of the given ids are unknown); correct the list of ids"
            )
        dataset = subset(dataset, [i for i, id in enumerate(ids) if id in taken])
    if not len(dataset):
        raise UserError(f"{dataset.annotations}: holds no images; there is nothing to evaluate")
    return dataset


def unknown_categories(entries: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]) -> str:
    """A sentence about entries that no category of the annotations can match, if there are any."""
    known = {category["id"] for category in truth["categories"]}
    other = Counter(e["category_id"] for e in entries if e["category_id"] not in known)
    if not other:
        return ""
    return (
        f"{other.total()} of {len(entries)} detections are left out: the annotations have no "
        f"category {', '.join(map(shown, sorted(other)[:5]))}"
    )
