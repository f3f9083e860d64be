"""The console command `mrcnn`, which runs one of its commands."""

from __future__ import annotations

import difflib
import importlib
import sys
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Union

from mrcnn.cli.streams import call_safely

# Command -> module with a `main(argv)`, and its line of help. Imported when it is run.
COMMANDS = {
    "train": ("mrcnn.train", "train on your own images, or on generated shapes"),
    "predict": ("mrcnn.predict", "detect objects in images and videos: overlays and JSON"),
    "serve": ("mrcnn.serve", "open a local web page that detects objects in dropped images"),
    "evaluate": ("mrcnn.evaluate", "compute AP of boxes and masks on a data set"),
    "compare": ("mrcnn.compare", "compare two runs or result files"),
    "report": ("mrcnn.report", "write the report page of a run: curves, metrics, errors, images"),
    "check-data": ("mrcnn.check_data", "find problems in a data set, and suggest training flags"),
    "export": ("mrcnn.export", "export a trained model to one file: .pt2 or .onnx"),
    "convert": ("mrcnn.convert", "convert detectors from and to other frameworks"),
    "convert-data": ("mrcnn.convert_data", "convert a data set of any format to COCO files"),
    "doctor": ("mrcnn.doctor", "print versions and built kernels, and how to fix what is missing"),
}
SHELLS = ("bash", "zsh", "fish")
COMPLETION = """\
Load the script in every new shell:
  bash  echo 'source <(mrcnn completion bash)' >> ~/.bashrc
  zsh   echo 'source <(mrcnn completion zsh)' >> ~/.zshrc    (below compinit)
  fish  mrcnn completion fish > ~/.config/fish/completions/mrcnn.fish"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; return its exit code."""
    return call_safely(partial(_main, sys.argv[1:] if argv is None else argv))


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("--version", "version"):
        from mrcnn import __version__

        print(f"mrcnn {__version__}")
        return 0
    command, *rest = argv
    if command == "completion":
        return print_completion(rest)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        print(f"mrcnn: unknown command {command!r:.60}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(COMMANDS[command][0])
        from mrcnn.cli.flags import run
    except ImportError as error:
        text = str(error)
        if not text.startswith("mrcnn: "):  # missing kernels bring their own advice
            text = f"mrcnn: a library is missing or broken: {text}\n"
            text += "  Run: pip install -r requirements.txt"
        print(text, file=sys.stderr)
        return 2
    return run(module.main, rest)


def print_completion(argv: list[str]) -> int:
    """Print the script that completes commands and flags in a shell; return the exit code."""
    if len(argv) != 1 or argv[0] not in SHELLS:
        shells = "|".join(SHELLS)
        print(f"usage: mrcnn completion {shells}\n\n{COMPLETION}", file=sys.stderr)
        return 2
    import tyro

    from mrcnn.cli.flags import grouped

    commands = []
    for name, (module, _) in COMMANDS.items():
        flags = f"{name.title().replace('-', '')}Config"
        root = grouped(getattr(importlib.import_module(module), flags))
        commands.append(Annotated[root, tyro.conf.subcommand(name=name)])
    words = ["--tyro-print-completion", argv[0]]
    union: Any = Union[tuple(commands)]  # noqa: UP007  of a list
    with suppress(SystemExit):
        tyro.cli(union, prog="mrcnn", args=words)
    return 0


def usage() -> str:
    """Return the help text."""
    commands = "\n".join(f"  {name:<13}{text}" for name, (_, text) in COMMANDS.items())
    return (
        f"usage: mrcnn COMMAND [flags]\n\n{commands}\n\n"
        "mrcnn COMMAND --help prints the flags of a command. mrcnn --version prints the version.\n"
        "mrcnn completion bash|zsh|fish prints a script that completes commands and flags.\n"
        "Exit codes: 0 done; 1 problems found by check-data or doctor; 2 an error; 130 Ctrl-C;\n"
        "141 the output has no reader; 143 SIGTERM."
    )
