"""VGG Image Annotator, versions 1 and 2: one JSON file for the images beside it."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mrcnn.data.coco_annotations import is_number
from mrcnn.data.coco_tables import file_name_rule, joined, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.data.readers.drawn import REDRAW, Size, ellipse, is_near, near_rule, rectangle
from mrcnn.data.readers.listing import Listing
from mrcnn.data.readers.pictures import Object, Picture, Pictures, numbered
from mrcnn.errors import UserError

SHAPES = {  # name -> its numbers
    "polygon": ("all_points_x", "all_points_y"),
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}

_CLASS = "object"  # where regions have no attributes
_USUAL = ("class", "label", "name", "category", "type")  # attributes that hold the class

Region = tuple[str, str, dict[str, Any], dict[str, Any]]  # image, place, shape, attributes


def is_via(content: dict[str, Any]) -> bool:
    """Whether the content of a JSON file looks like one of VIA: annotations, or a project."""
    if isinstance(content.get("_via_img_metadata"), dict):
        return True
    entries = list(content.values())[:1]
    return all(isinstance(e, dict) and "filename" in e and "regions" in e for e in entries) and any(
        entries
    )


def read(listing: Listing, problems: Problems) -> Pictures:
    """Read all JSON files. Images are looked for beside their file, and in `images/` there."""
    files = set(listing.files)
    options: list[str] = []
    places: dict[str, str] = {}  # of the images
    regions: list[Region] = []
    attributes: dict[str, Any] = {}
    for file in listing.ending(".json"):
        try:
            content = listing.json_object(file)
        except UserError as error:
            problems.lines.append(str(error))
            continue
        if not is_via(content):
            problems.add(file, "be annotations of VIA", [*content], "move it out of the folder")
            continue
        attributes |= _declared(content)
        for key, entry in content.get("_via_img_metadata", content).items():
            place = f"{file}: {key!r:.60}"
            name = _image(entry, file, files, place, listing, problems)
            if name is None:
                continue
            if name in places:
                fix = "merge the entries of the image"
                problems.add(f"{place}.filename", "be unique", entry["filename"], fix)
                continue
            places[name] = place
            regions += _regions(name, place, entry.get("regions"), problems)
    named = [(name, f"{place}.filename") for name, place in places.items()]
    sizes = read_sizes(listing.root, named, problems)

    attribute = _class_attribute(regions, problems)
    known = listing.class_names()
    options = known or [*_options(attributes.get(attribute or ""))]
    objects: dict[str, list[Object]] = {name: [] for name in sizes}
    used = set()
    for name, place, shape, own in regions:
        class_name = _class_of(own, attribute, place, problems)
        if known and class_name is not None and class_name not in known:
            fix = "correct it, or add it to the list of classes"
            problems.add(f"{place}.region_attributes", "hold a listed class", class_name, fix)
        if name in sizes and class_name is not None:
            ring = _ring(shape, sizes[name], f"{place}.shape_attributes", problems)
            if ring is not None:
                used.add(class_name)
                objects[name].append(Object(place, class_name, [ring]))
    names = [*options, *sorted(used - set(options))]
    pictures = [Picture(name, places[name], sizes[name], objects[name]) for name in sorted(sizes)]
    found = Pictures(numbered(names), pictures)
    if attribute is None and regions:
        found.notes.append(f"regions have no attributes: all are of one class, {_CLASS!r}")
    return found


def _image(
    entry: Any,
    file: str,
    files: set[str],
    place: str,
    listing: Listing,
    problems: Problems,
) -> str | None:
    """The image file of an entry, None after noting what is wrong."""
    if not isinstance(entry, dict):
        problems.add(place, "be an object", entry, "remove it")
        return None
    name, folder = entry.get("filename"), posixpath.dirname(file)
    if rule := file_name_rule(name, folder):
        fix = f"name an image file inside {listing.folder}"
        problems.add(f"{place}.filename", rule, name, fix)
        return None
    beside = joined(folder, str(name))
    below = joined(posixpath.join(folder, "images"), str(name))
    return below if beside not in files and below in files else beside


def _regions(name: str, place: str, regions: Any, problems: Problems) -> Iterator[Region]:
    """The regions of an image: a list in version 2, an object in version 1."""
    if isinstance(regions, dict):
        numbered_regions = list(regions.items())
    elif isinstance(regions, list):
        numbered_regions = list(enumerate(regions))
    else:
        fix = "export the annotations again"
        problems.add(f"{place}.regions", "be a list or an object", regions, fix)
        return
    for number, region in numbered_regions:
        at = f"{place}.regions[{number!s:.20}]"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        own = region.get("region_attributes", {}) if isinstance(region, dict) else None
        if not isinstance(shape, dict):
            problems.add(f"{at}.shape_attributes", "be an object", shape, REDRAW)
        elif not isinstance(own, dict):
            problems.add(f"{at}.region_attributes", "be an object", own, "name its class")
        else:
            yield name, at, shape, own


def _declared(content: dict[str, Any]) -> dict[str, Any]:
    """The attributes of regions that a project declares, by name."""
    declared = content.get("_via_attributes")
    regions = declared.get("region") if isinstance(declared, dict) else None
    return regions if isinstance(regions, dict) else {}


def _options(declared: Any) -> list[str]:
    """The values that an attribute of a project can take, as the classes come in order."""
    options = declared.get("options") if isinstance(declared, dict) else None
    return [name for name in options if name.strip()] if isinstance(options, dict) else []


def _class_attribute(regions: list[Region], problems: Problems) -> str | None:
    """The attribute that holds the class: the only one, or the first of the usual ones."""
    counts = Counter(key for _, _, _, own in regions for key in own)
    if len(counts) <= 1:
        return next(iter(counts), None)
    usual = next((key for key in _USUAL if key in counts), None)
    if usual is None:
        rule = f"hold the class in an attribute named {' or '.join(_USUAL)}"
        problems.add("region_attributes", rule, sorted(counts), "rename one of them")
    return usual


def _class_of(
    own: dict[str, Any], attribute: str | None, place: str, problems: Problems
) -> str | None:
    """The class of a region, None after noting what is wrong."""
    if attribute is None:
        return _CLASS
    value = own.get(attribute)
    if isinstance(value, dict):  # boxes to tick
        ticked = [key for key, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else ticked
    if isinstance(value, str) and value.strip():
        return value
    problems.add(f"{place}.region_attributes.{attribute}", "be one class", value, "name its class")
    return None


def _ring(shape: dict[str, Any], size: Size, place: str, problems: Problems) -> list[float] | None:
    """The ring of a region, None after noting what is wrong."""
    kind = shape.get("name")
    if not isinstance(kind, str) or kind not in SHAPES:
        problems.add(f"{place}.name", f"be one of {', '.join(SHAPES)}", kind, REDRAW)
        return None
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        return _polygon(xs, ys, size, place, problems)
    numbers: list[float] = []
    for key in (*SHAPES[kind], "theta"):
        value = shape.get(key, 0 if key == "theta" else None)
        if not is_number(value):
            problems.add(f"{place}.{key}", "be a finite number", value, REDRAW)
            return None
        numbers.append(float(value))
    x, y, *extent = numbers
    if not is_near(x, y, size):
        problems.add(f"{place}: {', '.join(SHAPES[kind][:2])}", near_rule(size), [x, y], REDRAW)
        return None
    most = 2 * max(size)
    for key, value in zip(SHAPES[kind][2:], extent, strict=False):
        if not 0 < value <= most:
            problems.add(f"{place}.{key}", f"be more than 0 and at most {most}", value, REDRAW)
            return None
    if kind == "rect":
        return rectangle(x, y, x + extent[0], y + extent[1])
    if kind == "circle":
        return ellipse((x, y), (extent[0], extent[0]))
    return ellipse((x, y), (extent[0], extent[1]), extent[2])


def _polygon(xs: Any, ys: Any, size: Size, place: str, problems: Problems) -> list[float] | None:
    both = isinstance(xs, list) and isinstance(ys, list)
    if not both or len(xs) != len(ys) or len(xs) < 3:
        value = (len(xs), len(ys)) if both else (xs, ys)
        rule = "be two lists of the same length, at least 3"
        problems.add(f"{place}: all_points_x, all_points_y", rule, value, REDRAW)
        return None
    for number, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if not is_near(x, y, size):
            at = f"{place}: all_points_x, all_points_y[{number}]"
            problems.add(at, near_rule(size), [x, y], REDRAW)
            return None
    return [float(value) for point in zip(xs, ys, strict=True) for value in point]
