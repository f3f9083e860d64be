"""Kernels that are missing, stale or foreign say so, with the command that mends it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrcnn.ops import library

ROOT = Path(__file__).resolve().parents[2]


def test_built_libraries_report_their_sources():
    report = library.build_report()
    assert set(report) == {"mrcnn_C", "mrcnn_host", "mrcnn_CUDA"}
    digest = library.source_hash()
    assert digest is not None
    assert report["mrcnn_C"].startswith(digest)
    assert report["mrcnn_host"].startswith(digest)


def test_any_change_of_the_sources_changes_the_hash(tmp_path):
    assert library.source_hash(tmp_path) is None
    csrc = tmp_path / "csrc" / "nms"
    csrc.mkdir(parents=True)
    hashes = set()
    for name, text in [("nms.h", "a"), ("nms.h", "b"), ("nms.cuh", "b"), ("nms_cuda.cu", "")]:
        (csrc / name).write_text(text)
        hashes.add(library.source_hash(tmp_path))
    (csrc / "notes.txt").write_text("not a source")
    hashes.add(library.source_hash(tmp_path))
    assert len(hashes) == 4


def test_stale_kernels_name_the_command(monkeypatch):
    monkeypatch.setattr(library, "source_hash", lambda: "0123456789abcdef")
    with pytest.raises(ImportError) as error:
        library.load("mrcnn_C")
    message = str(error.value)
    assert "built from other sources" in message
    assert "now 0123456789abcdef" in message
    assert library.BUILD_COMMAND in message
    assert len(message.splitlines()) <= 6


def test_missing_kernels_name_the_command():
    with pytest.raises(ImportError, match="the kernels are not built: no module mrcnn_absent"):
        library.load("mrcnn_absent")


def test_a_library_that_does_not_load_names_the_command(monkeypatch, tmp_path):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f"mrcnn_broken{suffix}").write_bytes(b"not a library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as error:
        library.load("mrcnn_broken")
    assert "does not load beside PyTorch" in str(error.value)
    assert library.BUILD_COMMAND in str(error.value)


def test_a_command_shows_the_message_alone(tmp_path):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f"mrcnn_C{suffix}").write_bytes(b"not a library")
    (tmp_path / "mrcnn").symlink_to(ROOT / "mrcnn")
    done = subprocess.run(
        [sys.executable, "-m", "mrcnn.train", "--steps", "1"],
        cwd=tmp_path,  # comes first on the path
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "mrcnn_C does not load beside PyTorch" in done.stderr
    assert library.BUILD_COMMAND in done.stderr
    assert len(done.stderr.splitlines()) <= 4


# Registers kernels for tensors that this machine may not have, so in a process of its own.
ON_CUDA = """
import sys
import torch
torch.version.cuda = "13.0"
import mrcnn.ops
from mrcnn.ops import library
keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
assert len(mrcnn.ops.nms(boxes, boxes[:, 0], 0.5)) == 1, "on CPU all is well"
for op in library.OPS:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mrcnn::{op}", "CUDA"), op
try:
    torch.ops.mrcnn.nms.default.redispatch(
        keys, boxes[None], boxes[None, :, 0], torch.zeros(1, 0, dtype=torch.int64), 0.5, 1
    )
except library.KernelError as error:
    print(error)
"""


def on_cuda(folder: Path) -> list[str]:
    """What the first call on a CUDA tensor says, with the libraries in `folder` before others."""
    (folder / "mrcnn").symlink_to(ROOT / "mrcnn")
    (folder / "csrc").symlink_to(ROOT / "csrc")
    done = subprocess.run(
        [sys.executable, "-c", ON_CUDA],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


COMMAND = (
    "  In the repository, with nvcc of CUDA 13.0 on PATH, run: "
    "FORCE_CUDA=1 pip install --no-build-isolation --no-deps ."
)


def test_missing_cuda_kernels_are_told_at_the_first_call_on_a_gpu(tmp_path):
    # Stands in for a module that is not there, also where it was built.
    (tmp_path / "mrcnn_CUDA.py").write_text(
        "raise ModuleNotFoundError('no module', name='mrcnn_CUDA')"
    )
    assert on_cuda(tmp_path) == [
        "mrcnn: the CUDA kernels are not built: no module mrcnn_CUDA for this Python.",
        COMMAND,
    ]


def test_broken_cuda_kernels_are_told_at_the_first_call_on_a_gpu(tmp_path):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f"mrcnn_CUDA{suffix}").write_bytes(b"not a library")
    first, last = on_cuda(tmp_path)
    assert first.startswith(f"mrcnn: mrcnn_CUDA does not load beside PyTorch {torch.__version__}: ")
    assert last == f"  It was built for another environment. {COMMAND.strip()}"


def test_stale_cuda_kernels_are_told_at_the_first_call_on_a_gpu(tmp_path):
    stale = "def build_info(): return '0123456789abcdef torch 2.10.0 x86_64, CUDA 13.0 for 9.0'"
    (tmp_path / "mrcnn_CUDA.py").write_text(stale)
    first, second, last = on_cuda(tmp_path)
    assert first.startswith("mrcnn: mrcnn_CUDA was built from other sources than those in ")
    assert "built 0123456789abcdef" in second
    assert last == COMMAND


def test_every_op_is_told_of_missing_kernels():
    defined = {
        name.removeprefix("mrcnn::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("mrcnn::")
    }
    assert set(library.OPS) == defined - {"build_info"}


def test_the_report_of_cuda_kernels(monkeypatch):
    def load(name):
        if name == "mrcnn_CUDA":
            raise library.KernelError("mrcnn: they are not built.\n  Run: pip install .")
        return importlib.import_module(name)

    monkeypatch.setattr(library, "load", load)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert library.build_report()["mrcnn_CUDA"].endswith("has no CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert library.build_report()["mrcnn_CUDA"].splitlines()[1] == "  Run: pip install ."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # One line: nothing to mend.
    assert library.build_report()["mrcnn_CUDA"] == (
        "mrcnn: they are not built. It is not needed here: no GPU."
    )


@pytest.mark.slow
def test_the_source_distribution_builds_and_imports_elsewhere(tmp_path):
    """sdist, then a wheel of it, then an import from a folder of its own."""
    run = [sys.executable, "-c"]
    build = "import build_backend; print(build_backend.build_sdist({!r}))"
    subprocess.run(
        [*run, f"import sys; sys.path.insert(0, 'tools'); {build.format(str(tmp_path))}"],
        cwd=ROOT,
        check=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(archive)], check=True)
    printed = subprocess.run(
        [*run, f"import sys; sys.path.insert(0, {str(target)!r}); import mrcnn.ops as ops;"
               "print(ops.__file__, ops.library.source_hash())"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert printed[0].startswith(str(target))
    assert printed[1] == "None"  # no sources beside it, so nothing to be stale against


def test_an_old_setuptools_is_answered_in_one_line(tmp_path):
    """Before it parses pyproject.toml, which it would refuse at length."""
    package = tmp_path / "setuptools"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '70.0.0'")
    (package / "build_meta.py").touch()
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_backend.py"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "setuptools 70.0.0 is too old" in done.stderr
    assert "run: pip install 'setuptools>=77'" in done.stderr


@pytest.mark.slow
def test_no_compiler_is_told_in_a_few_lines():
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=ROOT,
        env={"PATH": "/nowhere", "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "no C++ compiler: no-such-compiler is not on PATH" in done.stderr
    assert "apt install g++" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is not None, reason="PyTorch has CUDA")
def test_cuda_kernels_that_cannot_be_built_are_told_in_a_few_lines():
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=ROOT,
        env=os.environ | {"FORCE_CUDA": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f"FORCE_CUDA=1, but PyTorch {torch.__version__} has no CUDA" in done.stderr
    assert "Traceback" not in done.stderr
