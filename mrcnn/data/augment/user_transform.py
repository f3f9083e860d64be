"""Custom image transforms, applied between reading and resizing."""

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

# Takes (h, w, 3) RGB and random numbers, and returns the same shape. It must not move pixels.
Transform = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


def load_transform(name: str) -> Transform:
    """Import the function "module:function"; modules in the current folder are found, too.

    Raises:
        UserError: if there is no such function, or it does not take an image and a generator.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(f"transform {name!r}: must be module:function, such as my_colours:blur")
    if os.getcwd() not in sys.path:  # `python -m` adds it, a console command does not
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UserError(
                f"transform {name!r}: there is no module {module_name!r} in {os.getcwd()} or among "
                "the installed packages; correct the name, or start in the folder of the module"
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
    """Apply the user's function to an image (h, w, 3), and check the shape and type of the result.

    Raises:
        UserError: if it fails, or returns something else.
    """
    name = f"{transform.__module__}:{getattr(transform, '__qualname__', type(transform).__name__)}"
    try:
        result = transform(image.copy(), rng)
    except Exception as error:
        raise UserError(f"transform {name!r} {_failure(error)}") from error
    returned = f"{type(result).__name__}"
    if isinstance(result, np.ndarray):
        returned = f"{result.dtype} of shape {result.shape}"
    expected = f"uint8 of shape {image.shape}"
    if returned != expected:
        raise UserError(f"transform {name!r}: must return an array, {expected}, got {returned}")
    return result


def _failure(error: Exception) -> str:
    """Describe an error and its place in the user's code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"failed with {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
