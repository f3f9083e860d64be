"""VGG Image Annotator, versions 1 and 2: one JSON file for the images beside it."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from mrcnn.data.coco.annotations import is_number
from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.outlines import REDRAW, ellipse, is_near, near_rule, rectangle
from mrcnn.data.formats.records import ImageRecord, ObjectRecord, ParsedFolder, numbered
from mrcnn.data.image_files import Size, file_name_rule, joined, read_sizes
from mrcnn.data.problems import Problems

SHAPES = {  # name -> its numbers
    "polygon": ("all_points_x", "all_points_y"),
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}

_CLASS = "object"  # where regions have no attributes
_CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type")  # usual names


class _Region(NamedTuple):
    image: str
    label: str  # in messages
    shape: dict[str, Any]
    attributes: dict[str, Any]


def matches(listing: Listing) -> bool:
    """Return whether one of the first JSON files looks like one of VIA."""
    contents, _ = listing.json_samples
    return any(map(_is_via, contents))


def _is_via(content: dict[str, Any]) -> bool:
    """Return whether the content of a file looks like annotations, or a project, of VIA."""
    if isinstance(content.get("_via_img_metadata"), dict):
        return True
    entry = next(iter(content.values()), None)
    return isinstance(entry, dict) and "filename" in entry and "regions" in entry


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read all JSON files. Images are expected beside their file, or in `images/` there."""
    files = set(listing.files)
    label_of: dict[str, str] = {}  # image -> how messages name it
    regions: list[_Region] = []
    declared: dict[str, Any] = {}
    for file in listing.ending(".json"):
        if (content := listing.json_object(file, problems)) is None:
            continue
        if not _is_via(content):
            problems.add(file, "be annotations of VIA", [*content], "move it out of the folder")
            continue
        declared |= _declared_attributes(content)
        for key, entry in content.get("_via_img_metadata", content).items():
            label = f"{file}: {key!r:.60}"
            if not isinstance(entry, dict):
                problems.add(label, "be an object", entry, "remove it")
                continue
            filename, folder = entry.get("filename"), posixpath.dirname(file)
            if rule := file_name_rule(filename, folder):
                fix = f"name an image file inside {listing.folder}"
                problems.add(f"{label}.filename", rule, filename, fix)
                continue
            name = joined(folder, str(filename))
            below = joined(posixpath.join(folder, "images"), str(filename))
            name = below if name not in files and below in files else name
            if name in label_of:
                fix = "merge the entries of the image"
                problems.add(f"{label}.filename", "be unique", filename, fix)
                continue
            label_of[name] = label
            regions += _regions(name, label, entry.get("regions"), problems)
    labels = {name: f"{label}.filename" for name, label in label_of.items()}
    sizes = read_sizes(listing.root, labels, problems)

    attribute = _class_attribute(regions, problems)
    known = listing.class_names()
    options = known or _options(declared.get(attribute or ""))
    objects: dict[str, list[ObjectRecord]] = {name: [] for name in sizes}
    used = set()
    for region in regions:
        class_name = _class_of(region, attribute, known, problems)
        if region.image in sizes and class_name is not None:
            label = f"{region.label}.shape_attributes"
            ring = _ring(region.shape, sizes[region.image], label, problems)
            if ring is not None:
                used.add(class_name)
                objects[region.image].append(ObjectRecord(region.label, class_name, [ring]))
    names = [*options, *sorted(used - set(options))]
    images = [
        ImageRecord(name, label_of[name], sizes[name], objects[name]) for name in sorted(sizes)
    ]
    parsed = ParsedFolder(numbered(names), images)
    if attribute is None and regions:
        parsed.notes.append(f"regions have no attributes: all get the class {_CLASS!r}")
    return parsed


def _regions(name: str, label: str, regions: Any, problems: Problems) -> Iterator[_Region]:
    """Yield the regions of an image: a list in version 2, an object in version 1."""
    if isinstance(regions, dict):
        numbered_regions = list(regions.items())
    elif isinstance(regions, list):
        numbered_regions = list(enumerate(regions))
    else:
        fix = "export the annotations again"
        problems.add(f"{label}.regions", "be a list or an object", regions, fix)
        return
    for number, region in numbered_regions:
        of_region = f"{label}.regions[{number!s:.20}]"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        attributes = region.get("region_attributes", {}) if isinstance(region, dict) else None
        if not isinstance(shape, dict):
            problems.add(f"{of_region}.shape_attributes", "be an object", shape, REDRAW)
        elif not isinstance(attributes, dict):
            fix = "name its class"
            problems.add(f"{of_region}.region_attributes", "be an object", attributes, fix)
        else:
            yield _Region(name, of_region, shape, attributes)


def _declared_attributes(content: dict[str, Any]) -> dict[str, Any]:
    """Return the region attributes that a project declares, by name."""
    declared = content.get("_via_attributes")
    regions = declared.get("region") if isinstance(declared, dict) else None
    return regions if isinstance(regions, dict) else {}


def _options(declared: Any) -> list[str]:
    """Return the values that a project's attribute can take, in the order of the classes."""
    options = declared.get("options") if isinstance(declared, dict) else None
    return [name for name in options if name.strip()] if isinstance(options, dict) else []


def _class_attribute(regions: list[_Region], problems: Problems) -> str | None:
    """Return the attribute that holds the class: the only one, or the first with a usual name."""
    counts = Counter(key for region in regions for key in region.attributes)
    if len(counts) <= 1:
        return next(iter(counts), None)
    usual = next((key for key in _CLASS_ATTRIBUTES if key in counts), None)
    if usual is None:
        rule = f"hold the class in an attribute named {' or '.join(_CLASS_ATTRIBUTES)}"
        problems.add("region_attributes", rule, sorted(counts), "rename one of them")
    return usual


def _class_of(
    region: _Region, attribute: str | None, known: list[str], problems: Problems
) -> str | None:
    """Return the class of a region, or None after adding what is wrong.

    A class that is not listed is a problem too.
    """
    label, value = f"{region.label}.region_attributes", region.attributes.get(attribute or "")
    if attribute is None:
        value = _CLASS
    elif isinstance(value, dict):  # check boxes
        checked = [key for key, on in value.items() if on]
        value = checked[0] if len(checked) == 1 else checked
    if not isinstance(value, str) or not value.strip():
        problems.add(f"{label}.{attribute}", "be one class", value, "name its class")
        return None
    if known and value not in known:
        fix = "correct it, or add it to the list of classes"
        problems.add(label, "hold a listed class", value, fix)
    return value


def _ring(shape: dict[str, Any], size: Size, label: str, problems: Problems) -> list[float] | None:
    """Return the ring of a region, None after adding what is wrong."""
    kind = shape.get("name")
    if not isinstance(kind, str) or kind not in SHAPES:
        problems.add(f"{label}.name", f"be one of {', '.join(SHAPES)}", kind, REDRAW)
        return None
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        return _polygon(xs, ys, size, label, problems)
    numbers: list[float] = []
    for key in (*SHAPES[kind], "theta"):
        value = shape.get(key, 0 if key == "theta" else None)
        if not is_number(value):
            problems.add(f"{label}.{key}", "be a finite number", value, REDRAW)
            return None
        numbers.append(float(value))
    x, y, *extent = numbers
    if not is_near(x, y, size):
        problems.add(f"{label}: {', '.join(SHAPES[kind][:2])}", near_rule(size), [x, y], REDRAW)
        return None
    most = 2 * max(size)
    for key, value in zip(SHAPES[kind][2:], extent, strict=False):
        if not 0 < value <= most:
            problems.add(f"{label}.{key}", f"be more than 0 and at most {most}", value, REDRAW)
            return None
    if kind == "rect":
        return rectangle(x, y, x + extent[0], y + extent[1])
    if kind == "circle":
        return ellipse((x, y), (extent[0], extent[0]))
    return ellipse((x, y), (extent[0], extent[1]), extent[2])


def _polygon(xs: Any, ys: Any, size: Size, label: str, problems: Problems) -> list[float] | None:
    label = f"{label}: all_points_x, all_points_y"
    are_lists = isinstance(xs, list) and isinstance(ys, list)
    if not are_lists or len(xs) != len(ys) or len(xs) < 3:
        value = (len(xs), len(ys)) if are_lists else (xs, ys)
        problems.add(label, "be two lists of the same length, at least 3", value, REDRAW)
        return None
    for number, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if not is_near(x, y, size):
            problems.add(f"{label}[{number}]", near_rule(size), [x, y], REDRAW)
            return None
    return [float(value) for point in zip(xs, ys, strict=True) for value in point]
