"""Data sets as folders of COCO files, with hard links to their images."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from mrcnn.data.coco import CocoDataset
from mrcnn.data.coco_truth import as_coco
from mrcnn.errors import UserError
from mrcnn.files import write_json


def check_target(source: Path, target: Path) -> None:
    """Refuse a folder to write that is not empty, or lies in what is read.

    Raises:
        UserError: if it is so.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{target}: lies in the source; name a folder outside of it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is not empty; name a new folder")


def write_coco(datasets: dict[str, CocoDataset], target: Path) -> tuple[int, int]:
    """Write NAME.json of each data set and images/, whole or not at all.

    Returns:
        How many images are linked, and copied.
    Raises:
        UserError: if the system cannot write there.
    """
    try:
        return _write(datasets, target)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "name another place, or make room there"
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
                    linked += _place(path, draft / "images" / record["file_name"])
            write_json(draft / f"{name}.json", content)
        draft.chmod(0o755)
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return linked, len(images) - linked


def _place(source: Path, target: Path) -> bool:
    """Link an image, copy it where that cannot be; returns whether it is linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
        return False
    return True
