"""A data set of any format as COCO files: `mrcnn convert-data IN OUT`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mrcnn.data.coco import CocoDataset, read_splits
from mrcnn.data.coco_writer import check_target, write_coco
from mrcnn.data.formats import find_splits
from mrcnn.data.readers.division import Division, draw
from mrcnn.data.subset import subset
from mrcnn.errors import UserError
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
        check_target(self.source, self.target)


def main(argv: list[str] | None = None) -> None:
    """Read, write, and say what was written."""
    args = parse(ConvertDataConfig, argv, prog="mrcnn convert-data")
    division = Division(args.split, args.seed, args.group)
    datasets = read_splits(find_splits(args.source, (), division))
    datasets, notes = _divided(datasets, args.source, division)
    for note in dict.fromkeys(notes):
        print(note)
    linked, copied = write_coco(datasets, args.target)
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


if __name__ == "__main__":
    sys.exit(run(main))
