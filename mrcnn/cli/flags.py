"""Command lines from dataclasses: every field is a flag, and its docstring is the help text."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import errno
import inspect
import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

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
    shown: Mapping[str, str] | None = None,
) -> T:
    """Read a dataclass from the command line.

    A wrong flag ends the program with exit code 2 and a message that names similar flags.

    Args:
        cls: The dataclass.
        argv: The flags. None takes those of the process.
        default: Values of the fields without a flag.
        prog: Name of the program in the help. None takes the module of the class.
        description: Text above the flags. None takes the docstring of the class.
        shown: Default values in the help, by field, where they are not those of `default`.

    Raises:
        UserError: If a word is empty, as from an unset variable: a path would be the current
            folder.
    """
    spec = getattr(sys.modules[cls.__module__], "__spec__", None)  # correct under `python -m`, too
    prog = prog or (spec.name.replace(".", " ") if spec else "mrcnn")
    previous = ""
    for word in sys.argv[1:] if argv is None else argv:
        if not word or (word.startswith("--") and word.endswith("=")):
            name = (word or previous).rstrip("=")
            name = name if name.startswith("--") else "an argument"
            raise UserError(f"{name} must not be empty; check the shell variable in its place")
        previous = word
    width = min(shutil.get_terminal_size().columns, 80)
    paragraphs = inspect.cleandoc(description or cls.__doc__ or "").split("\n\n")
    indent = partial(textwrap.fill, width=width, initial_indent="  ", subsequent_indent="  ")
    text = "\n".join(map(indent, paragraphs))  # without an indentation, tyro joins the lines
    root = grouped(cls, default, shown)
    with redirect_stdout(styled(sys.stdout)), redirect_stderr(styled(sys.stderr)):
        parsed: Any = tyro.cli(root, args=argv, prog=prog, description=text)
    values: dict[str, Any] = {}
    for name, value in vars(parsed).items():
        values |= vars(value) if name in getattr(root, "groups", ()) else {name: value}
    return cls(**values)


def group(title: str, default: Any) -> Any:
    """Return a field with a default value that begins a group of flags in the help."""
    return dataclasses.field(default=default, metadata={"group": title})


def grouped(cls: type, default: object = None, shown: Mapping[str, str] | None = None) -> type[Any]:
    """Return a dataclass for tyro with the fields of `cls`, one field for each of its groups.

    Fields of base classes come last. Arguments as for `parse`.
    """
    hints, types = get_type_hints(cls, include_extras=True), get_type_hints(cls)
    docs: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        docs = _documentation(base) | docs
    fields = {field.name: field for field in dataclasses.fields(cls)}
    own = [name for name in inspect.get_annotations(cls) if name in fields]
    groups: dict[str, list[Any]] = {"": []}
    title = ""
    for name in [*own, *(name for name in fields if name not in own)]:
        field = fields[name]
        title = field.metadata.get("group", title)
        value = field.default if default is None else getattr(default, name)
        settings: dict[str, Any] = {"help": docs.get(name)}
        if value is not dataclasses.MISSING:
            text = (shown or {}).get(name) or _default_text(value)
            settings["help_behavior_hint"] = f"(default: {text})" if text else ""
        elif get_origin(types[name]) is tuple:  # positional
            settings["help_behavior_hint"] = ""
        if metavar := _metavar(types[name]):
            settings["metavar"] = metavar
        annotated = Annotated[hints[name], tyro.conf.arg(**settings)]  # type: ignore[valid-type]
        entry = (name, annotated, dataclasses.field(default=value))
        groups.setdefault(title, []).append(entry)
    root = groups.pop("")
    for title, entries in groups.items():
        part: Any = dataclasses.make_dataclass(title, entries, frozen=True)
        name = title.replace(" ", "_")
        named = Annotated[tyro.conf.OmitArgPrefixes[part], tyro.conf.arg(name=title)]
        root.append((name, named, dataclasses.field(default=part())))
    namespace = {"groups": frozenset(title.replace(" ", "_") for title in groups)}
    return dataclasses.make_dataclass(cls.__name__, root, namespace=namespace, frozen=True)


def _documentation(cls: type) -> dict[str, str]:
    """Return the text below each field in the source of a class."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    return {
        field.target.id: " ".join(str(below.value.value).split())
        for field, below in pairwise(getattr(node, "body", ()))
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def _default_text(value: Any) -> str:
    """Return a default value as the help shows it; an empty text for what is off or not set."""
    if isinstance(value, bool) or value is None:
        return "on" if value else ""
    if isinstance(value, tuple):
        return " ".join(map(_default_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metavar(hint: Any) -> str | None:
    """Return the placeholder of values that may be absent, or several; None leaves it to tyro."""
    inner = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is tuple:
        return f"{inner[0].__name__.upper()} ..." if inner[-1] is Ellipsis else None
    if NoneType not in get_args(hint):
        return None
    if get_origin(inner[0]) is Literal:
        return f"{{{','.join(get_args(inner[0]))}}}"
    return "{True,False}" if inner[0] is bool else str(inner[0].__name__.upper())


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
    if "OMP_WAIT_POLICY" not in os.environ:
        # Before PyTorch is imported. OpenMP's threads wait in a loop before they give up their
        # core; a shorter loop than libgomp's own leaves more time to other processes.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
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
    except (KeyboardInterrupt, SystemError) as error:
        # Python 3.11 replaces the interrupt by this error if Ctrl-C comes while it parses source.
        if isinstance(error, SystemError) and "recursion depth mismatch" not in str(error):
            raise
        print("mrcnn: stopped", file=sys.stderr)
        return 130
