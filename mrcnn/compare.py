"""Two runs, or two files of results, side by side: `mrcnn compare A B --data DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import Positional

from mrcnn import analysis
from mrcnn.analysis import Floats
from mrcnn.coco_scores import Backend, Kind, kinds_of, read_results
from mrcnn.data.coco import CocoDataset
from mrcnn.data.coco_truth import ground_truth
from mrcnn.data.problems import read_json
from mrcnn.errors import UserError
from mrcnn.files import check_writable, write_json
from mrcnn.flags import parse, run
from mrcnn.mistakes import KINDS
from mrcnn.score_tables import SHOWN, cell, class_names, cut, metrics_tree, shown_classes
from mrcnn.scoring import Judge, read_truth, score, unknown_categories

IMAGES = 5  # named where one side is better

Entries = list[dict[str, Any]]
Metrics = dict[str, float]


@dataclass(frozen=True)
class CompareConfig:
    """Score two runs, or two files of results, and tell where they differ: overall, by class and
    by image."""

    a: Positional[Path]
    """A COCO result file, or a run folder, whose val_results.json it means."""
    b: Positional[Path]
    """The other."""
    data: Path | None = None
    """Folder of the data set that both were made for."""
    ground_truth: Path | None = None
    """COCO annotation file, in place of --data."""
    split: Literal["train", "val"] = "val"
    max_dets: int | None = None
    """Objects an image and class; by default as the runs were trained, and 100 for files."""
    backend: Backend = "pycocotools"
    """What computes the figures, as for evaluate."""
    json: Path | None = None
    """File for all of it."""

    def __post_init__(self) -> None:
        if self.max_dets is not None and self.max_dets < 1:
            raise UserError(f"--max-dets must be at least 1, got {self.max_dets}")


@dataclass(frozen=True)
class ImageScores:
    """How well each image is done by either side."""

    kind: Kind
    ids: list[int]  # N
    f1: tuple[Floats, Floats]  # (N,)
    score: tuple[float, float]  # the lowest that counts, that of the best F1 of all images


def main(argv: list[str] | None = None) -> None:
    """Score both sides and print the tables."""
    args = parse(CompareConfig, argv)
    if args.json is not None:
        check_writable(args.json)
    files = [_results_of(place, args.split) for place in (args.a, args.b)]
    limit = args.max_dets or max(_limit_of(place) for place in (args.a, args.b))
    dataset = read_truth(args.data, args.ground_truth, args.split)
    for note in dataset.notes:
        print(note)
    truth = ground_truth(dataset)
    sides = [read_results(file, truth) for file in files]
    for name, file, entries in zip("AB", files, sides, strict=True):
        note = unknown_categories(entries, truth)
        print(f"{name}: {file}" + (f"; {note}" if note else ""))
    a, b = sides
    kinds = [kind for kind in kinds_of(a) if kind in kinds_of(b)]
    if not kinds:
        raise UserError(f"{files[0]} and {files[1]}: one has boxes only, the other masks only")
    judge = Judge(backend=args.backend)
    metrics_a, metrics_b = (score(dataset, side, kinds, limit, judge) for side in sides)
    print(f"{len(dataset)} images, at most {limit} detections each\n")
    print(format_comparison(metrics_a, metrics_b, kinds))
    images = compare_images(truth, a, b, kinds[-1], limit)
    print("\n" + format_images(images, dataset))
    if args.json is not None:
        tree = {"a": files[0], "b": files[1], "ground_truth": dataset.annotations}
        write_json(args.json, tree | _tree(metrics_a, metrics_b, images), indent=1)
        print(f"figures: {args.json}")


def compare_images(
    truth: dict[str, Any], a: Entries, b: Entries, kind: Kind, limit: int
) -> ImageScores:
    """F1 of each image at IoU 0.5, each side from the score on where its F1 of all is best."""
    ids: list[int] = []
    f1, scores = [], []
    for entries in (a, b):
        pairs = list(analysis.compare(truth, entries, kind, limit))
        curves = analysis.score_curves(pairs)
        scores.append(float(curves.scores[curves.best()]))
        f1.append(analysis.outcomes(pairs, scores[-1]).f1(len(pairs)))
        ids = [pair.image_id for pair in pairs]
    return ImageScores(kind, ids, (f1[0], f1[1]), (scores[0], scores[1]))


def format_comparison(a: Metrics, b: Metrics, kinds: Sequence[Kind]) -> str:
    """All figures, then the classes, those that lose most first."""
    names = [name.removeprefix(f"{kinds[0]}_") for name in a if name.startswith(f"{kinds[0]}_")]
    lines = [" " * 6 + "".join(f"{KINDS[kind] + ': A':>11}{'B':>8}{'B - A':>8}" for kind in kinds)]
    for name in (name for name in names if "/" not in name):
        keys = [f"{kind}_{name}" for kind in kinds]
        lines.append(f"{name:<6}" + "".join(f"   {_cells(a[k], b[k])}" for k in keys))
    judged = f"{kinds[-1]}_AP"
    classes = class_names(a)
    if len(classes) > 1:
        change = {
            name: b[f"{judged}/{name}"] - a[f"{judged}/{name}"]
            for name in classes
            if a[f"{judged}/{name}"] > -1
        }
        rows, between = shown_classes(change)
        width = max([len("class"), *(len(cut(name)) for name in rows)])
        lines += ["", f"{'class':<{width}}{'A':>8}{'B':>8}{'B - A':>8}   AP of {KINDS[kinds[-1]]}"]
        for place, name in enumerate(rows):
            if between and place == SHOWN:
                lines.append(f"… {between} classes between")
            values = a[f"{judged}/{name}"], b[f"{judged}/{name}"]
            lines.append(f"{cut(name):<{width}}{_cells(*values)}")
    return "\n".join(lines)


def format_images(images: ImageScores, dataset: CocoDataset) -> str:
    """How often either side is better, and where most."""
    change = images.f1[1] - images.f1[0]
    path_of = {int(id): dataset.path(index) for index, id in enumerate(dataset.image_ids)}
    better = int((change > 0).sum()), int((change < 0).sum())
    lines = [
        f"F1 of images by {KINDS[images.kind]} at IoU 0.5, A from score {images.score[0]:.2f} on, "
        f"B from {images.score[1]:.2f}:",
        f"B is better in {better[0]}, A in {better[1]}, and {len(change) - sum(better)} are equal",
    ]
    for title, order, count in (
        ("B is better by", np.argsort(-change, kind="stable"), better[0]),
        ("A is better by", np.argsort(change, kind="stable"), better[1]),
    ):
        for i in order[: min(IMAGES, count)]:
            one, other = (float(side[i]) for side in images.f1)
            path = path_of[images.ids[i]]
            name = f"image {images.ids[i]}" if path == dataset.folder else path.name
            lines.append(f"{title} {abs(change[i]):.2f} ({one:.2f}, {other:.2f}): {name}")
    return "\n".join(lines)


def _cells(one: float, other: float) -> str:
    change = f"{other - one:+8.3f}" if min(one, other) > -1 else f"{'-':>8}"
    return cell(one) + cell(other) + change


def _tree(a: Metrics, b: Metrics, images: ImageScores) -> dict[str, Any]:
    """What JSON holds: the figures of either side, and of every image."""
    per_image = zip(images.ids, images.f1[0].tolist(), images.f1[1].tolist(), strict=True)
    return {
        "figures": {"a": metrics_tree(a), "b": metrics_tree(b)},
        "images": {
            "kind": images.kind,
            "score": dict(zip("ab", images.score, strict=True)),
            "f1": [{"id": id, "a": one, "b": other} for id, one, other in per_image],
        },
    }


def _results_of(place: Path, split: str) -> Path:
    """The result file that a path means."""
    if not place.is_dir():
        return place
    names = [f"coco_results_{split}.json"]
    if split == "val":
        names.insert(0, "val_results.json")
    for name in names:
        if (place / name).is_file():
            return place / name
    raise UserError(
        f"{place}: holds no {' and no '.join(names)}; make it by mrcnn evaluate --weights {place}"
    )


def _limit_of(place: Path) -> int:
    """Detections an image that a run's model may make; 100 for a file."""
    if not (place / "config.json").is_file():
        return 100
    try:
        return int(read_json(place / "config.json")["model"]["max_detections"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{place / 'config.json'}: model.max_detections must be a whole number ({error}); "
            "name --max-dets"
        ) from error


if __name__ == "__main__":
    sys.exit(run(main))
