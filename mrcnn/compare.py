"""The command `mrcnn compare A B --data DIR`: two runs, or two result files, side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from mrcnn.cli.flags import parse, require_at_least, run
from mrcnn.errors import UserError
from mrcnn.io.atomic import check_writable, write_json
from mrcnn.io.json_files import read_json


@dataclass(frozen=True)
class CompareConfig:
    """Score two runs, or two result files, and print where they differ."""

    a: Positional[Path]
    """COCO result file, or run folder with val_results.json."""
    b: Positional[Path]
    """The other result file or run folder."""
    data: Path | None = None
    """Folder of the data set that both sides were computed on."""
    ground_truth: Path | None = None
    """COCO annotation file, instead of --data."""
    split: Literal["train", "val"] = "val"
    """Split of the data set to score."""
    max_dets: int | None = None
    """Detections that count, per image and class. If not set, it is the limit of the runs, and 100
    for files."""
    backend: Literal["pycocotools", "hotcoco"] = "pycocotools"
    """Library that computes the metrics, as for evaluate."""
    json: Path | None = None
    """JSON file to write with all metrics, and the F1 of every image."""
    html: Path | None = None
    """HTML file to write: metrics side by side, curves over each other, classes and images."""

    def __post_init__(self) -> None:
        require_at_least(self, max_dets=1)


def main(argv: list[str] | None = None) -> None:
    """Score both sides and print the tables."""
    args = parse(CompareConfig, argv)
    from mrcnn.evaluation.compare import Comparison
    from mrcnn.evaluation.evaluation import Protocol, score
    from mrcnn.evaluation.result_files import kinds_of, read_results, unknown_categories
    from mrcnn.evaluation.truth import read_truth

    if args.json is not None:
        check_writable(args.json, mark=rb"\A\{\s*\"a\": ")
    if args.html is not None:
        check_writable(args.html, mark=rb"<title>Comparison of ")
    files = [_result_file(path, args.split) for path in (args.a, args.b)]
    limit = args.max_dets or max(_max_detections(path) for path in (args.a, args.b))
    dataset, truth = read_truth(args.data, args.ground_truth, args.split)
    for note in dataset.notes:
        print(note)
    sides = [read_results(file, truth) for file in files]
    for name, file, entries in zip("AB", files, sides, strict=True):
        print("; ".join([f"{name}: {file}", *unknown_categories(entries, truth)]))
    kinds = [kind for kind in kinds_of(sides[0]) if kind in kinds_of(sides[1])]
    if not kinds:
        raise UserError(f"{files[0]} and {files[1]}: one has boxes only, the other masks only")
    protocol = Protocol(backend=args.backend)
    a, b = (score(truth, entries, kinds, limit, protocol) for entries in sides)
    comparison = Comparison(a, b, dataset)
    print(f"{len(dataset)} images, at most {limit} detections each\n\n{comparison}")
    if args.json is not None:
        tree = {"a": files[0], "b": files[1], "ground_truth": truth.source}
        write_json(args.json, tree | comparison.to_dict(), indent=1)
        print(f"metrics: {args.json}")
    if args.html is not None:
        from mrcnn.reports.compare_report import write_comparison
        from mrcnn.reports.run_report import read_rows

        rows = [read_rows(p) if (p / "results.csv").is_file() else [] for p in (args.a, args.b)]
        print(f"page: {write_comparison(args.html, comparison, (args.a, args.b), rows)}")


def _result_file(path: Path, split: str) -> Path:
    """Return a result file, or the one in a run folder."""
    if not path.is_dir():
        return path
    names = [f"coco_results_{split}.json"]
    if split == "val":
        names.insert(0, "val_results.json")
    for name in names:
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"{path}: holds no {' and no '.join(names)}; make it by mrcnn evaluate --weights {path}"
    )


def _max_detections(path: Path) -> int:
    """Return the limit of detections per image of a run's model; 100 for a file."""
    file = path / "config.json"
    if not file.is_file():
        return 100
    try:
        return int(read_json(file)["model"]["max_detections"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: model.max_detections must be a whole number ({error}); name --max-dets"
        ) from error


if __name__ == "__main__":
    sys.exit(run(main))
