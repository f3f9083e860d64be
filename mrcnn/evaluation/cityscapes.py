"""Cityscapes' average precision of masks (Cordts et al., CVPR 2016).

Ground truth is an image of ids. A pixel of an object holds 1000 times its class plus a number; a
pixel of a group that could not be separated holds the class alone; any other pixel holds its class.
An object counts if it has at least 100 pixels. A detection without an object is wrong, unless it
overlaps void, groups and smaller objects by a share of its pixels above the IoU threshold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.coco.truth import Record
from mrcnn.errors import UserError
from mrcnn.evaluation.matching import Floats, Ints
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.io.plain_files import open_plain
from mrcnn.ops.rle import decode

# Ids of the benchmark, from cityscapesscripts/helpers/labels.py of its tools, version 2.3.
LABELS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
          "motorcycle": 32, "bicycle": 33}  # fmt: skip
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
MIN_PIXELS = 100
SUFFIX = "_gtFine_instanceIds.png"

_IOUS = np.arange(0.5, 1.0, 0.05)  # as in the tools; not bit-identical to 0.05 * k


def cityscapes_metrics(
    truth: GroundTruth, entries: Sequence[Record], instance_ids: Path
) -> dict[str, float]:
    """Compute the metrics of masks, reading the ids of one image at a time.

    Args:
        truth: Annotations, for the images and the names of categories.
        entries: Checked detections with `segmentation`.
        instance_ids: Folder of the files *_gtFine_instanceIds.png.
    """
    files, labels = check_cityscapes(truth, instance_ids)
    by_image: dict[int, list[Record]] = defaultdict(list)
    for entry in entries:
        by_image[entry["image_id"]].append(entry)
    pairs = zip(files, truth.image_ids, strict=True)
    return score_cityscapes(
        ((read_instance_ids(file, truth.sizes[id]), by_image[id]) for file, id in pairs), labels
    )


def check_cityscapes(truth: GroundTruth, instance_ids: Path) -> tuple[list[Path], dict[int, int]]:
    """Find the file of ids of each image, and the benchmark's label of each category id.

    Files are found by city, sequence and frame of an image's name, such as
    frankfurt_000000_000294_leftImg8bit.png, in the folder and its subfolders.

    Raises:
        UserError: If an image has no file, or more than one, or no category is a class of
            Cityscapes.
    """
    by_frame: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(instance_ids.rglob(f"*{SUFFIX}")):
        by_frame[file.name.removesuffix(SUFFIX)].append(file)
    files = []
    for image in truth.records["images"]:
        name = Path(str(image.get("file_name", ""))).name
        frame = "_".join(name.split("_")[:3])
        matching = by_frame[frame]
        if len(matching) != 1:
            raise UserError(
                f"--instance-ids {instance_ids}: holds {len(matching)} files {frame}{SUFFIX} for "
                f"the image {name}; name the folder gtFine, or its part of the split"
            )
        files += matching
    labels = {c["id"]: LABELS[c["name"]] for c in truth.categories if c["name"] in LABELS}
    if not labels:
        raise UserError(
            f"{truth.source}: none of the categories is a class of Cityscapes; name them "
            f"{', '.join(LABELS)}"
        )
    return files, labels


def score_cityscapes(
    images: Iterable[tuple[Ints, Sequence[Record]]], label_of: dict[int, int]
) -> dict[str, float]:
    """Score masks as the benchmark does.

    Args:
        images: (H, W) ids of each image, and its entries of a result file, with `segmentation`.
        label_of: Category id of the entries -> id in `LABELS`. Other categories are left out.

    Returns:
        AP, AP50, and AP/<class>, AP50/<class> of the eight classes; -1 without objects.
    """
    objects: Counter[int] = Counter()
    outcomes: dict[tuple[int, float], list[tuple[float, bool]]] = defaultdict(list)
    for ids, entries in images:
        values, position, pixels = np.unique(ids, return_inverse=True, return_counts=True)
        labels = np.where(values < 1000, values, values // 1000)  # (K,)
        counts = (values >= 1000) & (pixels >= MIN_PIXELS)
        for label in LABELS.values():
            in_class = labels == label
            objects[label] += int((in_class & counts).sum())
            chosen = [e for e in entries if label_of.get(e["category_id"]) == label]
            inside = [_pixels_per_id(entry, position, len(values)) for entry in chosen]
            shared = np.array(inside, np.int64).reshape(-1, len(values))  # (D, K) pixels
            scores = np.array([entry["score"] for entry in chosen], np.float64)
            scores, shared = scores[shared.any(axis=1)], shared[shared.any(axis=1)]
            # A small group counts twice, as in the tools.
            void, small = np.isin(values, VOID), in_class & (pixels < MIN_PIXELS)
            regions = void, small, in_class & (values < 1000)
            ignored = sum(shared[:, region].sum(axis=1) for region in regions)
            total = shared.sum(axis=1)
            union = pixels[in_class] + total[:, None] - shared[:, in_class]
            overlap = shared[:, in_class] / union  # (D, ids of the class)
            for iou in _IOUS:
                outcomes[label, iou] += _outcomes(
                    overlap > iou, counts[in_class], scores, ignored / total > iou
                )
    averages = np.array(
        [[_average(outcomes[k, iou], objects[k]) for iou in _IOUS] for k in LABELS.values()]
    )
    measured = averages[averages[:, 0] >= 0]
    metrics = {"AP": -1.0, "AP50": -1.0}
    if len(measured):
        metrics = {"AP": float(measured.mean()), "AP50": float(measured[:, 0].mean())}
    for name, row in zip(LABELS, averages, strict=True):
        metrics |= {f"AP/{name}": float(row.mean()), f"AP50/{name}": float(row[0])}
    return metrics


def read_instance_ids(file: Path, size: tuple[int, int]) -> Ints:
    """Read the (H, W) ids of an image.

    Raises:
        UserError: If the file cannot be read, or has another size.
    """
    try:
        with open_plain(file) as content, Image.open(content) as image:
            ids = np.array(image)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: cannot be read ({error}); put the file of gtFine there"
        ) from error
    if ids.shape != size:
        raise UserError(
            f"{file}: must have one number for each of {size[0]} x {size[1]} pixels, has shape "
            f"{ids.shape}; put the file of gtFine there"
        )
    return ids.astype(np.int64)


def _pixels_per_id(entry: Record, position: Ints, count: int) -> NDArray[np.int64]:
    """Count the pixels of a mask on each id, (K,)."""
    mask = decode(entry["segmentation"])
    return np.bincount(position.reshape(mask.shape)[mask], minlength=count)


def _outcomes(
    near: NDArray[np.bool_], counts: NDArray[np.bool_], scores: Floats, ignored: NDArray[np.bool_]
) -> list[tuple[float, bool]]:
    """Return score and correctness of detections of one class: the best of each object is correct.

    Args:
        near: (D, G) whether a detection overlaps an object, group or small object by the IoU.
        counts: (G,) whether the object counts.
        scores: (D,) scores of the detections.
        ignored: (D,) whether a detection may be without an object.
    """
    outcomes = []
    for matched in near[:, counts].T:  # at an IoU of 0.5 or more a detection has one object at most
        hits = sorted(scores[matched], reverse=True)
        outcomes += [(score, i == 0) for i, score in enumerate(hits)]
    false = scores[~near.any(axis=1) & ~ignored]
    return outcomes + [(score, False) for score in false]


def _average(outcomes: list[tuple[float, bool]], objects: int) -> float:
    """Compute the area under precision over recall, by the mean of neighbouring scores."""
    if not objects:
        return -1.0
    if not outcomes:
        return 0.0
    scores, correct = np.array(sorted(outcomes)).T
    _, first = np.unique(scores, return_index=True)
    hits = correct.sum() - np.append(0, correct.cumsum())[first]
    precision = np.append(hits / (len(correct) - first), 1.0)
    recall = np.append(hits / objects, 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:])) / 2
