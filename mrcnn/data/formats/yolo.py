"""YOLO segmentation: one text file per image, `labels/` beside `images/`, and a YAML file of names.

A line is the number of a class and x, y, x, y, … as fractions of the image's width and height.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import yaml

from mrcnn.data.formats.folder import CLASS_FILES, Listing, first_repeated
from mrcnn.data.formats.image_names import ImageNames
from mrcnn.data.formats.outlines import REDRAW
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, numbered, read_images
from mrcnn.data.image_files import Size, file_name_rule, joined
from mrcnn.data.problems import Problems, RuleError
from mrcnn.errors import FileError

_SPLITS = {"train": ("train",), "val": ("val", "valid")}  # keys of the YAML file
_NAMES = "write data.yaml with `names: [first, second, …]`, or classes.txt with a name per line"
_NAMES_KEY = re.compile(r"\bnames\b\W*:")
_MOST_CHARACTERS, _DEEPEST = 2**18, 20  # of a YAML file
_BaseLoader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

Settings = dict[str, Any]


class _Loader(_BaseLoader):  # type: ignore[misc]  # its base is chosen at run time
    """Load texts, lists and mappings. Refuse keys that occur twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                problem = f"the key {key.value!r:.60} occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else None)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def matches(listing: Listing) -> bool:
    """Return whether there are text files below `labels/` and images below `images/`."""
    texts = {part for file in listing.ending(".txt") for part in file.split("/")[:-1]}
    return "labels" in texts and any("images" in file.split("/")[:-1] for file in listing.images())


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read the labels of all images. An image without a text file has no objects."""
    file, settings = _settings(listing, problems)
    if (shape := settings.get("kpt_shape")) is not None:  # key points look like polygons
        rule = "be absent, because labels of key points hold no masks"
        problems.add(f"{file}: kpt_shape", rule, shape, "export polygons")
    names = _names(file, settings, listing, problems)
    image_names = [name for name in listing.images() if "images" in name.split("/")[:-1]]
    lists = _splits(file, settings, image_names, listing, problems)
    files = set(listing.files)
    image_of: dict[str, str] = {}  # by text file
    for name in image_names:
        text = _label_file(name)
        if (other := image_of.setdefault(text, name)) != name:
            problems.add(name, f"not share {text} with another image", other, "rename one")

    def read_objects(name: str, size: Size, problems: Problems) -> list[ObjectRecord]:
        text = _label_file(name)
        return _objects(text, size, names, listing, problems) if text in files else []

    labels = {name: name for name in image_of.values()}
    images = read_images(listing.root, labels, read_objects, problems)
    parsed = ParsedFolder(numbered(names), images, lists)
    if without := [name for text, name in image_of.items() if text not in files]:
        parsed.notes.append(
            f"{len(without)} images have no text file in labels/ and are taken as images without "
            f"objects ({without[0]}, …)"
        )
    for text in listing.ending(".txt"):
        *folders, base = text.split("/")
        if "labels" in folders and base not in CLASS_FILES and text not in image_of:
            problems.add(text, "belong to an image of its name", text, "add it, or remove the file")
    return parsed


def _settings(listing: Listing, problems: Problems) -> tuple[str, Settings]:
    """Return the YAML file of the folder and its contents; empty if there is none.

    Files without names belong to other programs. They may be anything.
    """
    settings: dict[str, Settings] = {}
    for file in listing.ending(".yaml", ".yml"):
        if "/" not in file:
            try:
                text = listing.text(file)
                content = _read_yaml(listing.folder / file, text) if _NAMES_KEY.search(text) else {}
            except FileError as error:
                problems.add_error(error)
                return file, {}
            if "names" in content:
                settings[file] = content
    if len(settings) > 1:
        fix = "keep the one of this data set"
        problems.add("names", "be in one YAML file", sorted(settings), fix)
    return next(iter(settings.items()), ("", {}))


def _read_yaml(path: Path, text: str) -> Settings:
    """Parse a mapping. All its scalars are texts.

    Aliases are refused: a few of them can stand for gigabytes. So are deeply nested files, which
    the loader would descend into recursively.
    """
    if len(text) > _MOST_CHARACTERS:
        problem = f"has {len(text):,} characters, at most {_MOST_CHARACTERS:,} are read"
        raise FileError(path, problem, "keep the names and splits only")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                mark: Any = event.start_mark
                problem, fix = "holds an alias", "write its value there"
                if depth > _DEEPEST:
                    problem, fix = f"is nested deeper than {_DEEPEST} levels", "write plain lists"
                raise FileError(path, f"line {mark.line + 1}: {problem}", fix)
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "context_mark", None) or getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        fix = "write `names: [first, second, …]`, or each name on its own line after `- `"
        raise FileError(path, f"{line}is not YAML ({reason:.200})", fix) from error
    if not isinstance(content, dict):
        raise FileError(path, f"must hold keys such as names, got {str(content)[:60]!r}", _NAMES)
    return content


def _names(file: str, settings: Settings, listing: Listing, problems: Problems) -> list[str]:
    """Return the classes by number; none after adding what is wrong."""
    names = settings.get("names")
    if names is None:
        listed = listing.class_names()
        if not listed and not problems.items:
            problems.add("names", "be given for the classes", "no file with names", _NAMES)
        return listed
    if isinstance(names, dict):
        numbers = [str(i) for i in range(len(names))]
        if set(names) != set(numbers):
            problems.add(f"{file}: names", "be numbered 0, 1, …", [*names], "number them")
            return []
        names = [names[number] for number in numbers]
    if not _is_text_list(names) or not all(name.strip() for name in names):
        problems.add(f"{file}: names", "be a list of texts", names, _NAMES)
        return []
    if (repeated := first_repeated(names)) is not None:
        problems.add(f"{file}: names", "be unique", repeated, "rename one")
    if (count := settings.get("nc", "")) not in ("", str(len(names))):
        problems.add(f"{file}: nc", f"be {len(names)}, the number of names", count, "correct it")
    return list(names)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _splits(
    file: str, settings: Settings, images: list[str], listing: Listing, problems: Problems
) -> dict[str, set[str]]:
    """Return the images of each split that the YAML file names."""
    lists: dict[str, set[str]] = {}
    root = settings.get("path", "")
    if not isinstance(root, str):
        problems.add(f"{file}: path", "be a text", root, "name the folder of the data")
        return {}
    for split, keys in _SPLITS.items():
        value: Any = next((settings[key] for key in keys if settings.get(key)), [])
        entries = [value] if isinstance(value, str) else value
        label = f"{file}: {split}"
        if not _is_text_list(entries):
            problems.add(label, "be a text or a list of texts", value, "name folders of images")
            continue
        for entry in entries:
            lists.setdefault(split, set())
            with problems.collect():
                lists[split].update(_chosen(root, entry, label, images, listing, problems))
    train, val = lists.get("train", set()), lists.get("val", set())
    if train != val and (both := sorted(train & val)):
        fix = "list each in one of them"
        problems.add(f"{file}: val", "share no images with train, or all", both[0], fix)
    return lists


def _chosen(
    root: str, entry: str, label: str, images: list[str], listing: Listing, problems: Problems
) -> list[str]:
    """Return the images of a folder, or of a text file that lists them, named by the YAML file.

    Names are relative to the data's folder, to `path`, or to a folder that is not on this machine:
    of those, the last parts count.
    """
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", "..", ".")]
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    for path in dict.fromkeys((joined("", entry), joined(root, entry), *tails)):
        if path.endswith(".txt") and path in listing.files:
            return _listed(path, images, listing, problems)
        prefix = "" if path == "." else f"{path}/"
        if chosen := [name for name in images if name.startswith(prefix)]:
            return chosen
    rule = file_name_rule(entry, "folder") or "hold images"
    fix = f"name a folder of images inside {listing.folder}, or remove the line"
    raise RuleError(label, rule, entry, fix)


def _listed(file: str, images: list[str], listing: Listing, problems: Problems) -> list[str]:
    """Return the images that a text file lists, one per line."""
    names, chosen, folder = ImageNames(dict.fromkeys(images)), [], posixpath.dirname(file)
    for label, path in listing.lines(file):
        if (name := names.find(path, folder)) is not None:
            chosen.append(name)
        else:
            rule = file_name_rule(path, folder) or "be an image below images/"
            problems.add(label, rule, path, "correct or remove the line")
    return chosen


def _label_file(image: str) -> str:
    """Return the text file of an image: its path with `labels` for the last `images`."""
    parts = posixpath.splitext(image)[0].split("/")
    at = max(i for i, part in enumerate(parts[:-1]) if part == "images")
    return "/".join([*parts[:at], "labels", *parts[at + 1 :]]) + ".txt"


def _objects(
    file: str, size: Size, names: list[str], listing: Listing, problems: Problems
) -> list[ObjectRecord]:
    """Return the instances of an image, one per line."""
    objects = []
    for label, line in listing.lines(file):
        with problems.collect():
            first, *values = line.split()
            whole, _, zeros = first.partition(".")  # NumPy writes 0.0
            is_whole = whole.isdecimal() and len(whole) < 10 and not zeros.strip("0")
            number = int(whole) if is_whole else -1
            if number < 0 or (names and number >= len(names)):
                rule = f"begin with the number of a class, 0 to {max(0, len(names) - 1)}"
                raise RuleError(label, rule, first, "correct it, or add the class to the names")
            if len(values) == 4:
                fix = "boxes are not masks; export polygons"
                raise RuleError(label, "hold x and y of at least 3 points", "a box", fix)
            if len(values) < 6 or len(values) % 2:
                rule = "hold a class, and x and y of at least 3 points"
                raise RuleError(label, rule, f"{1 + len(values)} numbers", REDRAW)
            ring = _ring(values, size, label)
            if names:
                objects.append(ObjectRecord(label, names[number], [ring]))
    return objects


def _ring(values: list[str], size: Size, label: str) -> list[float]:
    """Return pixels from fractions of the width and height."""
    ring = []
    for position, text in enumerate(values):
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not -1 <= value <= 2:  # as far off the image as in other formats
            rule = "hold fractions of the width and height, 0 to 1"
            fix = "divide pixels by the size of the image" if value > 2 else REDRAW
            raise RuleError(f"{label}: number {position + 2}", rule, text, fix)
        ring.append(value * size[1 - position % 2])
    return ring
