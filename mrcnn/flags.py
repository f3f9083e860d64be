"""Command lines from dataclasses: every field is a flag, its docstring the help."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

from mrcnn.errors import UserError

T = TypeVar("T")


def parse(
    cls: type[T],
    argv: list[str] | None = None,
    default: T | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> T:
    """Read a dataclass from the command line.

    A wrong flag ends the program with exit code 2 and a message that names the nearest flags.

    Args:
        argv: without the name of the program; None takes those of the process.
        default: whose values stand where no flag does.
        prog: what the help calls the program; by default after the module of the class.
        description: what it says first; by default the docstring of the class.
    """
    spec = getattr(sys.modules[cls.__module__], "__spec__", None)  # also right under `python -m`
    prog = prog or (spec.name.replace(".", " ") if spec else "mrcnn")
    if default is None:
        return tyro.cli(cls, args=argv, prog=prog, description=description)
    return tyro.cli(cls, args=argv, prog=prog, description=description, default=default)


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Call the `main` of a verb; what the user can mend becomes a message on stderr.

    Returns:
        The exit code: that of `main`, 2 after a `UserError` or without kernels, 130 when stopped
        from the keyboard.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mrcnn").setLevel(logging.INFO)
    try:
        code = main(argv)
        sys.stdout.flush()
        return code or 0
    except UserError as error:
        print(f"mrcnn: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        if not str(error).startswith("mrcnn: "):  # as kernels that are missing say it
            raise
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mrcnn: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
