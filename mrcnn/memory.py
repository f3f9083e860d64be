"""How a process treats the memory of tensors it has freed."""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep memory that tensors on the CPU have freed in this process, for the next tensors.

    By default glibc gives large blocks back to the system, and every large tensor is then mapped
    anew, page by page, as it is first written; for the feature maps of a detector this takes
    longer than many layers. The price is that memory stays at its peak until the process ends.
    For the commands, which own their process; a library has no business to call it.

    Returns:
        Whether the system could be told.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return False
    # Nothing is mapped on its own, and the top of the heap is never cut.
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
