"""Divide images into training and validation, where the format does not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.formats.records import ParsedFolder
from mrcnn.errors import UserError

_SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class DrawOptions:
    """Options of the draw of validation images.

    The draw depends on the seed and the names of the groups, not on their order: adding an image
    moves few others.
    """

    fraction: float = 0.2  # of the images
    seed: int = 0
    group: str = ""  # regular expression; names with the same match (its group 1) stay together


def memorization_note(source: Path) -> str:
    """Return the note on data that is used for both training and validation."""
    return f"{source} is used for both training and validation: metrics only show memorization"


def split_of(name: str) -> str:
    """Return the split that a word of a name, in any case, stands for; nothing if not one does."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    found = {_SPLIT_OF[word.lower()] for word in words if word.lower() in _SPLIT_OF}
    return found.pop() if len(found) == 1 else ""


def assign_splits(
    parsed: ParsedFolder, folder: Path, options: DrawOptions
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Return the positions of the images of each split, and notes for the user.

    The format's lists decide first, then folders named train and val, then the draw. If there is a
    list for training alone, validation images are drawn from it.
    """
    names = [image.name for image in parsed.images]
    lists = parsed.lists or {
        split: {name for name in names if _split_of_folder(name) == split}
        for split in ("train", "val", "test")
    }
    chosen = {
        split: positions
        for split in ("train", "val")
        if (positions := [i for i, name in enumerate(names) if name in lists.get(split, ())])
    }
    drawn_from = list(range(len(names)))
    if parsed.lists and chosen.keys() == {"train"} and not parsed.lists.get("val"):
        drawn_from = chosen["train"]
    elif parsed.lists or len(chosen) == 2:
        drawn_from = []
    elif others := [i for i in drawn_from if names[i] not in lists["test"]]:
        drawn_from = others
    notes = []
    if left := len(names) - len(set(drawn_from).union(*chosen.values())):
        what = "1 image is" if left == 1 else f"{left} images are"
        notes.append(f"{folder}: {what} neither for training nor for validation, and left out")
    if drawn_from:
        chosen, note = draw_splits([names[i] for i in drawn_from], folder, options)
        chosen = {split: [drawn_from[i] for i in own] for split, own in chosen.items()}
        notes.insert(0, note)
    elif chosen.get("train") == chosen.get("val"):
        notes.append(memorization_note(folder))
    return chosen, tuple(notes)


def draw_splits(
    names: Sequence[str], source: Path, options: DrawOptions
) -> tuple[dict[str, list[int]], str]:
    """Draw the positions of the images of each split, and return a note on it."""
    everything = list(range(len(names)))
    val = _draw_validation(names, source, options)
    if not val:
        return {"train": everything, "val": everything}, memorization_note(source)
    train = sorted(set(everything) - set(val))
    note = (
        f"{source}: names no validation images; {len(train)} images for training and {len(val)} "
        f"for validation are drawn with seed {options.seed} (`mrcnn convert-data` draws others)"
    )
    return {"train": train, "val": val}, note


def _draw_validation(names: Sequence[str], folder: Path, options: DrawOptions) -> list[int]:
    """Draw whole groups of images for validation, about the wanted number and at least one group.

    Returns sorted positions in `names`; none if there is a single group, which training needs.

    Raises:
        UserError: If a name does not match the regular expression.
    """
    groups = _groups(names, folder, options)
    if len(groups) < 2:
        return []
    count = options.fraction * len(names)
    keys = {key: f"{options.seed} {key}".encode(errors="surrogatepass") for key in groups}
    order = sorted(groups, key=lambda key: hashlib.sha256(keys[key]).digest())
    drawn = [*groups[order[0]]]
    for key in order[1:-1]:
        if len(drawn) + len(groups[key]) / 2 <= count:  # not further from it than without
            drawn += groups[key]
    return sorted(drawn)


def _split_of_folder(name: str) -> str | None:
    """Return the split that a folder in the path of a file is named after."""
    parts = map(str.lower, name.split("/")[:-1])
    return next((_SPLIT_OF[part] for part in parts if part in _SPLIT_OF), None)


def _groups(names: Sequence[str], folder: Path, options: DrawOptions) -> dict[str, list[int]]:
    """Return the positions of the images of each group."""
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        key = name
        if options.group:
            match = re.search(options.group, name)
            if match is None:
                raise UserError(
                    f"--group {options.group!r}: must match the name of every image, but not "
                    f"{name!r:.200} in {folder}; correct the expression"
                )
            key = (match[1] if match.re.groups else match[0]) or ""
        groups.setdefault(key, []).append(position)
    return groups
