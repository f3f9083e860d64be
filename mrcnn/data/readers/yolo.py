"""YOLO segmentation: a text file an image, `labels/` beside `images/`, and a YAML file of names.

A line is the number of a class and x, y, x, y, … as parts of the image's width and height.
"""

from __future__ import annotations

import posixpath

from mrcnn.data.coco_tables import file_name_rule, joined, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.data.readers.drawn import REDRAW, Size
from mrcnn.data.readers.listing import CLASS_FILES, Listing, first_repeated
from mrcnn.data.readers.pictures import Object, Picture, Pictures, numbered
from mrcnn.data.readers.simple_yaml import Value, read_yaml
from mrcnn.errors import UserError

_SPLITS = {"train": ("train",), "val": ("val", "valid")}  # keys of the YAML file
_KEYS = ("names", "nc", "path", "train", "val", "valid")
_NAMES = "write data.yaml with `names: [first, second, …]`, or classes.txt with a name a line"

Settings = dict[str, Value]


def is_yolo(listing: Listing) -> bool:
    """Whether the folder has text files below `labels/` and images below `images/`."""
    texts = {part for file in listing.ending(".txt") for part in file.split("/")[:-1]}
    return "labels" in texts and any("images" in file.split("/")[:-1] for file in listing.images())


def read(listing: Listing, problems: Problems) -> Pictures:
    """Read the labels of all images; an image without a text file has no objects."""
    file, settings = _settings(listing, problems)
    names = _names(file, settings, listing, problems)
    images = [name for name in listing.images() if "images" in name.split("/")[:-1]]
    lists = _splits(file, settings, images, listing, problems)
    sizes = read_sizes(listing.root, [(name, name) for name in images], problems)
    found = Pictures(numbered(names), listed=bool(lists))
    image_of: dict[str, str] = {}  # by text file
    files = set(listing.files)
    for name in images:
        label = _label_file(name)
        if (other := image_of.setdefault(label, name)) != name:
            problems.add(name, f"not share {label} with another image", other, "rename one")
        elif name in sizes:
            objects = []
            if label in files:
                objects = _objects(label, sizes[name], names, listing, problems)
            splits = tuple(split for split, chosen in lists.items() if name in chosen)
            found.pictures.append(Picture(name, name, sizes[name], objects, splits))
    if without := [name for label, name in image_of.items() if label not in files]:
        found.notes.append(
            f"{len(without)} images have no text file in labels/ and are taken as images without "
            f"objects ({without[0]}, …)"
        )
    for text in listing.ending(".txt"):
        *folders, base = text.split("/")
        if "labels" in folders and base not in CLASS_FILES and text not in image_of:
            problems.add(text, "belong to an image of its name", text, "add it, or remove the file")
    return found


def _settings(listing: Listing, problems: Problems) -> tuple[str, Settings]:
    """The YAML file of the folder and its content; empty if there is none."""
    settings: dict[str, Settings] = {}
    for file in listing.ending(".yaml", ".yml"):
        if "/" not in file:
            try:
                content = read_yaml(listing.text(file), listing.folder / file, _KEYS)
            except UserError as error:
                problems.lines.append(str(error))
                return file, {}
            if "names" in content:
                settings[file] = content
    if len(settings) > 1:
        fix = "keep the one of this data set"
        problems.add("names", "be in one YAML file", sorted(settings), fix)
    return next(iter(settings.items()), ("", {}))


def _names(file: str, settings: Settings, listing: Listing, problems: Problems) -> list[str]:
    """The classes by number; none after noting what is wrong."""
    names = settings.get("names")
    if names is None:
        listed = listing.class_names()
        if not listed and not problems.lines:
            problems.add("names", "be given for the classes", "no file with names", _NAMES)
        return listed
    if isinstance(names, dict):
        expected = [str(i) for i in range(len(names))]
        if set(names) != set(expected):
            problems.add(f"{file}: names", "be numbered 0, 1, …", [*names], "number them")
            return []
        names = [names[number] for number in expected]
    if isinstance(names, str) or not all(name.strip() for name in names):
        problems.add(f"{file}: names", "be a list of texts", names, _NAMES)
        return []
    if twice := first_repeated(names):
        problems.add(f"{file}: names", "be unique", twice, "rename one")
    if (count := settings.get("nc", "")) not in ("", str(len(names))):
        problems.add(f"{file}: nc", f"be {len(names)}, the number of names", count, "correct it")
    return names


def _splits(
    file: str, settings: Settings, images: list[str], listing: Listing, problems: Problems
) -> dict[str, set[str]]:
    """The images of each split that the YAML file names."""
    lists: dict[str, set[str]] = {}
    root = settings.get("path", "")
    for split, keys in _SPLITS.items():
        entries = next((settings[key] for key in keys if settings.get(key)), [])
        for entry in [entries] if isinstance(entries, str) else entries:
            place = f"{file}: {split}"
            chosen = _chosen(str(root), entry, place, images, listing, problems)
            lists.setdefault(split, set()).update(chosen)
    train, val = lists.get("train", set()), lists.get("val", set())
    if train != val and (both := sorted(train & val)):
        fix = "list each in one of them"
        problems.add(f"{file}: val", "share no images with train, or all", both[0], fix)
    return lists


def _chosen(
    root: str, entry: str, place: str, images: list[str], listing: Listing, problems: Problems
) -> list[str]:
    """The images of a folder, or of a text file that lists them, named by the YAML file.

    Names count from the data's folder, from `path`, or, as some exporters write them, from a
    folder in it.
    """
    if rule := file_name_rule(entry, "folder"):
        problems.add(place, rule, entry, f"name a folder inside {listing.folder}")
        return []
    for start in ("", root):
        for path in (entry, entry.removeprefix("../")):
            folder = joined(start, path)
            if folder.endswith(".txt") and folder in listing.files:
                return _listed(folder, images, listing, problems)
            prefix = "" if folder == "." else f"{folder}/"
            if chosen := [name for name in images if name.startswith(prefix)]:
                return chosen
    problems.add(place, "hold images", entry, f"name a folder of images inside {listing.folder}")
    return []


def _listed(file: str, images: list[str], listing: Listing, problems: Problems) -> list[str]:
    """The images that a text file lists, one a line."""
    known, chosen = set(images), []
    try:
        lines = listing.text(file).splitlines()
    except UserError as error:
        problems.lines.append(str(error))
        return []
    for number, line in enumerate(lines, start=1):
        if not (path := line.strip()):
            continue
        at = f"{file}: line {number}"
        if rule := file_name_rule(path, posixpath.dirname(file)):
            problems.add(at, rule, path, f"name an image inside {listing.folder}")
        elif (name := joined(posixpath.dirname(file), path)) not in known:
            problems.add(at, "be an image below images/", path, "correct or remove the line")
        else:
            chosen.append(name)
    return chosen


def _label_file(image: str) -> str:
    """The text file of an image: the last `images` of its path is `labels` there."""
    parts = posixpath.splitext(image)[0].split("/")
    at = max(i for i, part in enumerate(parts[:-1]) if part == "images")
    return "/".join([*parts[:at], "labels", *parts[at + 1 :]]) + ".txt"


def _objects(
    file: str, size: Size, names: list[str], listing: Listing, problems: Problems
) -> list[Object]:
    """The instances of an image, one a line."""
    try:
        lines = listing.text(file).splitlines()
    except UserError as error:
        problems.lines.append(str(error))
        return []
    objects = []
    for number, line in enumerate(lines, start=1):
        values = line.split()
        if not values:
            continue
        place = f"{file}: line {number}"
        label = int(values[0]) if values[0].isdecimal() and len(values[0]) < 10 else -1
        if label < 0 or (names and label >= len(names)):
            rule = f"begin with the number of a class, 0 to {max(0, len(names) - 1)}"
            problems.add(place, rule, values[0], "correct it, or add the class to the names")
        elif len(values) == 5:
            fix = "boxes are no masks; export polygons"
            problems.add(place, "hold x and y of at least 3 points", "a box", fix)
        elif len(values) < 7 or len(values) % 2 == 0:
            rule = "hold a class, and x and y of at least 3 points"
            problems.add(place, rule, f"{len(values)} numbers", REDRAW)
        elif (ring := _ring(values[1:], size, place, problems)) is not None and names:
            objects.append(Object(place, names[label], [ring]))
    return objects


def _ring(values: list[str], size: Size, place: str, problems: Problems) -> list[float] | None:
    """Pixels from parts of the width and height; None after noting what is wrong."""
    ring = []
    for position, text in enumerate(values):
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not -1 <= value <= 2:  # as far off the image as in other formats
            rule = "hold parts of the width and height, 0 to 1"
            fix = "divide pixels by the size of the image" if value > 2 else REDRAW
            problems.add(f"{place}: number {position + 2}", rule, text, fix)
            return None
        ring.append(value * size[1 - position % 2])
    return ring
