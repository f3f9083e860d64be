"""The mask and matching ops pass their tests with every set of vector instructions.

The set is chosen when the library is loaded, so each has a process of its own; the best set of the
machine is what all other tests use.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ("test_match_boxes.py", "test_mask_targets.py", "test_paste_masks.py")


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_ops_agree_with_their_references(isa):
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-x", *(str(tests / name) for name in FILES)]
    done = subprocess.run(
        command, env=os.environ | {"MRCNN_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
