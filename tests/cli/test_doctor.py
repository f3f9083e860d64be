"""`mrcnn doctor`: facts, problems and their fixes."""

import builtins
import importlib.metadata
import platform
import re
from pathlib import Path

import numpy
import pytest
import torch

from mrcnn import doctor
from mrcnn.ops import library


def test_facts():
    facts, problems = doctor.examine()
    assert problems == []
    assert facts["python"].startswith(platform.python_version())
    assert facts["numpy"] == numpy.__version__
    assert facts["torch"].startswith(torch.__version__)
    for name in ("mrcnn_C", "mrcnn_host"):
        assert library.source_hash() in facts[name]
    assert facts["mrcnn_CUDA"]


def test_every_hard_dependency_is_listed():
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    required = re.findall(r'"([a-z0-9]+)', text.split("\ndependencies = [")[1].split("\n]")[0])
    assert {*doctor._LIBRARIES, "torch"} == set(required)


def test_all_is_well(capsys):
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "All is well."
    assert any(line.split()[:2] == ["torch", f"{torch.__version__},"] for line in lines)


class Gpu:
    """Properties of a GPU as PyTorch returns them."""

    name, major, minor, total_memory = "NVIDIA Volt", 7, 0, 16 << 30


@pytest.mark.parametrize(
    ("error", "fact", "problems"),
    [
        (None, "kernels run", []),
        (RuntimeError("CUDA error: no kernel\nmore"), "kernels do not run", ["no kernel"]),
        (library.KernelError("mrcnn: not built.\n  Run: x"), "mrcnn: not built.", []),
    ],
)
def test_kernels_are_tried_on_every_gpu(monkeypatch, error, fact, problems):
    def nms(boxes, scores, iou_threshold):
        if error:
            raise error

    original = torch.tensor
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Gpu)
    monkeypatch.setattr(torch, "tensor", lambda values, device: original(values))
    monkeypatch.setattr("mrcnn.ops.nms", nms)
    found, wrong = doctor._try_gpu(0)
    assert found == f"NVIDIA Volt, compute 7.0, 16 GiB: {fact}"
    assert len(wrong) == len(problems)
    if wrong:
        assert wrong[0].startswith("kernels do not run on GPU 0: CUDA error: no kernel\n")
        assert "TORCH_CUDA_ARCH_LIST=7.0 FORCE_CUDA=1 pip install" in wrong[0]


def test_kernels_that_are_not_built(capsys, monkeypatch):
    report = {
        "mrcnn_C": "mrcnn: the kernels are not built: no module mrcnn_C for this Python.\n"
        "  In the repository, run: pip install .",
        "mrcnn_host": "0123 torch 2.10 x86_64 (mrcnn_host.so)",
    }
    monkeypatch.setattr(library, "build_report", lambda: report)
    assert doctor.main([]) == 1
    output = capsys.readouterr().out
    assert "To fix:\n* the kernels are not built: no module mrcnn_C for this Python.\n" in output
    assert "run: pip install ." in output
    assert ["mrcnn_host", *report["mrcnn_host"].split()] in [s.split() for s in output.splitlines()]


@pytest.mark.parametrize("name", ["torch", "mrcnn.ops"])
def test_what_does_not_import(monkeypatch, name):
    original = builtins.__import__

    def fail(module, *rest, **more):
        if module == name:
            raise ImportError("mrcnn: it does not load\n  run: pip install .")
        return original(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", fail)
    facts, problems = doctor.examine()
    assert "does not load" in str(facts)
    assert len(problems) == 1
    assert "run: pip install" in problems[0]


def test_a_missing_distribution(monkeypatch):
    original = importlib.metadata.version

    def version(name):
        if name == "safetensors":
            raise importlib.metadata.PackageNotFoundError(name)
        return original(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    facts, problems = doctor.examine()
    assert facts["safetensors"] == "not installed"
    assert problems == ["safetensors is missing; run: pip install safetensors"]


def test_programs_that_are_missing_or_broken(tmp_path):
    assert doctor._first_line(["no-such-program"]) == "no-such-program is not on PATH"
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00")
    broken.chmod(0o755)
    assert "does not run" in doctor._first_line([str(broken)])


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert doctor.examine()[0]["compiler"] == "no-such-compiler is not on PATH"
