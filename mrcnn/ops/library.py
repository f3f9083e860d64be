"""Loading of the compiled kernels; an error names the command that fixes it."""

from __future__ import annotations

import hashlib
import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import torch

ROOT = Path(__file__).resolve().parents[2]  # the repository, if mrcnn runs from one
BUILD_COMMAND = "pip install --no-build-isolation --no-deps ."
LIBRARIES = ("mrcnn_C", "mrcnn_host", "mrcnn_CUDA")  # mrcnn_CUDA only if PyTorch has CUDA
OPS = (
    "roi_align",
    "roi_align_backward",
    "roi_pool",
    "roi_pool_backward",
    "nms",
    "nms_indices",
    "select_proposals",
    "select_detections",
    "match_boxes",
    "mask_targets",
    "paste_masks",
    "paste_masks_packed",
    "paste_masks_rle",
)


class KernelError(ImportError):
    """The compiled kernels cannot be used; the message names the command that fixes it."""


def source_hash(root: Path = ROOT) -> str | None:
    """Return the hash of `csrc/` that setup.py embeds in all libraries; None without sources."""
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

    Args:
        name: one of `LIBRARIES`.

    Raises:
        KernelError: if it is missing, does not load, or was built from other sources; the message
            names the command that fixes it.
    """
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        kernels = "CUDA kernels" if name == "mrcnn_CUDA" else "kernels"
        raise KernelError(
            f"mrcnn: the {kernels} are not built: no module {name} for this Python.\n"
            f"  {_build_advice(name)}"
        ) from None
    except ImportError as error:
        raise KernelError(
            f"mrcnn: {name} does not load beside PyTorch {torch.__version__}: {error}\n"
            f"  It was built for another environment. {_build_advice(name)}"
        ) from error
    built, current = build_info(name, library).split()[0], source_hash()
    if current is not None and built != current:
        raise KernelError(
            f"mrcnn: {name} was built from other sources than those in {ROOT / 'csrc'}\n"
            f"  (built {built}, now {current}; library {library.__file__}).\n"
            f"  {_build_advice(name)}"
        )
    return library


def _build_advice(name: str) -> str:
    if name != "mrcnn_CUDA":
        return f"In the repository, run: {BUILD_COMMAND}"
    nvcc = f"nvcc of CUDA {torch.version.cuda}"
    return f"In the repository, with {nvcc} on PATH, run: FORCE_CUDA=1 {BUILD_COMMAND}"


def build_info(name: str, library: ModuleType) -> str:
    """Return source hash, PyTorch version and machine of a library's build."""
    info = torch.ops.mrcnn.build_info() if name == "mrcnn_C" else library.build_info()
    return str(info)


def build_report() -> dict[str, str]:
    """Describe in one line per library what it was built for, or why it is absent and the fix."""
    report = {}
    for name in LIBRARIES:
        if name == "mrcnn_CUDA" and torch.version.cuda is None:
            report[name] = f"not built: PyTorch {torch.__version__} has no CUDA"
            continue
        try:
            library = load(name)
            report[name] = f"{build_info(name, library)} ({library.__file__})"
        except ImportError as error:
            report[name] = str(error)
            if name == "mrcnn_CUDA" and not torch.cuda.is_available():
                report[name] = f"{report[name].splitlines()[0]} It is not needed here: no GPU."
    return report


def load_cuda() -> None:
    """Load the CUDA kernels; if that fails, every op raises the error when it gets a CUDA tensor.

    The error is not raised at import, because most machines without a GPU also have a PyTorch with
    CUDA.
    """
    try:
        load("mrcnn_CUDA")
    except KernelError as error:
        problem = str(error)
    else:
        return

    def refuse(*_: object, **__: object) -> NoReturn:
        raise KernelError(problem)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # replacing stale kernels is intended
        for op in OPS:
            torch.library.impl(f"mrcnn::{op}", "cuda", refuse)


def register_vmap_loop(op: str) -> None:
    """Let `torch.func.vmap` run an op slice by slice; PyTorch does so only without lists."""
    overload = getattr(torch.ops.mrcnn, op).default

    def loop(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        results = [overload(*_take(arguments, in_dims, index)) for index in range(info.batch_size)]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(column) for column in zip(*results, strict=True)]
        return stacked, [0] * len(stacked)

    torch.library.register_vmap(overload, loop)


def _take(value: Any, dim: Any, index: int) -> Any:
    """Return one slice of a tensor that has a vmapped dimension, or of those in a list."""
    if isinstance(dim, list | tuple):
        return [_take(*pair, index) for pair in zip(value, dim, strict=True)]
    return value if dim is None else value.select(dim, index)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print only the message of a KernelError, without a traceback; an exception hook."""
    if isinstance(error, KernelError):
        sys.stderr.write(f"{error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


try:
    load("mrcnn_C")
except KernelError:
    sys.excepthook = _show
    raise
if torch.version.cuda is not None:
    load_cuda()
