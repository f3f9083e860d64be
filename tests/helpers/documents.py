"""The pages of docs/ as commands and code, for tests that run them."""

import re
import shlex
from pathlib import Path

from mrcnn.cli import app

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page; after a backslash it goes on in the next line."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(command: list[str], *flags: str) -> int:
    """`mrcnn VERB …` or `python -m mrcnn.VERB …` in this process, with more flags."""
    if command[:2] == ["python", "-m"]:
        command = ["mrcnn", command[2].removeprefix("mrcnn."), *command[3:]]
    program, *words = command
    assert program == "mrcnn", command
    return app.main([*words, *flags])


def name_of(command: list[str]) -> str:
    """For the list of tests."""
    return " ".join(command).replace("/", "_")[:70]
