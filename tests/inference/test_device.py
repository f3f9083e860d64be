"""Everything between the loader and the padded detections stays on the device of the model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch takes no stand-in for a GPU",
)
def test_no_tensor_leaves_the_device_and_no_value_is_read():
    done = subprocess.run(
        [sys.executable, "tests/helpers/stand_in_gpu.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "all on the device\n"
