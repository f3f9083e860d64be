"""A function of the user's own between reading an image and resizing it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import UserError

# (h, w, 3) RGB and random numbers in, as many pixels out. It may change colours, not places.
Transform = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


def load_transform(name: str) -> Transform:
    """The function that "module:function" names; modules in the current folder are found, too.

    Raises:
        UserError: if there is no such function, or it does not take an image and a generator.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(f"transform {name!r}: must be module:function, as in my_colours:blur")
    if os.getcwd() not in sys.path:  # as it is under `python -m`, but not for a console command
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UserError(
                f"transform {name!r}: there is no module {module_name!r} in {os.getcwd()}, nor is "
                "one installed; correct the name, or start from the folder it is in"
            ) from error
        raise UserError(f"transform {name!r}: importing it {_failure(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = get_close_matches(function_name, known) or known
        hint = f"; it has {', '.join(near[:5])}" if near else ""
        raise UserError(f"transform {name!r}: {module_name} has no function {function_name}{hint}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"transform {name!r}: must take an image and a random generator ({error})"
        ) from error
    transform: Transform = function
    return transform


def apply_transform(
    transform: Transform, image: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """What the user's function makes of an image (h, w, 3), of the same shape and type.

    Raises:
        UserError: if it fails, or returns something else.
    """
    name = f"{transform.__module__}:{getattr(transform, '__qualname__', type(transform).__name__)}"
    try:
        result = transform(image.copy(), rng)
    except Exception as error:
        raise UserError(f"transform {name!r} {_failure(error)}") from error
    found = f"{type(result).__name__}"
    if isinstance(result, np.ndarray):
        found = f"{result.dtype} of shape {result.shape}"
    expected = f"uint8 of shape {image.shape}"
    if found != expected:
        raise UserError(f"transform {name!r}: must return an array, {expected}, got {found}")
    return result


def _failure(error: Exception) -> str:
    """What failed, and where in the user's code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"failed with {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
