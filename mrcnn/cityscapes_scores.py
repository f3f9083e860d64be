"""Average precision of masks as the Cityscapes benchmark defines it (Cordts et al., CVPR 2016).

Ground truth is an image of ids: of a pixel of an object, 1000 times its class and a number; of one
of a group that could not be told apart, the class alone; of any other, its class. What counts is
an object of at least 100 pixels. A detection without an object is wrong, unless so much of it, as
a share, as the IoU asked for lies on void, on groups, and on smaller objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.analysis import Floats, Ints
from mrcnn.data.coco_truth import Record
from mrcnn.errors import UserError
from mrcnn.rle import decode

# Ids of the benchmark, from cityscapesscripts/helpers/labels.py of its tools, version 2.3.
LABELS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
          "motorcycle": 32, "bicycle": 33}  # fmt: skip
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
MIN_PIXELS = 100
SUFFIX = "_gtFine_instanceIds.png"

_IOUS = np.arange(0.5, 1.0, 0.05)  # as there, which is not 0.05 * k to the last bit


@dataclass
class _Tally:
    """Detections of one class at one IoU."""

    scores: list[float] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)
    missed: int = 0  # objects


def score_cityscapes(
    images: Iterable[tuple[Ints, Sequence[Record]]], label_of: dict[int, int]
) -> dict[str, float]:
    """Score masks as the benchmark does.

    Args:
        images: (H, W) ids of each image, and its entries of a result file, with `segmentation`.
        label_of: category id of the entries -> id in `LABELS`; others are left out.
    Returns:
        AP, AP50, and AP/<class>, AP50/<class> of the eight classes; -1 without objects.
    """
    tallies = {label: [_Tally() for _ in _IOUS] for label in LABELS.values()}
    objects, found = dict.fromkeys(tallies, 0), dict.fromkeys(tallies, 0)
    for ids, entries in images:
        known, place, pixels = np.unique(ids, return_inverse=True, return_counts=True)
        label = np.where(known < 1000, known, known // 1000)  # (K,)
        counts = (known >= 1000) & (pixels >= MIN_PIXELS)
        for wanted in tallies:
            own = label == wanted
            chosen = [e for e in entries if label_of.get(e["category_id"]) == wanted]
            inside = [_inside(entry, place, len(known)) for entry in chosen]
            shared = np.array(inside, np.int64).reshape(-1, len(known))  # (D, K) pixels
            scores = np.array([entry["score"] for entry in chosen], np.float64)
            scores, shared = scores[shared.any(axis=1)], shared[shared.any(axis=1)]
            objects[wanted] += int((own & counts).sum())
            found[wanted] += len(scores)
            # A small group is in two of the parts, as it is there.
            parts = np.isin(known, VOID), own & (pixels < MIN_PIXELS), own & (known < 1000)
            ignored = sum(shared[:, part].sum(axis=1) for part in parts)
            total = shared.sum(axis=1)
            union = pixels[own] + total[:, None] - shared[:, own]
            overlap = shared[:, own] / union  # (D, those of the class)
            for tally, iou in zip(tallies[wanted], _IOUS, strict=True):
                _count(tally, overlap > iou, counts[own], scores, ignored / total > iou)
    figures = np.array(
        [[_average(t, objects[k], found[k]) for t in tallies[k]] for k in LABELS.values()]
    )
    per_class = {
        f"{name}/{of}": float(value)
        for of, row in zip(LABELS, figures, strict=True)
        for name, value in (("AP", row.mean()), ("AP50", row[0]))
    }
    measured = figures[figures[:, 0] >= 0]
    if not len(measured):
        return {"AP": -1.0, "AP50": -1.0, **per_class}
    return {"AP": float(measured.mean()), "AP50": float(measured[:, 0].mean()), **per_class}


def find_instance_ids(folder: Path, names: Sequence[str]) -> list[Path]:
    """The file of ids of each image, by its name's beginning: city, sequence and frame.

    Args:
        folder: searched with the folders in it.
        names: of images, as frankfurt_000000_000294_leftImg8bit.png.
    Raises:
        UserError: if there is none, or more than one.
    """
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob(f"*{SUFFIX}")):
        files.setdefault(file.name.removesuffix(SUFFIX), []).append(file)
    chosen = []
    for name in names:
        frame = "_".join(Path(name).name.split("_")[:3])
        fitting = files.get(frame, [])
        if len(fitting) != 1:
            raise UserError(
                f"--instance-ids {folder}: holds {len(fitting)} files {frame}{SUFFIX} for the "
                f"image {name}; name the folder gtFine, or its part of the split"
            )
        chosen.append(fitting[0])
    return chosen


def read_instance_ids(file: Path, size: tuple[int, int]) -> Ints:
    """(H, W) ids.

    Raises:
        UserError: if the file cannot be read, or has another size.
    """
    try:
        with Image.open(file) as image:
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


def _inside(entry: Record, place: Ints, count: int) -> NDArray[np.int64]:
    """(K,) pixels of a mask on each id."""
    mask = decode(entry["segmentation"])
    return np.bincount(place.reshape(mask.shape)[mask], minlength=count)


def _count(
    tally: _Tally,
    near: NDArray[np.bool_],
    counts: NDArray[np.bool_],
    scores: Floats,
    ignored: NDArray[np.bool_],
) -> None:
    """Add the detections of an image: the best of each object is right, all others of it wrong.

    Args:
        near: (D, G) detections that overlap an object, group or small object by the IoU.
        counts: (G,) which of these count.
        ignored: (D,) detections that may be without an object.
    """
    for own in near[:, counts].T:  # at an IoU of 0.5 or more a detection has one object at most
        hits = sorted(scores[own], reverse=True)
        tally.missed += not hits
        tally.scores += hits
        tally.is_right += [i == 0 for i in range(len(hits))]
    false = scores[~near.any(axis=1) & ~ignored].tolist()
    tally.scores += false
    tally.is_right += [False] * len(false)


def _average(tally: _Tally, objects: int, found: int) -> float:
    """Area under precision over recall, from one score to the next, by the mean of neighbours."""
    if not objects:
        return -1.0
    if not found or not tally.scores:
        return 0.0
    order = np.argsort(tally.scores, kind="stable")
    right = np.array(tally.is_right, np.int64)[order]
    _, first = np.unique(np.array(tally.scores)[order], return_index=True)
    below = np.concatenate([[0], right.cumsum()])[first]  # right ones of lower scores
    hits = right.sum() - below
    precision = np.append(hits / (len(right) - first), 1.0)
    recall = np.append(hits / (right.sum() + tally.missed), 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (padded[:-2] - padded[2:])) / 2
