"""The part of YAML in which data sets of YOLO are described: texts, and flat lists of texts."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mrcnn.data.problems import shown
from mrcnn.errors import UserError

Value = str | list[str] | dict[str, str]

_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'"""
_KEY = re.compile(r"([A-Za-z_][\w-]*)\s*:(?:\s+(.*))?$")
_CODE = re.compile(rf"""((?:^|(?<=[\s,\[{{:])){_QUOTED})|(\s#.*|^#.*)$|.""")
_SPACE = re.compile(r"\s*")
_ITEM = re.compile(rf"((?:\w+\s*:\s+)?(?:(?:{_QUOTED})\s*|[^,\[\]{{}}\"']+))(?:,|$)")
_PAIR = re.compile(rf"((?:{_QUOTED})\s*|[^:\"']+):\s+(.+)$")


def read_yaml(text: str, path: Path, keys: tuple[str, ...]) -> dict[str, Value]:
    """The values of some keys of a mapping; what stands under other keys is not looked at.

    Numbers stay texts, and an empty value is an empty text.

    Raises:
        UserError: naming the line of a value that is something else.
    """
    blocks: dict[str, tuple[int, list[str]]] = {}  # key -> its line, and the lines of its value
    lines: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(m[0] for m in _CODE.finditer(raw) if m[2] is None).rstrip()
        if match := _KEY.match(line):
            if match[1] in blocks:
                raise UserError(f"{path}: line {number}: {match[1]!r:.60} is there twice")
            lines = [match[2] or ""]
            blocks[match[1]] = number, lines
        elif line and line not in ("---", "..."):
            lines.append(line)
    values = {}
    for key in keys:
        if key in blocks:
            number, lines = blocks[key]
            try:
                values[key] = _value(lines)
            except ValueError as error:
                raise UserError(
                    f"{path}: line {number}: {key} must be a text or a list of texts ({error}); "
                    "write the list with `- text` on lines of their own"
                ) from None
    return values


def _value(lines: list[str]) -> Value:
    first, rest = lines[0].strip(), [line.strip() for line in lines[1:]]
    if first[:1] in ("[", "{"):
        joined = " ".join([first, *rest])
        close = "]" if first[0] == "[" else "}"
        if not joined.endswith(close):
            raise ValueError(f"its {first[0]} is not closed")
        items = _items(joined[1:-1].strip())
        return [*map(_scalar, items)] if close == "]" else dict(map(_pair, items))
    if first and rest:
        raise ValueError(f"got {shown(rest[0])} below {shown(first)}")
    if first or not rest:
        return _scalar(first)
    if all(line == "-" or line.startswith("- ") for line in rest):
        return [_scalar(line[1:].strip()) for line in rest]
    return dict(map(_pair, rest))


def _items(text: str) -> list[str]:
    """What commas outside of quotes divide."""
    items, at = [], 0
    while at < len(text):
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches anywhere
        if (match := _ITEM.match(text, at)) is None:
            raise ValueError(f"got {shown(text[at : at + 40])}")
        items.append(match[1].strip())
        at = match.end()
    return items


def _pair(text: str) -> tuple[str, str]:
    if (match := _PAIR.match(text)) is None:
        raise ValueError(f"got {shown(text)}")
    return _scalar(match[1]), _scalar(match[2])


def _scalar(text: str) -> str:
    """A text with its quotes taken off."""
    text = text.strip()
    if text[:1] == "'":
        if not re.fullmatch(r"'(?:[^']|'')*'", text):
            raise ValueError(f"got {shown(text)}")
        return text[1:-1].replace("''", "'")
    if text[:1] == '"':
        value = json.loads(text)  # its escapes are those of JSON, and a few more
        return str(value)
    if text[:1] in ("&", "*", "!", "|", ">", "%", "@", "`", "[", "{"):
        raise ValueError(f"got {shown(text)}")
    return text
