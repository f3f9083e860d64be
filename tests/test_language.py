"""Check the wording: standard terms instead of private ones, and docstrings that say what they do.

`python tests/test_language.py [PATH …]` prints the offences, one per line.
"""

import ast
import bisect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ("mrcnn", "csrc", "docs", "README.md", "CONTRIBUTING.md", "examples", "benchmarks")
SUFFIXES = {".py", ".md", ".cpp", ".cu", ".cuh", ".h", ".html", ".j2", ".css", ".js", ".ipynb"}

_COUNTED = (
    "images|boxes|anchors|proposals|objects|detections|steps|pixels|bytes|masks|seconds|ms|MB|GB|"
    "samples|points|classes|candidates|workers|threads|rows|values|predictions|epochs"
)
_UNITS = (
    "image|picture|step|cell|batch|level|location|epoch|class|pixel|process|GPU|device|rank|"
    "worker|second|object|box|channel|row|frame|tile"
)

# Regular expression -> what to write instead. A space matches "_", too; words are whole words.
REPLACED = {
    r"figures": "metrics",
    r"run(-| )lengths": "RLE",
    r"running mean of the weights|running means?(?= of)": "EMA",
    r"parts of (a|the|each|every) (batch|step)|batch(es)? in parts": "micro-batches",
    r"rare classes more often": "repeat-factor sampling",
    r"told|tells|tell of": "is reported, prints, describes",
    r"says": "states, prints, reports",
    r"look(s|ed|ing)? at": "reads, processes, considers",
    r"in (the )?place of": "replaces, instead of",
    r"(go|goes|going|went|gone) on": "continue, resume",
    r"what (lies|lay)|lies in(?! [\[(`])": "contents, is in",
    r"(to the|the same|same) bits?": "bit-exact, bit-identical",
    r"mend(s|ed|ing)?|sets? right|setting right": "fix, repair",
    r"(?<!imperative )verbs?": "command",
    rf"({_COUNTED}) an? ({_UNITS})": "per image, per step, …",
    r"of (one'?s|your) own": "your own, custom",
    r"theirs|ours": "mrcnn names, source names",
    r"its kin": "metrics",
    r"anew": "again, starts over",
    r"(is|are|was|were) of(?! (course|shape|type|dtype|length|size))": "belongs to, comes from",
    r"judg(e|es|ed|ing|ment|ement)s?": "score, scorer, evaluator, protocol",
    r"(?<!there )(is|are) no(?! (longer|more|less|fewer|larger|greater))": "is not a",
    r"(has|have|had) none": "has no …",
    r"(writes?|wrote|written|writing) down": "write, record",
    r"pictures?": "image (or overlay, figure, if it is drawn)",
    r"numerics of (detectron2|torchvision|matterport|mrcnn)": "Detectron2 numerics, …",
    r"of one (name|meaning)": "the same name, the same meaning",
    r"last words": "output",
    r"serves? for": "is used for",
    r"is said|own count|join twins|read what can": "see the names in docs/development.md",
}
FIRST_WORDS = r"(Of|What|Whether|How|Where|As)\b"
# (file, regular expression): words that are meant as they stand.
MEANT: set[tuple[str, str]] = set()

_PATTERNS = {
    words: re.compile(rf"(?<![A-Za-z])(?:{words.replace(' ', '[ _]')})(?![A-Za-z])", re.IGNORECASE)
    for words in REPLACED
}


def offences(paths: list[Path]) -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line, the words found, and what to write instead."""
    for path in paths:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT).as_posix()
        prose, starts = _joined(text, name)
        for words, pattern in _PATTERNS.items():
            if (name, words) not in MEANT:
                for match in pattern.finditer(prose):
                    line = bisect.bisect_right(starts, match.start())
                    yield path, line, match[0], REPLACED[words]
        if path.suffix == ".py" and name.startswith("mrcnn/"):
            for line, docstring in _docstrings(text):
                if match := re.match(FIRST_WORDS, docstring):
                    yield path, line, f"docstring: {match[0]} …", "an imperative verb or a noun"


def _joined(text: str, name: str) -> tuple[str, list[int]]:
    """Join the lines without their comment markers, so that a phrase may run over two.

    Returns:
        The text, and the position in it at which each line starts.
    """
    joined, starts, position = [], [], 0
    for line in text.split("\n"):
        if name == "docs/development.md" and line.startswith("|"):
            line = ""  # the glossary names the words it replaces
        words = re.sub(r"\s+", " ", re.sub(r"^\s*(#+|//+|\*+|>|\")?\s*", "", line)).strip()
        starts.append(position)
        joined.append(words)
        position += len(words) + 1
    return " ".join(joined), starts


def _docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each docstring, those of fields included."""
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value.strip()


def files(places: tuple[str, ...]) -> list[Path]:
    """Return the files with prose in these files and folders."""
    paths: list[Path] = []
    for place in places:
        path = (ROOT / place).resolve()
        inside = [path] if path.is_file() else sorted(path.rglob("*"))
        paths += [p for p in inside if p.suffix in SUFFIXES and "results" not in p.parts]
    return paths


def test_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words!r}; write: {instead}"
        for path, line, words, instead in offences(files(PLACES))
    ]
    assert not found, "\n".join(found)


def test_a_phrase_over_two_lines_and_a_name_are_found() -> None:
    prose, _ = _joined(
        "    # the same\n    # bits, set_right; there is\n    # no such file", "a.py"
    )
    found = {match[0] for pattern in _PATTERNS.values() for match in pattern.finditer(prose)}
    assert found == {"the same bits", "set_right"}


if __name__ == "__main__":
    count = 0
    for path, line, words, instead in offences(files(tuple(sys.argv[1:]) or PLACES)):
        print(f"{path.relative_to(ROOT)}:{line}: {words!r}; write: {instead}")
        count += 1
    print(f"{count} offences")
    sys.exit(count > 0)
