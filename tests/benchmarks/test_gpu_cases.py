"""The cases of the GPU benchmarks, called on the CPU: inputs and ops fit each other."""

import pytest

from benchmarks.gpu import op_cases

OPS = [name.removesuffix("_cases") for name in vars(op_cases) if name.endswith("_cases")]


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_cases_can_be_called(op, monkeypatch):
    monkeypatch.setattr(op_cases, "DEVICE", "cpu")
    monkeypatch.setattr(op_cases, "SETS", 1)
    cases = list(getattr(op_cases, f"{op}_cases")(True))
    assert cases
    for case in cases:
        case.calls[0]()
        for face in case.faces[:1]:
            face()
