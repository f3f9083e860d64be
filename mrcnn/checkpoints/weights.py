"""Checks of weights before a model is built for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.errors import FileError
from mrcnn.io.tensors import not_finite
from mrcnn.models import build

COUNTER = ".num_batches_tracked"  # of live batch norm; nothing depends on it
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Check that weights are dense floats and finite.

    Args:
        file: for messages.
        state: tensors under the names of the file.

    Raises:
        FileError: if they are not.
    """
    for name, value in state.items():
        dense = value.layout == torch.strided
        if not dense or not (value.dtype in _FLOATS or name.endswith(COUNTER)):
            kind = str(value.dtype if dense else value.layout).removeprefix("torch.")
            floats = ", ".join(str(dtype).removeprefix("torch.") for dtype in _FLOATS)
            problem = f"{name[:80]} holds {kind}; weights must be dense and of type {floats}"
            raise FileError(file, problem, "save it as one of these")
    if names := not_finite(state):
        raise FileError(
            file,
            f"contains NaN or infinite numbers in {names}, so its training diverged",
            "use an earlier checkpoint, or train again with a lower learning rate",
        )


def check_fits(
    file: Path,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    fix: str = "was it written by another version of mrcnn?",
) -> None:
    """Check that weights have the names and shapes of a model, without memory for the model.

    Args:
        file: for messages.
        state: the weights.
        config: of the model.
        fix: for the message, if they do not fit.

    Raises:
        FileError: if they do not.
    """
    try:
        with torch.device("meta"):
            expected = build(config).state_dict()
    except (ValueError, RuntimeError) as error:
        raise FileError(file, f"describes no valid model ({error})", "use another file") from error
    needed = {name: tuple(value.shape) for name, value in expected.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    differing = sorted(name for name in needed | found if needed.get(name) != found.get(name))
    if differing:
        name = differing[0]
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise FileError(
            file,
            f"its weights do not fit the model it describes ({name[:80]}{more}: shape "
            f"{found.get(name, 'none')} in the file, {needed.get(name, 'none')} in the model)",
            fix,
        )
