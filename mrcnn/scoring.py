"""Detections and ground truth as files, brought together and scored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mrcnn.cityscapes_scores import (
    LABELS,
    find_instance_ids,
    read_instance_ids,
    score_cityscapes,
)
from mrcnn.coco_scores import Backend, Kind, score_results
from mrcnn.data.coco import CocoDataset, read_coco
from mrcnn.data.coco_truth import Record, ground_truth
from mrcnn.data.formats import find_splits
from mrcnn.data.problems import shown
from mrcnn.data.subset import subset
from mrcnn.errors import UserError
from mrcnn.lvis_scores import MAX_DETECTIONS, check_lvis, score_lvis

Protocol = Literal["coco", "lvis", "cityscapes"]
Entries = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Judge:
    """Whose figures are computed, and by what."""

    protocol: Protocol = "coco"
    backend: Backend = "pycocotools"  # of COCO's figures
    instance_ids: Path | None = None  # for Cityscapes: the folder of *_gtFine_instanceIds.png

    def limit(self) -> int | None:
        """Detections that count by default: an image and class, for LVIS an image; None is all."""
        limits = {"coco": 100, "lvis": MAX_DETECTIONS, "cityscapes": None}
        return limits[self.protocol]

    def check(self, dataset: CocoDataset) -> None:
        """Raise UserError unless the ground truth says what the protocol needs."""
        if self.protocol == "lvis":
            check_lvis(ground_truth(dataset), str(dataset.annotations))
        if self.protocol == "cityscapes":
            self._instance_files(dataset)
            _cityscapes_labels(dataset)

    def _instance_files(self, dataset: CocoDataset) -> list[Path]:
        if self.instance_ids is None:
            raise UserError("--instance-ids, the folder gtFine, goes with --protocol cityscapes")
        names = [dataset.path(index).name for index in range(len(dataset))]
        return find_instance_ids(self.instance_ids, names)

    def figures(
        self, dataset: CocoDataset, truth: Record, entries: Entries, kind: Kind, limit: int | None
    ) -> dict[str, float]:
        """Of boxes or masks, as `score_results` names them."""
        chosen = {int(id) for id in dataset.image_ids}
        if self.protocol == "cityscapes":
            return self._cityscapes(dataset, entries)
        assert limit is not None
        if self.protocol == "lvis":
            return score_lvis(truth, entries, kind, limit, chosen)
        return score_results(truth, list(entries), kind, limit, chosen, self.backend)

    def _cityscapes(self, dataset: CocoDataset, entries: Entries) -> dict[str, float]:
        of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            of_image[entry["image_id"]].append(entry)
        sizes = [(int(height), int(width)) for height, width in dataset.sizes]
        files = self._instance_files(dataset)
        images = (
            (read_instance_ids(file, size), of_image[int(id)])
            for id, size, file in zip(dataset.image_ids, sizes, files, strict=True)
        )
        return score_cityscapes(images, _cityscapes_labels(dataset))


COCO = Judge()


def score(
    dataset: CocoDataset,
    entries: Entries,
    kinds: Sequence[Kind],
    max_detections: int | None = None,
    judge: Judge = COCO,
) -> dict[str, float]:
    """Score the entries of a result file.

    Args:
        dataset: entries of its other images are left out.
        kinds: what every entry has of boxes and masks; Cityscapes scores masks only.
        max_detections: by default as the protocol has it. Cityscapes has none: there it is but
            counted how many images have as many.
    Returns:
        The figures of `score_results`, `score_lvis` or `score_cityscapes` as bbox_AP, … and
        segm_AP, …; images; and, where there is a limit, max_detections, and images_at_limit, which
        have as many detections as are allowed.
    """
    if judge.protocol == "cityscapes":
        if "segm" not in kinds:
            raise UserError("--protocol cityscapes scores masks, and the detections have none")
        kinds = ["segm"]
    limit = max_detections or judge.limit()
    truth = ground_truth(dataset)
    metrics: dict[str, float] = {}
    for kind in kinds:
        figures = judge.figures(dataset, truth, entries, kind, limit)
        metrics |= {f"{kind}_{name}": value for name, value in figures.items()}
    metrics["images"] = len(dataset)
    if limit is not None:
        found = Counter(entry["image_id"] for entry in entries)
        at_limit = sum(found[int(id)] >= limit for id in dataset.image_ids)
        metrics |= {"max_detections": limit, "images_at_limit": at_limit}
    return metrics


def _cityscapes_labels(dataset: CocoDataset) -> dict[int, int]:
    """Category id -> id of the benchmark's class of the same name."""
    categories = zip(dataset.category_ids, dataset.class_names, strict=True)
    labels = {id: LABELS[name] for id, name in categories if name in LABELS}
    if not labels:
        raise UserError(
            f"{dataset.annotations}: none of the categories is a class of Cityscapes; name them "
            f"{', '.join(LABELS)}"
        )
    return labels


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
