"""Write data sets as folders of COCO files, with hard links to their images."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.coco.truth import as_coco
from mrcnn.errors import UserError
from mrcnn.io.atomic import write_json


def check_target(source: Path, target: Path) -> None:
    """Refuse a folder to write that is not empty, or is inside the source.

    Raises:
        UserError: If the folder is refused.
    """
    if target.resolve().is_relative_to(source.resolve()):
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
    try:
        return _write(datasets, target)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "name another folder, or make room there"
        ) from error


def _write(datasets: dict[str, CocoDataset], target: Path) -> tuple[int, int]:
    folders = {
        dataset.path(i).absolute().parent
        for dataset in datasets.values()
        for i in range(len(dataset))
    }
    common = Path(os.path.commonpath([*folders]))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        linked, images = 0, set()
        for name, dataset in datasets.items():
            content = as_coco(dataset)
            for i, record in enumerate(content["images"]):
                path = dataset.path(i).absolute()
                record["file_name"] = path.relative_to(common).as_posix()
                if path not in images:
                    images.add(path)
                    linked += _link_or_copy(path, draft / "images" / record["file_name"])
            write_json(draft / f"{name}.json", content)
        draft.chmod(0o755)
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
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

    Boxes are rounded to 1/1000 pixel. So x and width in a file survive float32 corners, and an
    overlap that equals a threshold stays equal.

    Args:
        boxes: (D, 4) xyxy.
        scores: (D,).
        labels: (D,) positions in `category_ids`.
        rles: D masks, or none.
        category_ids: Category id of each label.
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
