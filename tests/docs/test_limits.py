"""The numbers of docs/limits.md are those of the code."""

import pkgutil
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
ROWS = re.findall(r"^\| (.+?) \| ([\d,]+) \| `([\w.]+)` \| .+ \|$", PAGE.read_text(), re.MULTILINE)


def test_every_row_is_checked():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    titles = [line for line in rows if line.startswith("| limit |")]
    assert len(ROWS) == len(rows) - 2 * len(titles) > 10


@pytest.mark.parametrize(("limit", "number", "name"), ROWS)
def test_a_limit_is_that_of_the_code(limit, number, name):
    if name.startswith("mrcnn.serv"):
        pytest.importorskip("starlette")
    assert pkgutil.resolve_name(name) == int(number.replace(",", "")), limit
