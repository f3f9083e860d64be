"""Errors that mean a lack of memory are recognised."""

import pytest
import torch

from mrcnn.runtime.memory import is_out_of_memory, memory_reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "MemoryError"),
        (MemoryError("std::bad_alloc"), "std::bad_alloc"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB."), "CUDA out of memory. Tried"),
        (
            RuntimeError("Caught RuntimeError in worker 0.\nTraceback\n  can't allocate memory"),
            "can't allocate memory",
        ),
        (RuntimeError("out of memory: a kernel of mrcnn"), "out of memory: a kernel of mrcnn"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "CUDA error: CUBLAS"),
        (RuntimeError("size mismatch"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_errors_of_memory(error, expected):
    assert is_out_of_memory(error) == (expected is not None)
    if expected is not None:
        assert memory_reason(error).startswith(expected)
