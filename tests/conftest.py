"""Fixtures that several tests share."""

from pathlib import Path

import pytest
import torch

# Small tensors gain nothing from threads, and lose much where another program uses the cores. Tests
# of what threads change set their own number.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: no folder {folder}")
    return folder
