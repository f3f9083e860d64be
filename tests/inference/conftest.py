"""Fixtures of the tests of prediction."""

from pathlib import Path

import pytest

from tests.helpers import tiny


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A run folder of the tiny model."""
    return tiny.run(tmp_path_factory.mktemp("weights"))
