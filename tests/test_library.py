"""Kernels that are missing, stale or foreign say so, with the command that mends it."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn.ops import library

ROOT = Path(__file__).resolve().parents[1]


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
        [sys.executable, "-m", "mrcnn.train", "--help"],
        cwd=tmp_path,  # comes first on the path
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "mrcnn_C does not load beside PyTorch" in done.stderr
    assert library.BUILD_COMMAND in done.stderr
    assert len(done.stderr.splitlines()) <= 4


@pytest.mark.slow
def test_the_source_distribution_builds_and_imports_elsewhere(tmp_path):
    """sdist, then a wheel of it, then an import from a folder of its own."""
    run = [sys.executable, "-c"]
    build = "import build_backend; print(build_backend.build_sdist({!r}))"
    subprocess.run(
        [*run, f"import sys; sys.path.insert(0, 'csrc'); {build.format(str(tmp_path))}"],
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
