"""Write the report of a training run: `mrcnn report RUN` writes RUN/report.html."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from mrcnn.cli.flags import parse, run
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.io.atomic import check_writable
from mrcnn.io.json_files import read_json

if TYPE_CHECKING:
    from mrcnn.data.formats import Split


@dataclass(frozen=True)
class ReportConfig:
    """Write the report of a training run, report.html in its folder."""

    run: Positional[Path]
    """The folder of the run."""


def main(argv: list[str] | None = None) -> None:
    """Write the report of a run, and print its path."""
    args = parse(ReportConfig, argv)
    from mrcnn.evaluation.truth import read_split
    from mrcnn.reports.run_report import PAGE, read_evaluation, write_report

    check_writable(args.run / PAGE, mark=b"mrcnn")
    file = args.run / "config.json"
    config = read_json(file)
    split = _validation_data(file, config)
    try:
        model = ModelConfig.from_dict(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: model: {error}; restore what mrcnn train wrote") from error
    dataset, truth = read_split(split, None, model)
    print(write_report(args.run, dataset, read_evaluation(args.run, dataset, model, truth)))


def _validation_data(file: Path, config: Any) -> Split:
    """Return the annotation file and the image folder that config.json names.

    Annotations that are a folder are a data set in another format than COCO. A COCO file that is
    for training, too, was divided.
    """
    from mrcnn.data.formats import Split, find_splits

    try:
        split = config["data"]["val"]
        annotations, images = Path(split["annotations"]), Path(split["images"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file}: data.val must name the annotations and images of the validation data; add "
            '"data": {"val": {"annotations": "FILE", "images": "FOLDER"}}'
        ) from error
    for name, path, exists in (
        ("annotations", annotations, annotations.exists()),
        ("images", images, images.is_dir()),
    ):
        if not exists:
            raise UserError(
                f"{file}: data.val.{name}: {path} does not exist; restore it, or correct the path"
            )
    if annotations.is_dir():
        return find_splits(annotations, needs=("val",))["val"]
    if config["data"].get("train") == split:
        return find_splits(annotations, needs=("val",), images=images)["val"]
    return Split(annotations, images)


if __name__ == "__main__":
    sys.exit(run(main))
