"""Command lines from dataclasses: every field is a flag, and its docstring is the help text."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tyro

from mrcnn.cli.streams import call_safely, styled
from mrcnn.errors import UserError, printable
from mrcnn.runtime.memory import is_out_of_memory, memory_reason

T = TypeVar("T")

# Errors of the system that name no file, but are not mistakes of the program.
_RESOURCES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


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
    given: dict[str, Any] = {} if default is None else {"default": default}
    with redirect_stdout(styled(sys.stdout)), redirect_stderr(styled(sys.stderr)):
        parsed: T = tyro.cli(cls, args=argv, prog=prog, description=description, **given)
    return parsed


def fields_set(entries: Sequence[str], cls: type) -> dict[str, Any]:
    """Parse the words `name=value` of `--set` as fields of a dataclass.

    Values are JSON, or text for fields of type str.

    Raises:
        UserError: if a word is not such a pair, its field is unknown or set twice, or its value has
            another type.
    """
    known = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    fields: dict[str, Any] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"--set {entry}: must be name=value with a field of the model configuration "
                f"(mrcnn.{cls.__name__}), for example roi_samples=256{hint}"
            )
        if name in fields:
            raise UserError(f"--set {entry}: {name} is set twice; leave one out")
        kind = known[name]
        try:
            fields[name] = typed(kind, json.loads(value) if kind != "str" else value)
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"--set {entry}: {name} must be of type {kind}") from None
    return fields


def typed(kind: str, value: Any) -> Any:
    """Convert a value of JSON, TOML or Python to the annotation `kind`, or raise TypeError."""
    plain = kind.removesuffix(" | None")
    if value is None and plain != kind:
        return None
    if plain.startswith("tuple["):
        if not isinstance(value, list | tuple):
            raise TypeError
        item_kind = plain[len("tuple[") : -1].removesuffix(", ...")
        if "[" not in item_kind:  # a tuple of fixed length has items of one kind
            item_kind = item_kind.split(", ")[0]
        return tuple(typed(item_kind, item) for item in value)
    if " | tuple[" in plain:  # of an item of anchor_sizes
        number, _, numbers = plain.partition(" | ")
        return typed(numbers if isinstance(value, list) else number, value)
    if plain == "float" and type(value) is int:
        return float(value)
    if plain == "Path" and isinstance(value, Path):
        return value
    if type(value) is not {"int": int, "float": float, "bool": bool}.get(plain, str):
        raise TypeError
    return Path(str(value)) if plain == "Path" else value


def require_at_least(config: object, **least: int) -> None:
    """Raise UserError if a field of a command is below its least value; None is allowed."""
    for name, lowest in least.items():
        value = getattr(config, name)
        if value is not None and value < lowest:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be at least {lowest}, got {value}")


def run(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Call the `main` of a command; print errors that the user can fix on stderr.

    Returns the exit code: that of `main` (None is 0), 2 after an error that the user can fix or
    without kernels, 130 after Ctrl-C, else as `call_safely`.
    """
    return call_safely(partial(_run, main, argv))


def _run(main: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mrcnn").setLevel(logging.INFO)
    try:
        os.getcwd()
    except FileNotFoundError:
        print("mrcnn: the current folder has been removed; change to another one", file=sys.stderr)
        return 2
    try:
        return main(argv) or 0
    except UserError as error:
        print(f"mrcnn: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None and error.errno not in _RESOURCES:
            raise
        place = "" if error.filename is None else f"{printable(str(error.filename))}: "
        reason = error.strerror or error
        print(f"mrcnn: {place}cannot be read or written ({reason})", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"mrcnn: there is not enough memory for this ({memory_reason(error)}); lower the batch "
            "size or the size of the images, or end other programs",
            file=sys.stderr,
        )
        return 2
    except ImportError as error:
        if not str(error).startswith("mrcnn: "):  # the message of missing kernels
            raise
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mrcnn: stopped", file=sys.stderr)
        return 130
