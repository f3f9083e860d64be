"""How PyTorch asks the system for large blocks of memory."""

from __future__ import annotations

import os


def use_huge_pages() -> None:
    """Let PyTorch put large tensors on CPU into huge pages, where Linux has them on request.

    A fresh feature map costs a page fault for every page, with pages of 4 kB longer than most
    kernels take to fill it. For programs, before their first tensor, which is when PyTorch reads
    the variable; a value set by the user stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
