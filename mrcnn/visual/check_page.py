"""The page of a checked data set: what was found, counted, and shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mrcnn.data.checks.advice import Advice
from mrcnn.data.checks.check import CHECKS
from mrcnn.data.checks.decoded import DecodedImage, ImageDecoder
from mrcnn.data.checks.findings import ERROR, CheckedData, Finding
from mrcnn.data.checks.statistics import Table
from mrcnn.data.images import read_image
from mrcnn.visual.draw import draw_instances
from mrcnn.visual.marked import draw_marked
from mrcnn.visual.page import Html, bar, join, page, picture, table, tag, tiles
from mrcnn.visual.report import commands, summary

MOST_LINES = 50  # of a kind; findings.jsonl has all
MOST_PICTURES = 18  # of findings, one a kind
SAMPLES = 6  # of a split

_LONGEST = 800  # pixels of a picture
_WRAPPED = "overflow-wrap:anywhere;padding-left:20px"  # long paths on a phone
_OWN_HEIGHTS = "align-items:start"


@dataclass(frozen=True)
class Shown:
    """A picture and what is to be seen in it."""

    image: Image.Image
    caption: str


def check_page(
    checked: CheckedData, tables: Sequence[Table], advice: Sequence[Advice], data: str
) -> str:
    """The whole document.

    Args:
        data: the folder, as commands name it.
    """
    errors = sum(finding.severity == ERROR for finding in checked.findings)
    contents = dict(tables[0].rows) if tables else {}
    header = join(
        [
            summary(*(f"{split.files.annotations}" for split in checked.splits)),
            tiles(
                [
                    ("Errors", f"{errors:,}", "training refuses them, or is wrong"),
                    ("Warnings", f"{len(checked.findings) - errors:,}", "suspicious"),
                    *(
                        (name.capitalize(), f"{sum(contents.get(name, ())):,}", "in all splits")
                        for name in ("images", "objects")
                    ),
                    ("Classes", f"{len(checked.class_names):,}", ""),
                ]
            ),
            *(tag("p", note, class_="warn") for note in checked.notes),
        ]
    )
    samples = {
        split.name: ImageDecoder(split) for split in checked.splits if split.dataset is not None
    }
    sections = [
        ("Findings", _findings(checked.findings)),
        ("Where they are", _pictures(worst_cases(samples, checked.findings))),
        ("Counts", _tables(tables)),
        ("Samples", _pictures(examples(samples))),
        ("To train with", _advice(advice, data)),
    ]
    return page(f"Data set {checked.folder.resolve().name}", header, sections)


def worst_cases(samples: dict[str, ImageDecoder], findings: Iterable[Finding]) -> list[Shown]:
    """For each check an image that has a finding, errors first, the annotation in its own colour.

    What the reader refuses cannot be drawn.
    """
    shown: dict[str, Shown] = {}
    for finding in sorted(findings, key=lambda finding: finding.severity != ERROR):
        if len(shown) == MOST_PICTURES:
            break
        if finding.kind in shown or finding.kind not in CHECKS or finding.image is None:
            continue
        sample = samples[finding.split].find(finding.image)
        if sample is None or sample.file.error:
            continue
        names = samples[finding.split].dataset.class_names
        caption = f"{finding.kind}: {_located(finding)}"
        shown[finding.kind] = Shown(_drawn(sample, names, finding.annotation), caption)
    return list(shown.values())


def examples(samples: dict[str, ImageDecoder]) -> list[Shown]:
    """Of each split images with few to many objects, at even steps."""
    shown = []
    for split, of_split in samples.items():
        order = np.argsort(of_split.dataset.start.diff().numpy(), kind="stable")
        steps = np.linspace(0, len(order) - 1, min(SAMPLES, len(order))).round().astype(int)
        for index in order[steps].tolist():
            sample = of_split.read(index)
            if not sample.file.error:
                count = len(sample.objects)
                caption = f"{split}: {sample.path.name}, {count} objects"
                shown.append(Shown(_drawn(sample, of_split.dataset.class_names), caption))
    return shown


def _located(finding: Finding) -> str:
    return f"{finding.split}: {finding.text}" if finding.split else finding.text


def _drawn(sample: DecodedImage, names: Sequence[str], marked: int | None = None) -> Image.Image:
    """An image and its objects; the annotation `marked` on top, with the box it states."""
    pixels = read_image(sample.path)
    boxes = np.array(
        [one.stated_box if one.id == marked else one.box for one in sample.objects], np.float64
    ).reshape(-1, 4)
    labels = np.array([one.label for one in sample.objects], np.int64)
    masks = [one.mask for one in sample.objects]
    if marked is None:
        drawn = draw_instances(pixels, boxes, labels, masks, names, longest_side=_LONGEST)
        return Image.fromarray(drawn)
    is_marked = np.array([one.id == marked for one in sample.objects], bool)
    return draw_marked(pixels, boxes, labels, masks, is_marked, names, "here:", None, _LONGEST)


def _findings(findings: Sequence[Finding]) -> Html:
    """The kinds with their counts, and the findings of each to unfold."""
    if not findings:
        return tag("p", "Nothing was found.")
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.kind), []).append(finding)
    parts = []
    for (severity, kind), found in sorted(kinds.items(), key=lambda item: item[0][0] != ERROR):
        more = len(found) - MOST_LINES
        lines = [tag("li", _located(finding)) for finding in found[:MOST_LINES]]
        lines += [tag("li", f"and {more:,} more, in findings.jsonl")] if more > 0 else []
        title = f"{severity}: {kind} ({len(found):,})"
        parts.append(tag("details", tag("summary", title), tag("ul", *lines, style=_WRAPPED)))
    return join(parts)


def _pictures(shown: Sequence[Shown]) -> Html:
    return _grid(picture(one.image, one.caption, one.caption[:80]) for one in shown)


def _tables(tables: Sequence[Table]) -> Html:
    return _grid(_table(one) for one in tables)


def _grid(parts: Iterable[Html]) -> Html:
    panels = [tag("div", part, class_="panel") for part in parts]
    return tag("div", *panels, class_="grid", style=_OWN_HEIGHTS) if panels else Html("")


def _table(one: Table) -> Html:
    """A table with a bar for each row, of the longest."""
    totals = [sum(counts) for _, counts in one.rows]
    longest = max(totals, default=0) or 1
    rows = [
        (name, *counts, bar(total / longest) if one.has_bars else "")
        for (name, counts), total in zip(one.rows, totals, strict=True)
    ]
    return join([tag("h3", one.title), table([*one.header, ""], rows)])


def _advice(advice: Sequence[Advice], data: str) -> Html:
    return commands({one.summary(): one.command(data) for one in advice})
