"""Loads the compiled kernels, and says in a few lines what to do where that fails."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from types import ModuleType, TracebackType

import torch

ROOT = Path(__file__).resolve().parents[2]  # the repository, where mrcnn runs from one
BUILD_COMMAND = "pip install --no-build-isolation --no-deps ."


class KernelError(ImportError):
    """The compiled kernels cannot be used; the message holds the command that mends it."""


def source_hash(root: Path = ROOT) -> str | None:
    """The hash of `csrc/` that setup.py embeds in every library; None where sources are absent."""
    csrc = root / "csrc"
    if not csrc.is_dir():
        return None
    digest = hashlib.sha256()
    suffixes = {".h", ".cuh", ".cpp", ".cu"}
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in suffixes):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def load(name: str) -> ModuleType:
    """Import one compiled library.

    Raises:
        KernelError: if it is missing, does not load, or is older than its sources; the message
            holds the command that mends it.
    """
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise KernelError(
            f"mrcnn: the kernels are not built: no module {name} for this Python.\n"
            f"  In the repository, run: {BUILD_COMMAND}"
        ) from None
    except ImportError as error:
        raise KernelError(
            f"mrcnn: {name} does not load beside PyTorch {torch.__version__}: {error}\n"
            f"  Rebuild it for this environment; in the repository, run: {BUILD_COMMAND}"
        ) from error
    built, current = build_info(name, library).split()[0], source_hash()
    if current is not None and built != current:
        raise KernelError(
            f"mrcnn: {name} was built from other sources than those in {ROOT / 'csrc'}\n"
            f"  (built {built}, now {current}; library {library.__file__}).\n"
            f"  In the repository, run: {BUILD_COMMAND}"
        )
    return library


def build_info(name: str, library: ModuleType) -> str:
    """Source hash, PyTorch version and machine that a library was built with."""
    info = library.build_info() if name == "mrcnn_host" else torch.ops.mrcnn.build_info()
    return str(info)


def build_report() -> dict[str, str]:
    """One line for each library: what it was built for, or why it is absent."""
    report = {}
    for name in ("mrcnn_C", "mrcnn_host"):
        try:
            library = load(name)
            report[name] = f"{build_info(name, library)} ({library.__file__})"
        except ImportError as error:
            report[name] = str(error)
    if torch.version.cuda is None:
        report["mrcnn_CUDA"] = f"not built: PyTorch {torch.__version__} has no CUDA"
    else:
        report["mrcnn_CUDA"] = "not built: there are no CUDA kernels in this version"
    return report


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exception hook: of kernels that cannot be used the message says all."""
    if isinstance(error, KernelError):
        sys.stderr.write(f"{error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


try:
    load("mrcnn_C")
except KernelError:
    sys.excepthook = _show
    raise
