"""Write data sets as folders of COCO files, with hard links to their images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.coco.truth import as_coco
from mrcnn.errors import UserError
from mrcnn.io.atomic import creating_folder, write_json


def check_target(source: Path, target: Path) -> None:
    """Refuse a folder to write that is not empty, or is inside the source.

    Raises:
        UserError: If the folder is refused.
    """
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise UserError(f"{target}: is inside the source; name a folder outside of it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is not empty; name a new folder")


def write_coco(datasets: dict[str, CocoDataset], target: Path) -> tuple[int, int]:
    """Write NAME.json for each data set, and images/. The folder appears whole or not at all.

    Returns:
        The number of images linked, and copied.

    Raises:
        UserError: If the system cannot write there.
    """
    paths = {
        name: [dataset.path(i).absolute() for i in range(len(dataset))]
        for name, dataset in datasets.items()
    }
    images = set().union(*paths.values())
    common = Path(os.path.commonpath([path.parent for path in images]))
    try:
        with creating_folder(target) as draft:
            for name, dataset in datasets.items():
                content = as_coco(dataset)
                for path, record in zip(paths[name], content["images"], strict=True):
                    record["file_name"] = path.relative_to(common).as_posix()
                write_json(draft / f"{name}.json", content)
            linked = sum(
                _link_or_copy(path, draft / "images" / path.relative_to(common)) for path in images
            )
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "name another folder, or make room there"
        ) from error
    return linked, len(images) - linked


def _link_or_copy(source: Path, target: Path) -> bool:
    """Link an image, or copy it if that fails. Return whether it is linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
        return False
    return True


def coco_results(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    rles: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Convert the detections of one image to entries of a COCO result file, without `image_id`.

    The D boxes are xyxy; there is an RLE for each, or none at all. Boxes are rounded to 1/1000
    pixel. So x and width in a file survive float32 corners, and an overlap that equals a threshold
    stays equal.
    """
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    entries = []
    for i in range(len(scores)):
        entry: dict[str, Any] = {
            "category_id": category_ids[int(labels[i])],
            "bbox": [round(value, 3) for value in xywh[i]],
            "score": float(scores[i]),
        }
        if len(rles):
            entry["segmentation"] = rles[i]
        entries.append(entry)
    return entries
