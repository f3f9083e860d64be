"""Text from data sets, such as class names and file names, made safe to show."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Replace control characters and lone surrogates by U+FFFD; newlines stay."""
    return "".join(
        "\ufffd" if c != "\n" and unicodedata.category(c) in ("Cc", "Cs") else c for c in text
    )


def short_name(name: str, longest: int = 24) -> str:
    """Return a name on one line, cut to `longest` characters."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= longest else name[: longest - 1] + "…"
