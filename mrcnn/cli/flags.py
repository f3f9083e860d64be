"""Command lines from dataclasses: every field is a flag, and its docstring is the help text."""

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

    A wrong flag ends the program with exit code 2 and a message that names similar flags.
    `default` holds the values of the fields without a flag. `prog` is the program name in the help
    (default: the module of the class), `description` the text above the flags (default: the
    docstring of the class).
    """
    spec = getattr(sys.modules[cls.__module__], "__spec__", None)  # correct under `python -m`, too
    prog = prog or (spec.name.replace(".", " ") if spec else "mrcnn")
    if default is None:
        return tyro.cli(cls, args=argv, prog=prog, description=description)
    return tyro.cli(cls, args=argv, prog=prog, description=description, default=default)


def require_at_least(config: object, **least: int) -> None:
    """Raise UserError if a field of a command is below its least value; None is allowed."""
    for name, lowest in least.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be at least {lowest}, got {value}")


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Call the `main` of a command; print errors that the user can fix on stderr.

    Returns the exit code: that of `main` (None is 0), 2 after a `UserError` or without kernels, 130
    after Ctrl-C, 141 if the reader of the output has gone.
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
        if not str(error).startswith("mrcnn: "):  # the message of missing kernels
            raise
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mrcnn: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
