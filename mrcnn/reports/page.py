"""Rendering of pages: one file without network, from Jinja2 templates.

A page is a header and sections. Every value in it is escaped; names from data sets may contain
anything. Its only script enlarges images and shows the values of curves.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from mrcnn.errors import printable
from mrcnn.io.atomic import replacing

Tile = tuple[str, str, str]  # a headline number: name, value, note

LONGEST_TEXT = 1000  # characters of a value; the rest is cut
LONGEST_SIDE = 800  # pixels of an image
LARGEST_IMAGE = 260_000  # bytes of a JPEG; larger ones are compressed more


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, and the arguments of the template macro that renders it."""

    heading: str
    macro: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class EmbeddedImage:
    """An image inside a page."""

    uri: Markup
    width: int
    height: int
    caption: str
    alt: str
    title: str = ""


def write_page(
    path: Path,
    macros: str,
    *,
    title: str,
    facts: Sequence[str],
    tiles: Sequence[Tile],
    warnings: Sequence[str],
    sections: Sequence[Section],
    refresh: int = 0,
) -> Path:
    """Write a page to a file, whole or not at all, and return the path.

    Args:
        path: .html file.
        macros: Name of the template that defines the macros of the sections.
        title: Heading of the page.
        facts: Phrases of the line below the title.
        tiles: Headline numbers.
        warnings: What the reader should know first.
        sections: Sections in their order.
        refresh: Seconds after which a browser loads the page again; 0 is never.

    Raises:
        UserError: If the file cannot be written.
    """
    header = {"macros": macros, "title": title, "facts": facts, "tiles": tiles}
    template = _environment().get_template("page.html.j2")
    text = template.render(header, warnings=warnings, sections=sections, refresh=refresh)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def embed(image: Image.Image, caption: str, alt: str, title: str = "") -> EmbeddedImage:
    """Encode an image for a page as JPEG; its sides and bytes are bounded."""
    image = image.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    for quality in (85, 70, 50, 30, 15):
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality, optimize=True)
        if buffer.tell() <= LARGEST_IMAGE:
            break
    data = base64.b64encode(buffer.getvalue()).decode()
    uri = Markup(f"data:image/jpeg;base64,{data}")
    return EmbeddedImage(uri, image.width, image.height, caption, alt, title)


def format_metric(value: float) -> str:
    """Return a metric with three digits; a dash for -1 and NaN, which were not measurable."""
    return "—" if math.isnan(value) or value <= -1 else f"{value:.3f}"


def format_share(part: int, whole: int) -> str:
    """Return a percentage; a dash if there is no whole."""
    return f"{part / whole:.1%}" if whole else "—"


def _clean(value: object) -> object:
    """Return a value as text that a page can contain; markup stays as it is."""
    if isinstance(value, Markup) or value is None:
        return value
    text = str(value)
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return printable(text, keep="\n\t")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mrcnn.reports"), autoescape=True, finalize=_clean,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (
        (Path(__file__).parent / name).read_text(encoding="utf-8")
        for name in ("style.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters |= {"metric": format_metric, "count": "{:,}".format}
    environment.globals |= {
        "share": format_share, "style": Markup(style), "script": Markup(script),
        "script_hash": Markup(f"sha256-{digest}"),
    }  # fmt: skip
    return environment
