"""The lowest score to keep of each class."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import UserError

Thresholds = NDArray[np.float32]  # lowest score of each class, (C,)


def parse_thresholds(words: Iterable[str]) -> dict[str, float]:
    """Parse the words of --class-threshold, such as cat=0.7.

    Raises:
        UserError: if a word is not a name and a score.
    """
    thresholds = {}
    for word in words:
        name, _, value = word.rpartition("=")
        try:
            thresholds[name] = float(value)
        except ValueError:
            name = ""
        if not name or not 0 <= thresholds[name] <= 1:
            raise UserError(f"--class-threshold {word}: must be name=score, with a score in [0, 1]")
    return thresholds


def class_thresholds_of(
    names: Sequence[str], score_threshold: float, class_thresholds: Mapping[str, float]
) -> Thresholds:
    """Return the lowest score to keep of each class, (C,).

    Args:
        names: of the C classes.
        score_threshold: for classes without their own.
        class_thresholds: lowest scores of some classes by name.

    Raises:
        UserError: if a class name is unknown.
        ValueError: if a score is not in [0, 1].
        TypeError: if `class_thresholds` is not a mapping.
    """
    if not isinstance(class_thresholds, Mapping):
        raise TypeError(
            "predict: class_thresholds must be a dict from class names to scores, got "
            f'{class_thresholds!r:.80}; result.of("cat") selects classes'
        )
    for name, value in {"score_threshold": score_threshold, **class_thresholds}.items():
        try:
            is_score = 0 <= float(value) <= 1
        except (TypeError, ValueError):
            is_score = False
        if not is_score:
            raise ValueError(f"predict: {name} must be in [0, 1], got {value}")
    thresholds = np.full(len(names), score_threshold, np.float32)
    for name, threshold in class_thresholds.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or names[:8]
            raise UserError(
                f"class threshold {name}={threshold}: the model has no class {name!r}; "
                f"use one of its classes, such as {', '.join(near)}"
            )
        thresholds[names.index(name)] = threshold
    return thresholds
