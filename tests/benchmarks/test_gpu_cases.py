"""The cases of the GPU's benchmarks, called on the CPU: that inputs and ops fit each other."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("suppression", "proposals", "detections", "matching", "pasting", "targets_of_masks")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "roi_align_forward", "roi_align_backward"])
def test_cases_can_be_called(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    import gpu_cases

    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_cases, "SETS", 1)
    cases = list(getattr(gpu_cases, name)(True))
    assert cases
    for case in cases:
        case.calls[0]()
        for face in case.faces[:1]:
            face()
