"""Fixtures that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mrcnn.ops  # noqa: F401  registers the ops

# Small tensors gain nothing from threads, and lose much where another program uses the cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where the CUDA kernels answer for CPU tensors, what they cannot refuse is not asked."""
    if "emulated" in torch.ops.mrcnn.build_info():
        skip = pytest.mark.skip(reason="kernels on a GPU read no values back")
        for item in items:
            if item.get_closest_marker("by_value"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Go back to one thread after a test that sets another number.

    Threads of OpenMP do not survive a fork: a forked test would crash or wait forever for them.
    """
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder}")
    return folder
