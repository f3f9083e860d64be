"""Which pictures are trained on and which validate, where the format does not say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.readers.pictures import Pictures
from mrcnn.errors import UserError

_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class Division:
    """How images are drawn for validation.

    The draw depends on the seed and the names of the groups, not on their order: an image that is
    added later moves few others.
    """

    fraction: float = 0.2  # of the images
    seed: int = 0
    group: str = ""  # regular expression; names with the same match (its group 1) stay together


def divide(found: Pictures, folder: Path, division: Division) -> tuple[dict[str, list[int]], str]:
    """Positions of the pictures of each split, and what the user should know about the choice.

    The lists of the format come first; then folders named train and val; then the draw.

    Raises:
        UserError: if a name does not match the regular expression.
    """
    listed = [picture.splits for picture in found.pictures]
    if not found.listed:
        listed = [_split_of_folder(picture.name) for picture in found.pictures]
    by_name = {name: [i for i, s in enumerate(listed) if name in s] for name in ("train", "val")}
    everything = list(range(len(listed)))
    memory = f"{folder} serves for training and validation: figures show memory only"
    if found.listed or all(by_name.values()):
        left = sum(not splits for splits in listed)
        note = f"{folder}: {left} images are in neither split and are left out" if left else ""
        if by_name["train"] == by_name["val"]:
            note = memory
        return {name: positions for name, positions in by_name.items() if positions}, note
    names = [picture.name for picture in found.pictures]
    val = draw(names, folder, division)
    if not val:
        return {"train": everything, "val": everything}, memory
    train = sorted(set(everything) - set(val))
    note = (
        f"{folder}: has no lists of splits; {len(train)} images to train on and {len(val)} to "
        f"validate are drawn with seed {division.seed} (`mrcnn convert-data` draws others)"
    )
    return {"train": train, "val": val}, note


def draw(names: Sequence[str], folder: Path, division: Division) -> list[int]:
    """Positions of the images to validate: groups of about the wanted number, at least one.

    Args:
        folder: for messages.
    Returns:
        Nothing where there is a single group, for some are to be left.
    Raises:
        UserError: if a name does not match the regular expression.
    """
    groups = _groups(names, folder, division)
    if len(groups) < 2:
        return []
    wanted = division.fraction * len(names)
    order = sorted(
        groups, key=lambda key: hashlib.sha256(f"{division.seed} {key}".encode()).digest()
    )
    drawn = [*groups[order[0]]]
    for key in order[1:-1]:
        if len(drawn) + len(groups[key]) / 2 <= wanted:  # no further from it than without
            drawn += groups[key]
    return sorted(drawn)


def _split_of_folder(name: str) -> tuple[str, ...]:
    """The split that a folder on the way to a file is named after."""
    return tuple(_SPLIT_OF[part] for part in name.split("/")[:-1] if part in _SPLIT_OF)[:1]


def _groups(names: Sequence[str], folder: Path, division: Division) -> dict[str, list[int]]:
    """Positions of the images of each group."""
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        key = name
        if division.group:
            match = re.search(division.group, name)
            if match is None:
                raise UserError(
                    f"--group {division.group!r}: must match the name of every image, but not "
                    f"{name!r:.200} in {folder}; correct the expression"
                )
            key = (match[1] if match.re.groups else match[0]) or ""
        groups.setdefault(key, []).append(position)
    return groups
