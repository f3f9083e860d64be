"""Commands and code blocks of the pages in docs/."""

import re
import shlex
from pathlib import Path

from mrcnn.cli import app

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Return the words of each command of a page; a backslash continues a line."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(command: list[str], *flags: str) -> int:
    """Run `mrcnn COMMAND …` or `python -m mrcnn.COMMAND …` in this process, with more flags."""
    if command[:2] == ["python", "-m"]:
        command = ["mrcnn", command[2].removeprefix("mrcnn."), *command[3:]]
    program, *words = command
    assert program == "mrcnn", command
    return app.main([*words, *flags])


def name_of(command: list[str]) -> str:
    """Return the name of a test of this command."""
    return " ".join(command).replace("/", "_")[:70]
