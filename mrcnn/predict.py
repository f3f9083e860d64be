"""Objects in images, as overlays and JSON: `python -m mrcnn.predict --weights RUN images/`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tyro.conf import Positional

from mrcnn.data.images import SUFFIXES
from mrcnn.errors import UserError
from mrcnn.files import check_writable, replacing, write_json
from mrcnn.flags import parse, run
from mrcnn.predictor import Predictor, load
from mrcnn.results import Result


@dataclass(frozen=True)
class PredictConfig:
    """Find the objects in images: an overlay for each, and all of them in predictions.json."""

    images: Positional[tuple[Path, ...]]
    """Image files, and folders whose images are taken."""
    weights: Path
    """A run folder (its best checkpoint, else its last), a checkpoint file, a detector of another
    framework, or the name of a published one."""
    out: Path = Path("predictions")
    """Folder for the overlays and predictions.json."""
    score_threshold: float = 0.5
    """Objects with a lower score are left out."""
    max_dets: int | None = None
    """Objects an image, at most; by default as the model was trained."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    amp: bool = False
    """Compute in bfloat16 where that is safe: faster on GPUs since Ampere, with less memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must lie in [0, 1], got {self.score_threshold}")
        if self.max_dets is not None and self.max_dets < 1:
            raise UserError(f"--max-dets must be at least 1, got {self.max_dets}")
        if not self.images:
            raise UserError("predict: name at least one image or folder")


def main(argv: list[str] | None = None) -> int:
    """Predict, draw, write; returns 2 if an image could not be read."""
    args = parse(PredictConfig, argv)
    files = find_images(args.images)
    predictor = load(
        args.weights,
        args.device,
        amp=args.amp,
        score_threshold=args.score_threshold,
        max_detections=args.max_dets,
    )
    for note in predictor.notes:
        print(note)
    written, failures = predict_files(predictor, files, args.out, args.score_threshold)
    print(f"{written} overlays and predictions.json in {args.out}")
    if failures:
        listed = "\n  ".join(failures)
        print(f"mrcnn: {len(failures)} of {len(files)} images failed:\n  {listed}", file=sys.stderr)
    return 2 if failures else 0


def find_images(places: tuple[Path, ...]) -> list[Path]:
    """The given files, and the images in the given folders by name; a file given is never doubted.

    Raises:
        UserError: if a place does not exist, or a folder holds no images.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                known = " ".join(SUFFIXES)
                raise UserError(f"{place}: holds no images ({known}); name the folder of images")
            files += inside
        elif place.exists():
            files.append(place)
        else:
            raise UserError(f"{place}: does not exist; name an image or a folder of images")
    return list(dict.fromkeys(files))


def predict_files(
    predictor: Predictor, files: list[Path], out: Path, score_threshold: float
) -> tuple[int, list[str]]:
    """Write an overlay of each file and all objects as JSON; an unreadable file ends nothing.

    Returns:
        How many overlays were written, and a message for each file that was not read.
    """
    check_writable(out / "predictions.json")
    overlays = [out / name for name in _overlay_names(files)]
    if clash := {path.resolve() for path in overlays} & {path.resolve() for path in files}:
        raise UserError(f"--out {out}: would write over {min(clash)}; name another folder")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failures: list[str] = []
    for number, (file, overlay) in enumerate(zip(files, overlays, strict=True), start=1):
        start = time.perf_counter()
        try:
            result = predictor.predict(file, score_threshold)
        except UserError as error:
            failures.append(str(error))
            print(f"[{number}/{len(files)}] {file}: failed", flush=True)
            continue
        with replacing(overlay) as draft:
            result.plot().save(draft, quality=92)
        height, width = result.image.shape[:2]
        images.append({"id": number, "file_name": str(file), "height": height, "width": width})
        for entry in result.to_coco(number):
            area = entry["bbox"][2] * entry["bbox"][3]
            annotations.append({"id": len(annotations) + 1, **entry, "area": area, "iscrowd": 0})
        seconds = time.perf_counter() - start
        print(f"[{number}/{len(files)}] {file}: {_found(result)}, {seconds:.2f} s", flush=True)
    ids, class_names = predictor.category_ids, predictor.config.class_names
    categories = [{"id": id, "name": name} for id, name in zip(ids, class_names, strict=True)]
    write_json(
        out / "predictions.json",
        {"images": images, "categories": categories, "annotations": annotations},
    )
    return len(images), failures


def _overlay_names(files: list[Path]) -> list[str]:
    """A .jpg name for each file, numbered where two files have the same name."""
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        name, copy = f"{file.stem}.jpg", 1
        while name.lower() in taken:
            copy += 1
            name = f"{file.stem}_{copy}.jpg"
        taken.add(name.lower())
        names.append(name)
    return names


def _found(result: Result) -> str:
    counts = Counter(result.names).most_common()
    return ", ".join(f"{count} {name}" for name, count in counts) or "no objects"


if __name__ == "__main__":
    sys.exit(run(main))
