"""Checks of a whole data set: classes, and images against each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.checking.findings import Check, Told
from mrcnn.data.checking.records import Reading, ids
from mrcnn.data.images import SUFFIXES

LISTED = 5  # names in a message


@dataclass(frozen=True)
class Seen:
    """An image of a split, decoded."""

    split: str
    place: str
    id: int
    path: Path
    content: bytes  # digest of the file; empty if it could not be read
    pixels: bytes  # digest of its pixels


@dataclass(frozen=True)
class Whole:
    """All splits, and all their images."""

    folder: Path
    readings: list[Reading]
    seen: list[Seen]


def names_apart(whole: Whole) -> Check:
    """Classes that differ in case, or in blanks and hyphens, only."""
    first_of: dict[str, str] = {}
    for name in _classes(whole):
        key = "".join(name.casefold().replace("_", " ").replace("-", " ").split())
        if (first := first_of.setdefault(key, name)) != name:
            fix = f"{first!r} is another class; join them if they are the same"
            yield Told(
                "categories: name", "differ from others by more than its spelling", name, fix
            )


def trimmed_names(whole: Whole) -> Check:
    """Blanks at the ends of a name, which nobody sees."""
    for name in _classes(whole):
        if name != " ".join(name.split()):
            fix = "remove the blanks"
            yield Told("categories: name", "have no blanks at its ends or in a row", name, fix)


def no_gaps(whole: Whole) -> Check:
    """Ids with gaps are numbered 0 … C-1 here; other programs may not."""
    for reading in whole.readings:
        if reading.dataset is None or not reading.split.annotations.is_file():
            continue
        numbers = ids(reading.content.categories, "id")
        if gaps := sorted(set(range(min(numbers), max(numbers))) - numbers):
            listed = ", ".join(map(str, gaps[:LISTED])) + (", …" if len(gaps) > LISTED else "")
            yield Told(
                f"{reading.split.annotations}: categories: id",
                "have no gaps",
                f"no {listed} ({len(numbers)} classes, ids {min(numbers)} to {max(numbers)})",
                "fine here; number them in a row if other programs are to read them",
            )


def classes_in_use(whole: Whole) -> Check:
    """A class without instances is not learnt, or not measured."""
    for reading in whole.readings:
        if (dataset := reading.dataset) is None:
            continue
        labels = set(dataset.labels[~dataset.crowd].tolist())
        used = {dataset.class_names[label] for label in labels}
        names = {c.get("id"): c.get("name") for c in reading.content.categories}
        used |= {names[id] for id in reading.used if id in names}
        purpose = "measured" if reading.name == "val" else "learnt"
        for name in dataset.class_names:
            if name not in used:
                place = f"{reading.split.annotations}: class {name!r:.60}"
                fix = f"it is not {purpose}; annotate some, or remove the category"
                rule = "have instances" if reading.name == "all" else f"be in {reading.name}"
                yield Told(place, rule, "no instance", fix)


def both_splits(whole: Whole) -> Check:
    """Training needs images to train on, and others to validate."""
    names = {reading.name for reading in whole.readings}
    for name in {"train", "val"} - names if "all" not in names else ():
        fix = "rename the other to annotations.json, and `mrcnn convert-data` divides it"
        yield Told(str(whole.folder), f"have annotations for {name}", f"only {min(names)}", fix)


def own_images(whole: Whole) -> Check:
    """The same picture in training and validation: figures are too good."""
    for same in _same_pixels(whole):
        train, val = ([one for one in same if one.split == name] for name in ("train", "val"))
        for one in train if val else ():
            value = f"the {_what(one, val[0])} of an image that validates"
            place, fix = f"{one.place}: {one.path}", f"remove it, or {val[0].path} from val"
            yield Told(place, "not be in both splits", value, fix, one.id, split="train")


def different_images(whole: Whole) -> Check:
    """The same picture twice in a split."""
    for same in _same_pixels(whole):
        for name in ("train", "val", "all"):
            first, *others = [one for one in same if one.split == name] or [same[0]]
            for one in others:
                value = f"the {_what(one, first)} of another"
                fix = f"{first.place} ({first.path.name}) is the same; remove one of them"
                place = f"{one.place}: {one.path}"
                yield Told(place, "show another picture", value, fix, one.id, split=name)


def names_in_any_case(whole: Whole) -> Check:
    """Names that are one file on the disks of Windows and macOS."""
    first_of: dict[str, Path] = {}
    for one in whole.seen:
        first = first_of.setdefault(str(one.path).casefold(), one.path)
        if first != one.path:
            fix = f"{first.name} is another file here, but not on every disk; rename one"
            rule = "differ from others by more than upper and lower case"
            place = f"{one.place}: file_name"
            yield Told(place, rule, one.path.name, fix, one.id, split=one.split)


def all_listed(whole: Whole) -> Check:
    """Image files beside the annotated ones that no record names."""
    named = {os.path.realpath(one.path) for one in whole.seen}
    for reading in whole.readings:
        named |= {os.path.realpath(reading.split.images / name) for name in reading.file_names}
    folders = {r.split.images for r in whole.readings if r.split.annotations.is_file()}
    for folder in sorted(folders):
        left = [
            path.relative_to(folder).as_posix()
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES and os.path.realpath(path) not in named
        ]
        if left:
            listed = ", ".join(left[:LISTED]) + (", …" if len(left) > LISTED else "")
            fix = "annotate or remove them"
            value = f"{len(left)} that are in none: {listed}"
            yield Told(str(folder), "hold images of the annotation files only", value, fix)


def _classes(whole: Whole) -> list[str]:
    """The names of all splits, each once."""
    datasets = [reading.dataset for reading in whole.readings]
    return list(dict.fromkeys(name for d in datasets if d is not None for name in d.class_names))


def _same_pixels(whole: Whole) -> list[list[Seen]]:
    """Images in groups that show the same."""
    groups: dict[bytes, list[Seen]] = {}
    for one in whole.seen:
        if one.pixels:
            groups.setdefault(one.pixels, []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def _what(one: Seen, other: Seen) -> str:
    return "bytes" if one.content == other.content else "pixels"
