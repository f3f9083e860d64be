"""The floors: a file imports from lower floors only, and only commands talk to the user."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrcnn"
FLOORS = [  # from the ground up; what is on one floor does not import each other
    {"errors", "numerics"},
    {"io", "runtime", "cli/streams"},
    {"cli/flags", "cli/progress"},
    {"ops"},
    {"structures", "config"},
    {"models", "data"},
    {"checkpoints", "exporting", "visual"},
    {"evaluation"},
    {"inference"},
    {"reports", "serving"},
    {"training"},
    {
        "train",
        "predict",
        "evaluate",
        "compare",
        "report",
        "serve",
        "export",
        "convert",
        "convert_data",
        "check_data",
        "doctor",
    },
    {"cli"},
    {"__init__", "__main__"},
]
# Only these may print, exit and parse arguments.
COMMANDS = set().union(FLOORS[2], *FLOORS[-3:], {"cli/streams", "training"})
CALLERS = {"exporting/onnx_ops.py"}  # translates calls of torch.ops
REFERENCES = {"reference", "reference_masks"}
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(parts: list[str]) -> str:
    """Return the top-level module or folder, or a module of cli/ that has a floor of its own."""
    nested = "/".join(parts[:2])
    return nested if any(nested in floor for floor in FLOORS) else parts[0]


def floor_of(room: str) -> int:
    for number, floor in enumerate(FLOORS):
        if room in floor:
            return number
    raise AssertionError(f"mrcnn/{room} is on no floor; add it to FLOORS in {Path(__file__).name}")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also those inside functions; `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def offences(file: str, source: str) -> list[str]:
    """What a file of the package does that its floor does not allow."""
    found, tree = [], ast.parse(source)
    parts = file.removesuffix(".py").split("/")
    room = room_of(parts)
    for name in imports(tree):
        if name.startswith("."):
            found.append(f"imports relatively: {name}")
        if not name.startswith("mrcnn."):
            if name.split(".")[0] in ("argparse", "tyro") and room not in COMMANDS:
                found.append(f"parses arguments: {name}")
            continue
        other = room_of(name.split(".")[1:])
        if other != room and other[0].islower() and floor_of(other) >= floor_of(room):
            found.append(f"imports from its own floor or above: {name}")
        if REFERENCES & set(name.split(".")) and parts[-1] not in REFERENCES:
            found.append(f"imports a reference: {name}")
    for node in ast.walk(tree):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called in ("print", "input", "exit", "sys.exit", "SystemExit") and room not in COMMANDS:
            found.append(f"talks to the user: {called}")
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) == "torch.ops"
            and file not in CALLERS
            and room != "ops"
        ):
            found.append("calls torch.ops")
    return found


@pytest.mark.parametrize("file", FILES)
def test_floors(file):
    assert offences(file, FILES[file].read_text()) == []


OFFENDERS = {
    "models import data": ("models/rpn.py", "from mrcnn.data.coco.read import CocoDataset"),
    "data import models": ("data/coco.py", "from mrcnn import models"),
    "ops import a higher floor": ("ops/nms.py", "def f():\n    import mrcnn.structures"),
    "a reference in use": ("ops/nms.py", "from mrcnn.ops.reference import nms"),
    "a reference in use, as a module": ("models/rpn.py", "from mrcnn.ops import reference"),
    "a print": ("models/rpn.py", "print('here')"),
    "an exit": ("data/coco.py", "import sys\nsys.exit(2)"),
    "a parser": ("config.py", "import argparse"),
    "a relative import": ("models/rpn.py", "from .anchors import grid_anchors"),
    "an op without its face": ("models/rpn.py", "import torch\ntorch.ops.mrcnn.nms"),
}


@pytest.mark.parametrize("case", OFFENDERS)
def test_offenders_are_found(case):
    assert len(offences(*OFFENDERS[case])) == 1


def test_a_new_file_needs_a_floor():
    with pytest.raises(AssertionError, match="mrcnn/attic is on no floor"):
        offences("attic.py", "import mrcnn.ops")
