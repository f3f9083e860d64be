"""Errors of a host or a GPU that has run out of memory."""

from __future__ import annotations

# PyTorch's class is a RuntimeError, its CPU allocator and custom kernels raise plain ones. Their
# texts are compared, so that the command line need not import torch.
_TEXTS = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the host or of a GPU is used up."""
    return isinstance(error, MemoryError) or bool(isinstance(error, RuntimeError) and _lines(error))


def memory_reason(error: BaseException) -> str:
    """Return the line of such an error that names memory, of at most 120 characters."""
    return f"{(*_lines(error), 'MemoryError')[0]:.120}"


def _lines(error: BaseException) -> list[str]:
    lines = str(error).splitlines()
    return [line.strip() for line in lines if any(text in line.lower() for text in _TEXTS)]
