"""A few cases of the fuzz program; its own command runs it for longer, with sanitizers."""

import pytest

from tests.helpers import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_random_input_is_read_or_refused(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fuzz.run(target, minutes=1, seed=0, cases=20)
