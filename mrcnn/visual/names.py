"""Text from data sets, such as class names and file names, made safe to show."""

from __future__ import annotations

from mrcnn.errors import printable


def short_file(name: str, longest: int = 36) -> str:
    """Return a file name cut in the middle to `longest` characters; its ends tell files apart."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: longest - half - 1]}…{name[-half:]}"


def short_name(name: str, longest: int = 24) -> str:
    """Return a name on one line, cut to `longest` characters."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= longest else name[: longest - 1] + "…"
