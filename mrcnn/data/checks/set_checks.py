"""Checks of a whole data set: its classes, and its images against each other.

Each takes a `CheckedData` with all images decoded, and yields its violations.
"""

from __future__ import annotations

import os
from itertools import chain, islice, pairwise
from pathlib import Path

from mrcnn.data.checks.findings import CheckedData, ImageSummary, Violation, Violations
from mrcnn.data.coco.tables import ids
from mrcnn.data.image_files import OTHER_SUFFIXES, SUFFIXES, is_hidden
from mrcnn.data.problems import LISTED, Problem, listed


def names_apart(data: CheckedData) -> Violations:
    """Class names differ by more than case, blanks and hyphens."""
    first_of: dict[str, str] = {}
    for name in _classes(data):
        key = "".join(name.casefold().replace("_", " ").replace("-", " ").split())
        if (first := first_of.setdefault(key, name)) != name:
            rule = "differ from others by more than its spelling"
            fix = f"{first!r} is another class; merge them if they are the same"
            yield Violation(Problem("categories: name", rule, name, fix))


def trimmed_names(data: CheckedData) -> Violations:
    """Class names have no blanks at their ends, which nobody sees."""
    for name in _classes(data):
        if name != " ".join(name.split()):
            rule = "have no blanks at its ends or in a row"
            yield Violation(Problem("categories: name", rule, name, "remove the blanks"))


def no_gaps(data: CheckedData) -> Violations:
    """Category ids have no gaps: mrcnn numbers classes 0 … C-1, other programs may not."""
    for split in data.splits:
        file = split.files.annotations
        if split.dataset is None or not file.is_file():
            continue
        used = ids(split.records.categories.records, "id")
        between = (range(a + 1, b) for a, b in pairwise(sorted(used)))
        if gaps := [*islice(chain.from_iterable(between), LISTED + 1)]:  # there may be billions
            value = f"no {listed(gaps)} ({len(used)} classes, ids {min(used)} to {max(used)})"
            fix = "fine here; number them in a row if other programs are to read them"
            yield Violation(Problem(f"{file}: categories: id", "have no gaps", value, fix))


def classes_in_use(data: CheckedData) -> Violations:
    """Every class has instances: others are not learned, or not measured."""
    for split in data.splits:
        if (dataset := split.dataset) is None:
            continue
        labels = set(dataset.labels[~dataset.crowd].tolist())
        used = {dataset.class_names[label] for label in labels}
        names = {c.get("id"): c.get("name") for c in split.records.categories.records}
        used |= {names[id] for id in split.used if id in names}
        purpose = "measured" if split.name == "val" else "learned"
        for name in dataset.class_names:
            if name not in used:
                label = f"{split.files.annotations}: class {name!r:.60}"
                rule = "have instances" if split.name == "all" else f"be in {split.name}"
                fix = f"it is not {purpose}; annotate some, or remove the category"
                yield Violation(Problem(label, rule, "no instance", fix))


def both_splits(data: CheckedData) -> Violations:
    """There are images for training, and others for validation."""
    names = {split.name for split in data.splits}
    for name in {"train", "val"} - names if "all" not in names else ():
        rule, value = f"have annotations for {name}", f"only {min(names)}"
        fix = "rename the other to annotations.json, and it is divided"
        yield Violation(Problem(str(data.folder), rule, value, fix))


def separate_images(data: CheckedData) -> Violations:
    """No image is in both training and validation, which makes metrics too good."""
    for same in _same_pixels(data):
        train, val = ([image for image in same if image.split == name] for name in ("train", "val"))
        for image in train if val else ():
            value = f"the {_shared(image, val[0])} of a validation image"
            fix = f"remove it, or {val[0].path} from val"
            yield _violation(image, "not be in both splits", value, fix)


def different_images(data: CheckedData) -> Violations:
    """No image is in a split twice."""
    for same in _same_pixels(data):
        for name in ("train", "val", "all"):
            first, *others = [image for image in same if image.split == name] or [same[0]]
            for image in others:
                value = f"the {_shared(image, first)} of another image"
                fix = f"{first.label} ({first.path.name}) is the same; remove one of them"
                yield _violation(image, "be in its split once", value, fix)


def names_in_any_case(data: CheckedData) -> Violations:
    """File names differ by more than case, for the disks of Windows and macOS."""
    first_of: dict[str, Path] = {}
    for image in data.images:
        first = first_of.setdefault(str(image.path).casefold(), image.path)
        if first != image.path:
            label = f"{image.label}: file_name"
            rule = "differ from others by more than upper and lower case"
            fix = f"{first.name} is another file here, but not on every disk; rename one"
            problem = Problem(label, rule, image.path.name, fix)
            yield Violation(problem, image.id, split=image.split)


def all_listed(data: CheckedData) -> Violations:
    """Every image file beside the annotated ones is named by a record."""
    named = {os.path.realpath(image.path) for image in data.images}
    for split in data.splits:
        named |= {os.path.realpath(split.files.images / name) for name in split.file_names}
    folders = {s.files.images for s in data.splits if s.files.annotations.is_file()}
    for folder in sorted(folders):
        left = [
            name.as_posix()
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES + OTHER_SUFFIXES
            and not is_hidden(name := path.relative_to(folder))
            and os.path.realpath(path) not in named
        ]
        if left:
            rule = "hold images of the annotation files only"
            value = f"{len(left)} that are in none: {listed(left)}"
            yield Violation(Problem(str(folder), rule, value, "annotate or remove them"))


def _violation(image: ImageSummary, rule: str, value: str, fix: str) -> Violation:
    problem = Problem(f"{image.label}: {image.path}", rule, value, fix)
    return Violation(problem, image.id, split=image.split)


def _classes(data: CheckedData) -> list[str]:
    """Return the class names of all splits, each once."""
    datasets = [split.dataset for split in data.splits]
    return list(dict.fromkeys(name for d in datasets if d is not None for name in d.class_names))


def _same_pixels(data: CheckedData) -> list[list[ImageSummary]]:
    """Group the images with the same pixels."""
    groups: dict[bytes, list[ImageSummary]] = {}
    for image in data.images:
        if image.pixel_digest:
            groups.setdefault(image.pixel_digest, []).append(image)
    return [group for group in groups.values() if len(group) > 1]


def _shared(image: ImageSummary, other: ImageSummary) -> str:
    return "bytes" if image.content_digest == other.content_digest else "pixels"
