"""The page of a checked data set: findings, statistics, example images and suggested flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrcnn.data.checks.advice import Advice
from mrcnn.data.checks.check import CHECKS
from mrcnn.data.checks.decoded import DecodedImage, ImageDecoder
from mrcnn.data.checks.findings import ERROR, CheckedData, Finding
from mrcnn.data.checks.statistics import Table
from mrcnn.data.images import read_image
from mrcnn.reports.page import EmbeddedImage, Section, Tile, embed, write_page
from mrcnn.visual import draw_instances, draw_marked
from mrcnn.visual.names import short_file

MOST_LINES = 50  # findings of a kind; findings.jsonl has all
MOST_EXAMPLES = 18  # images with findings, one per kind
SAMPLES = 6  # images per split

_LONGEST_SIDE = 640  # pixels of an overlay, so that names are legible in two columns


def write_data_report(
    path: Path, checked: CheckedData, tables: Sequence[Table], advice: Sequence[Advice]
) -> Path:
    """Write the page of a checked data set, with statistics and suggested flags; return the path.

    Raises:
        UserError: If an image cannot be read, or the page cannot be written.
    """
    decoders = {
        split.name: ImageDecoder(split) for split in checked.splits if split.dataset is not None
    }
    suggestions = [(item.summary(), item.command(str(checked.folder))) for item in advice]
    groups = _groups(checked.findings)
    examples, samples = _examples(decoders, checked.findings), _sample_images(decoders)
    parts = [
        Section("Findings", "findings", {"groups": groups, "is_clean": not groups}),
        Section("Examples", "images", {"images": examples}),
        Section("Statistics", "tables", {"tables": tables}),
        Section("Sample images", "images", {"images": samples}),
        Section("Suggested training flags", "suggestions", {"suggestions": suggestions}),
    ]
    return write_page(
        path,
        macros="data_sections.html.j2",
        title=f"Data set {checked.folder.resolve().name}",
        facts=list(dict.fromkeys(str(split.files.annotations) for split in checked.splits)),
        tiles=_tiles(checked, tables),
        warnings=checked.notes,
        sections=[part for part in parts if any(part.arguments.values())],
    )


def _tiles(checked: CheckedData, tables: Sequence[Table]) -> list[Tile]:
    """Return the headline numbers."""
    errors = sum(finding.severity == ERROR for finding in checked.findings)
    contents = dict(tables[0].rows) if tables else {}
    return [
        ("Errors", f"{errors:,}", "training fails or learns wrong data"),
        ("Warnings", f"{len(checked.findings) - errors:,}", "suspicious, to be reviewed"),
        *(
            (name.capitalize(), f"{sum(contents.get(name, ())):,}", "in all splits")
            for name in ("images", "objects")
        ),
        ("Classes", f"{len(checked.class_names):,}", ""),
    ]


def _groups(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the findings of each kind, errors first."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.kind), []).append(finding)
    return [
        {
            "severity": severity,
            "kind": kind,
            "total": len(group),
            "lines": [_located(finding) for finding in group[:MOST_LINES]],
        }
        for (severity, kind), group in sorted(kinds.items(), key=lambda item: item[0][0] != ERROR)
    ]


def _examples(
    decoders: Mapping[str, ImageDecoder], findings: Iterable[Finding]
) -> list[EmbeddedImage]:
    """Draw an image for each kind of finding, errors first, with the annotation marked.

    Images that the reader refuses cannot be drawn.
    """
    examples: dict[str, EmbeddedImage] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity != ERROR):
        if len(examples) == MOST_EXAMPLES:
            break
        if finding.kind in examples or finding.kind not in CHECKS or finding.image is None:
            continue
        decoded = decoders[finding.split].find(finding.image)
        if decoded is None or decoded.file.error:
            continue
        names = decoders[finding.split].dataset.class_names
        overlay = _overlay(decoded, names, finding.annotation)
        alt = f"{finding.kind}: {decoded.path.name}"
        examples[finding.kind] = embed(overlay, _located(finding), alt, finding.kind)
    return list(examples.values())


def _sample_images(decoders: Mapping[str, ImageDecoder]) -> list[EmbeddedImage]:
    """Draw images of each split with few to many objects, at even steps."""
    images = []
    for split, decoder in decoders.items():
        order = np.argsort(decoder.dataset.start.diff().numpy(), kind="stable")
        steps = np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(int)
        for index in order[steps].tolist():
            decoded = decoder.read(index)
            if not decoded.file.error:
                count = len(decoded.objects)
                name = short_file(decoded.path.name)
                caption = f"{split}: {name}, {count} object{'s' * (count != 1)}"
                overlay = _overlay(decoded, decoder.dataset.class_names)
                images.append(embed(overlay, caption, f"Objects of {decoded.path.name}"))
    return images


def _located(finding: Finding) -> str:
    return f"{finding.split}: {finding.text}" if finding.split else finding.text


def _overlay(decoded: DecodedImage, names: Sequence[str], marked: int | None = None) -> Image.Image:
    """Draw an image and its objects; the annotation `marked` on top, with the box of its record."""
    boxes = np.array(
        [item.stated_box if item.id == marked else item.box for item in decoded.objects], np.float64
    ).reshape(-1, 4)
    labels = np.array([item.label for item in decoded.objects], np.int64)
    masks = [item.mask for item in decoded.objects]
    pixels = read_image(decoded.path)
    if marked is None:
        overlay = draw_instances(pixels, boxes, labels, masks, names, longest_side=_LONGEST_SIDE)
    else:
        is_marked = np.array([item.id == marked for item in decoded.objects], bool)
        overlay = draw_marked(
            pixels, boxes, labels, masks, is_marked, names, "here:", longest_side=_LONGEST_SIDE
        )
    return Image.fromarray(overlay)
