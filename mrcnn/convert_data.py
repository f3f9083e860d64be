"""A data set of any format as COCO files: `mrcnn convert-data IN OUT`."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mrcnn.data.coco import CocoDataset, read_splits
from mrcnn.data.coco_truth import as_coco
from mrcnn.data.formats import find_splits
from mrcnn.data.readers.division import Division, draw
from mrcnn.data.subset import subset
from mrcnn.errors import UserError
from mrcnn.files import write_json
from mrcnn.flags import parse, run


@dataclass(frozen=True)
class ConvertDataConfig:
    """Write a data set of any format that is read as train.json, val.json and images/.

    Images are hard links to those of the source, or copies where the disk is another. The source
    stays as it is.
    """

    source: Positional[Path]
    """Folder of the data set."""
    target: Positional[Path]
    """Folder to write, new or empty."""
    split: float = 0.2
    """Part of the images to validate, where the source does not say which."""
    seed: int = 0
    """Of the draw of these images."""
    group: str = ""
    """Regular expression: images whose names match it with the same text (of its first group, if it
    has one) are all drawn or none, as those of one patient or one video should be."""

    def __post_init__(self) -> None:
        if not 0 < self.split < 1:
            raise UserError(f"--split must lie between 0 and 1, got {self.split}")
        try:
            re.compile(self.group)
        except re.error as error:
            raise UserError(f"--group {self.group!r}: is no regular expression ({error})") from None
        source, target = self.source.resolve(), self.target.resolve()
        if target.is_relative_to(source):
            raise UserError(f"{self.target}: lies in the source; name a folder outside of it")
        if self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir())):
            raise UserError(f"{self.target}: is not empty; name a new folder")


def main(argv: list[str] | None = None) -> None:
    """Read, write, and say what was written."""
    args = parse(ConvertDataConfig, argv, prog="mrcnn convert-data")
    division = Division(args.split, args.seed, args.group)
    datasets = read_splits(find_splits(args.source, (), division))
    datasets, notes = _divided(datasets, args.source, division)
    for note in dict.fromkeys(notes):
        print(note)
    try:
        linked, copied = _write(datasets, args.target)
    except OSError as error:
        raise UserError(
            f"{args.target}: cannot be written ({error.strerror or error}); "
            "name another place, or make room there"
        ) from error
    for name, dataset in datasets.items():
        objects = int((~dataset.crowd).sum())
        print(f"{args.target / name}.json: {len(dataset)} images, {objects} objects")
    print(f"{args.target / 'images'}: {linked} images linked, {copied} copied")


def _divided(
    datasets: dict[str, CocoDataset], folder: Path, division: Division
) -> tuple[dict[str, CocoDataset], list[str]]:
    """The splits, drawn here where one COCO file serves for both, and what to say."""
    notes = [note for dataset in datasets.values() for note in dataset.notes]
    train, val = datasets.get("train"), datasets.get("val")
    one_file = train and val and train.annotations.is_file()
    if not (one_file and train and val and train.annotations == val.annotations):
        return datasets, notes
    names = [train.path(i).relative_to(train.folder).as_posix() for i in range(len(train))]
    drawn = draw(names, folder, division)
    rest = sorted(set(range(len(names))) - set(drawn))
    if not drawn:
        return datasets, notes
    splits = {"train": subset(train, rest), "val": subset(train, drawn)}
    return splits, [f"{len(drawn)} images to validate are drawn with seed {division.seed}"]


def _write(datasets: dict[str, CocoDataset], target: Path) -> tuple[int, int]:
    """Write all, whole or not at all; returns how many images are linked, and copied."""
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


if __name__ == "__main__":
    sys.exit(run(main))
