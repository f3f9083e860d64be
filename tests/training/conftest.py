"""Fixtures of the tests of training."""

import pytest

from tests.helpers import short_runs


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A small data set, which no test changes."""
    return short_runs.write_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def no_drawing(monkeypatch):
    short_runs.without_drawing(monkeypatch.setattr)
