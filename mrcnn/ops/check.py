"""Checks of the arguments of operators; messages name operator, argument, rule and value."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_shape(op: str, name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raise ValueError unless `tensor` has this shape; a letter allows any size."""
    fits = tensor.dim() == len(shape) and all(
        isinstance(size, str) or size == actual
        for size, actual in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{op}: {name} must have shape ({expected}), got {tuple(tensor.shape)}")


def check_dtype(op: str, name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise TypeError unless the dtype of `tensor` is one of `dtypes`."""
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        actual = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{op}: {name} must be {expected}, got {actual}")


def check_at_least(op: str, least: int, **values: int) -> None:
    """Raise ValueError unless all values are at least `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{op}: {name} must be at least {least}, got {value}")


def check_same_device(op: str, **tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are on one device."""
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != reference.device:
            raise ValueError(
                f"{op}: {name} must be on the device of {first}, {reference.device}, "
                f"got {tensor.device}"
            )


def is_transformed(tensor: Tensor) -> bool:
    """Return whether the tensor is one that `torch.func.vmap` or another transform has wrapped."""
    return not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(
        tensor
    )
