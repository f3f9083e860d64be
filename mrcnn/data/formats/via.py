"""VGG Image Annotator, versions 1 and 2: one JSON file for the images beside it."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.image_names import ImageNames
from mrcnn.data.formats.outlines import (
    REDRAW,
    check_point,
    ellipse,
    read_points,
    rectangle,
)
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, left_out, numbered, read_images
from mrcnn.data.image_files import Size, file_name_rule, joined
from mrcnn.data.problems import Problems, RuleError
from mrcnn.io.json_files import is_number

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
    """Read all JSON files of VIA. Images are expected beside their file, or in `images/` there."""
    names, others = ImageNames(set(listing.files)), list[str]()
    label_of: dict[str, str] = {}  # image -> how messages name it
    regions: list[_Region] = []
    declared: dict[str, Any] = {}
    for file in listing.ending(".json"):
        with problems.collect():
            content = listing.json_object(file)
            if not _is_via(content):
                others.append(file)
                continue
            declared |= _declared_attributes(content)
            entries = content.get("_via_img_metadata")
            for key, entry in (entries if isinstance(entries, dict) else content).items():
                label, folder = f"{file}: {key!r:.60}", posixpath.dirname(file)
                with problems.collect():
                    if not isinstance(entry, dict):
                        raise RuleError(label, "be an object", entry, "remove it")
                    filename = entry.get("filename")
                    name = names.find(filename, folder, posixpath.join(folder, "images"))
                    if name is None:
                        if rule := file_name_rule(filename, folder):
                            fix = f"name an image file inside {listing.folder}"
                            raise RuleError(f"{label}.filename", rule, filename, fix)
                        name = joined(folder, str(filename))
                    if name in label_of:
                        fix = "merge the entries of the image"
                        raise RuleError(f"{label}.filename", "be unique", filename, fix)
                    label_of[name] = label
                    regions += _regions(name, label, entry.get("regions"), problems)
    attribute = _class_attribute(regions, problems)
    known = listing.class_names()
    default = known[0] if len(known) == 1 else _CLASS

    def read_objects(name: str, size: Size, problems: Problems) -> list[ObjectRecord]:
        objects = []
        for region in regions_of.get(name, ()):
            with problems.collect():
                class_name = _class_of(region, attribute, default)
                if known and class_name not in known:
                    fix = "correct it, or add it to the list of classes"
                    label = f"{region.label}.region_attributes"
                    problems.add(label, "hold a listed class", class_name, fix)
                ring = _ring(region.shape, size, f"{region.label}.shape_attributes")
                objects.append(ObjectRecord(region.label, class_name, [ring]))
        return objects

    regions_of: dict[str, list[_Region]] = {}
    for region in regions:
        regions_of.setdefault(region.image, []).append(region)
    images = read_images(listing.root, label_of, read_objects, problems, ".filename")
    images.sort(key=lambda image: image.name)
    options = known or _options(declared.get(attribute or ""))
    used = {instance.class_name for image in images for instance in image.objects}
    parsed = ParsedFolder(numbered([*options, *sorted(used - set(options))]), images)
    parsed.notes += [*names.notes(), *left_out(others, "other JSON file")]
    unnamed = sorted(set(listing.images()) - set(label_of))
    parsed.notes += left_out(unnamed, "image without an entry in VIA's file")
    if attribute is None and regions:
        parsed.notes.append(f"regions have no attributes: all get the class {default!r}")
    return parsed


def _regions(name: str, label: str, regions: Any, problems: Problems) -> Iterator[_Region]:
    """Yield the regions of an image: a list in version 2, an object in version 1."""
    if not isinstance(regions, dict | list):
        fix = "export the annotations again"
        raise RuleError(f"{label}.regions", "be a list or an object", regions, fix)
    for number, region in regions.items() if isinstance(regions, dict) else enumerate(regions):
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


def _class_of(region: _Region, attribute: str | None, default: str) -> str:
    """Return the class of a region; `default` where regions have no attributes."""
    value = region.attributes.get(attribute or "")
    if attribute is None:
        value = default
    elif isinstance(value, dict):  # check boxes
        checked = [key for key, on in value.items() if on]
        value = checked[0] if len(checked) == 1 else checked
    if not isinstance(value, str) or not value.strip():
        label = f"{region.label}.region_attributes.{attribute}"
        raise RuleError(label, "be one class", value, "name its class")
    return value


def _ring(shape: dict[str, Any], size: Size, label: str) -> list[float]:
    """Return the ring of a region."""
    kind = shape.get("name")
    if not isinstance(kind, str) or kind not in SHAPES:
        raise RuleError(f"{label}.name", f"be one of {', '.join(SHAPES)}", kind, REDRAW)
    keys = SHAPES[kind]
    if kind == "polygon":
        return _polygon(shape.get(keys[0]), shape.get(keys[1]), size, f"{label}: {', '.join(keys)}")
    numbers: list[float] = []
    for key in (*keys, "theta"):
        value = shape.get(key, 0 if key == "theta" else None)
        if not is_number(value):
            raise RuleError(f"{label}.{key}", "be a finite number", value, REDRAW)
        numbers.append(float(value))
    x, y, *extent, theta = numbers
    check_point([x, y], size, f"{label}: {', '.join(keys[:2])}")
    most = 2 * max(size)
    for key, value in zip(keys[2:], extent, strict=True):
        if not 0 < value <= most:
            raise RuleError(f"{label}.{key}", f"be more than 0 and at most {most}", value, REDRAW)
    if kind == "rect":
        return rectangle(x, y, x + extent[0], y + extent[1])
    if kind == "circle":
        return ellipse(x, y, extent[0], extent[0])
    return ellipse(x, y, extent[0], extent[1], theta)


def _polygon(xs: Any, ys: Any, size: Size, label: str) -> list[float]:
    are_lists = isinstance(xs, list) and isinstance(ys, list)
    if not are_lists or len(xs) != len(ys) or len(xs) < 3:
        value = (len(xs), len(ys)) if are_lists else (xs, ys)
        raise RuleError(label, "be two lists of the same length, at least 3", value, REDRAW)
    return read_points([[x, y] for x, y in zip(xs, ys, strict=True)], size, label)
