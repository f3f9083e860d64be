"""The numbers of docs/limits.md are those of the code."""

import pkgutil
import re
from pathlib import Path

import pytest

from mrcnn import config

TEXT = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| ([\d,]+) \| `([\w.]+)` \| .+ \|$", TEXT, re.MULTILINE)
RANGES = re.findall(r"^\| `(\w+)` \| ([-\d,.e]+) \| ([-\d,.e]+) \|$", TEXT, re.MULTILINE)


def test_every_row_is_checked():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    titles = [line for line in rows if line.startswith(("| limit |", "| field |"))]
    assert len(ROWS) + len(RANGES) == len(rows) - 2 * len(titles)


def test_ranges_are_those_of_the_model_configuration():
    def text(number: float) -> str:
        return f"{number:,}" if isinstance(number, int) else f"{number:,.15g}"

    assert [(field, *map(text, ends)) for field, ends in config._RANGES.items()] == RANGES


@pytest.mark.parametrize(("limit", "number", "name"), ROWS)
def test_a_limit_is_that_of_the_code(limit, number, name):
    if name.startswith("mrcnn.serv"):
        pytest.importorskip("starlette")
    assert pkgutil.resolve_name(name) == int(number.replace(",", "")), limit
