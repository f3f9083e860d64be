"""Convert a data set of any format to COCO files: `mrcnn convert-data IN OUT`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mrcnn.cli.flags import parse, run
from mrcnn.errors import UserError


@dataclass(frozen=True)
class ConvertDataConfig:
    """Write a data set in any supported format as train.json, val.json and images/.

    Images are hard links to those of the source; on another disk they are copies. The source is
    not changed.
    """

    source: Positional[Path]
    """Folder of the data set, or a COCO file."""
    target: Positional[Path]
    """Folder to write, new or empty."""
    images: Path | None = None
    """Folder of the images, if the source is a COCO file. If not set, it is found beside it."""
    split: float = 0.2
    """Fraction of the images to draw for validation, if the source has no splits."""
    seed: int = 0
    """Seed for drawing the validation images."""
    group: str = ""
    """Regular expression on file names. Images with the same match (of its first group, if it has
    one) stay together, such as those of one patient or one video."""

    def __post_init__(self) -> None:
        if not 0 < self.split < 1:
            raise UserError(f"--split must be between 0 and 1, got {self.split}")
        try:
            re.compile(self.group)
        except re.error as error:
            problem = f"is not a regular expression ({error})"
            raise UserError(f"--group {self.group!r}: {problem}") from None


def main(argv: list[str] | None = None) -> None:
    """Read the source, write the copy, and print what was written."""
    args = parse(ConvertDataConfig, argv, prog="mrcnn convert-data")
    from mrcnn.data.coco.read import read_splits
    from mrcnn.data.coco.write import check_target, write_coco
    from mrcnn.data.formats import find_splits
    from mrcnn.data.formats.split import DrawOptions

    check_target(args.source, args.target)
    options = DrawOptions(args.split, args.seed, args.group)
    datasets = read_splits(find_splits(args.source, (), options, images=args.images))
    for note in dict.fromkeys(note for dataset in datasets.values() for note in dataset.notes):
        print(note)
    linked, copied = write_coco(datasets, args.target)
    for name, dataset in datasets.items():
        objects = int((~dataset.crowd).sum())
        print(f"{args.target / name}.json: {len(dataset)} images, {objects} objects")
    print(f"{args.target / 'images'}: {linked} images linked, {copied} copied")


if __name__ == "__main__":
    sys.exit(run(main))
