"""The command `mrcnn doctor`: print versions and built kernels, and how to fix what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mrcnn import __version__
from mrcnn.cli.flags import parse, run

# The hard dependencies except PyTorch.
_LIBRARIES = (
    "numpy", "pillow", "pycocotools", "safetensors", "tyro", "rich", "matplotlib", "pyyaml",
    "jinja2", "filelock",
)  # fmt: skip


@dataclass(frozen=True)
class DoctorConfig:
    """Print versions and which kernels are built; exit code 1 if something must be fixed."""


def main(argv: list[str] | None = None) -> int:
    """Print the report."""
    parse(DoctorConfig, argv)
    facts, problems = examine()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    if problems:
        print("\nTo fix:\n" + "\n".join(f"* {problem}" for problem in problems))
        return 1
    print("\nAll is well.")
    return 0


def examine() -> tuple[dict[str, str], list[str]]:
    """Return facts by name, and problems with their fixes.

    PyTorch and the kernels are imported inside functions, since they may be broken.
    """
    facts = {
        "mrcnn": f"{__version__} in {Path(__file__).parent}",
        "python": f"{platform.python_version()} in {sys.prefix}",
        "system": f"{platform.platform()}, {os.cpu_count()} cores",
        "compiler": _first_line([*os.environ.get("CXX", "c++").split(), "--version"]),
        "nvcc": _first_line(["nvcc", "--version"], line=-1),
    }
    problems = []
    for name in _LIBRARIES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
            problems.append(f"{name} is missing; run: pip install {name}")
    try:
        import torch
    except ImportError as error:
        facts["torch"] = f"does not load: {error}"
        return facts, [*problems, "PyTorch is missing; run: pip install -r requirements.txt"]
    facts["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads"
    facts["cpu"] = torch.backends.cpu.get_cpu_capability()
    facts["CUDA"] = (
        f"{torch.version.cuda}, {torch.cuda.device_count()} GPUs found"
        if torch.version.cuda
        else "PyTorch is built without CUDA"
    )
    try:
        from mrcnn.ops import library

        kernels = library.build_report()
    except ImportError as error:
        kernels = {"kernels": str(error)}
    for name, state in kernels.items():
        summary, *advice = state.splitlines()
        facts[name] = summary.removeprefix("mrcnn: ")
        if advice:
            problems.append("\n".join([facts[name], *advice]))
    for i in range(torch.cuda.device_count()):
        facts[f"GPU {i}"], problem = _try_gpu(i)
        problems += problem
    return facts, problems


def _try_gpu(index: int) -> tuple[str, list[str]]:
    """Return the name of a GPU, and a problem if the kernels do not run on it."""
    import torch

    about = torch.cuda.get_device_properties(index)
    compute = f"{about.major}.{about.minor}"
    name = f"{about.name}, compute {compute}, {about.total_memory / 2**30:.0f} GiB"
    try:
        from mrcnn.ops import library, nms

        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], device=f"cuda:{index}")
        nms(boxes, boxes[:, 0], 0.5)
    except ImportError as error:  # reported above
        return f"{name}: {str(error).splitlines()[0]}", []
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        remedy = f"TORCH_CUDA_ARCH_LIST={compute} FORCE_CUDA=1 {library.BUILD_COMMAND}"
        problem = f"kernels do not run on GPU {index}: {reason}\n  In the repository, run: {remedy}"
        return f"{name}: kernels do not run", [problem]
    return f"{name}: kernels run", []


def _first_line(command: list[str], line: int = 0) -> str:
    """Return one line of the output of a program, and its path."""
    path = shutil.which(command[0])
    if path is None:
        return f"{command[0]} is not on PATH"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} does not run: {error}"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return f"{lines[line] if lines else 'no output'} ({path})"


if __name__ == "__main__":
    sys.exit(run(main))
