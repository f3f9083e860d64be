"""Build the kernels: mrcnn_C (CPU ops), mrcnn_host (masks, pixels) and, with CUDA, mrcnn_CUDA.

The libraries have top-level names, so that `python -m mrcnn.train` works from the repository root,
where the source folder `mrcnn` hides the installed package.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)  # setuptools wants relative paths


def stop(problem: str, remedy: str) -> None:
    """Exit with a problem and how to fix it."""
    sys.exit(f"\nmrcnn: {problem}\n  {remedy}\n")


def source_hash() -> str:
    """Return the hash of all kernel sources; mrcnn/ops/library.py computes the same."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in Path("csrc").rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"}
    ):
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def write_build_info(name: str, macro: str, info: str) -> None:
    """Write a header instead of passing a macro: a changed hash then recompiles only few files."""
    header, text = Path("build") / name, f'#define {macro} "{info}"\n'
    header.parent.mkdir(exist_ok=True)
    if not header.exists() or header.read_text() != text:
        header.write_text(text)


def find_toolkit() -> None:
    """Set CUDA_HOME for PyTorch, because nvcc on PATH can be a link or a script."""
    if {"CUDA_HOME", "CUDA_PATH"} & set(os.environ) or shutil.which("nvcc") is None:
        return
    command = ["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    if top := re.search(r"^#\$ TOP=(.+)$", output, re.MULTILINE):
        os.environ["CUDA_HOME"] = os.path.realpath(top[1])


def wants_cuda(torch, toolkit: str | None) -> bool:
    """Return whether to build the CUDA kernels: if PyTorch has CUDA and nvcc is found.

    FORCE_CUDA=0 never builds them; FORCE_CUDA=1 stops if they cannot be built.
    """
    forced = os.environ.get("FORCE_CUDA", "")
    if forced == "0":
        return False
    if torch.version.cuda is None:
        if forced:
            stop(
                f"FORCE_CUDA={forced}, but PyTorch {torch.__version__} has no CUDA.",
                "Install a PyTorch with CUDA (see pytorch.org), or unset FORCE_CUDA.",
            )
        return False
    if toolkit is None or not Path(toolkit, "bin", "nvcc").exists():
        problem = f"nvcc, which compiles the CUDA kernels, is not on PATH; CUDA_HOME is {toolkit}."
        remedy = f"Install CUDA toolkit {torch.version.cuda}, PyTorch's version, or set CUDA_HOME"
        if forced:
            stop(problem, remedy)
        print(f"\nmrcnn: {problem}\n  {remedy}; building for CPU only.\n", file=sys.stderr)
        return False
    return True


def architectures(torch) -> str:
    """Return the GPUs to build for: TORCH_CUDA_ARCH_LIST, those present, or all since Turing."""
    if requested := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return requested
    if not torch.cuda.is_available():
        return "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
    present = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    # PTX also runs on newer GPUs.
    return ";".join(f"{major}.{minor}" for major, minor in sorted(present)) + "+PTX"


def extensions() -> tuple[list, dict]:
    """Return the extension modules and build commands; nothing if only metadata is requested."""
    if "sdist" in sys.argv or "egg_info" in sys.argv or "dist_info" in sys.argv:
        return [], {}
    find_toolkit()
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        stop(
            f"PyTorch is needed to build the kernels ({error}).",
            "pip install -r requirements.txt && pip install .",
        )
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        stop(f"PyTorch >= 2.10 is needed, found {torch.__version__}.", "pip install 'torch>=2.10'")
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        stop(
            f"no C++ compiler: {compiler} is not on PATH.",
            "Debian, Ubuntu: apt install g++ · Fedora: dnf install gcc-c++ · or set CXX",
        )

    info = f"{source_hash()} torch {torch.__version__} {platform.machine()}"
    write_build_info("build_info.h", "MRCNN_BUILD_INFO", info)
    stable_abi = [("TORCH_TARGET_VERSION", "0x020a000000000000ULL")]
    # Exact ops promise bit-identical results on all machines, so no implicit fused multiply-add.
    flags = [
        "-std=c++20",
        "-O3",
        "-g0",
        "-fvisibility=hidden",
        "-ffp-contract=off",
        f"-ffile-prefix-map={ROOT}/=",
        "-Wall",
        "-Wno-unknown-pragmas",
    ]
    include = [str(ROOT / "csrc"), str(ROOT / "build"), *cpp_extension.include_paths()]
    torch_lib = cpp_extension.library_paths()[0]

    def library(name: str, sources: list[Path], define_macros: list):
        return cpp_extension.CppExtension(
            name,
            sorted(map(str, sources)),
            include_dirs=[*include],
            library_dirs=[torch_lib],
            define_macros=define_macros,
            extra_compile_args={"cxx": flags},
        )

    csrc = Path("csrc")
    modules = [
        library("mrcnn_C", [csrc / "ops.cpp", *csrc.glob("*/*_cpu.cpp")], stable_abi),
        # Without the stable ABI, because PyTorch < 2.13 rejects it together with its pybind11.
        library("mrcnn_host", [csrc / "common/isa_cpu.cpp", *csrc.glob("host/*.cpp")], []),
    ]
    if wants_cuda(torch, cpp_extension.CUDA_HOME):
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures(torch)
        write_build_info(
            "cuda_build_info.h",
            "MRCNN_CUDA_BUILD_INFO",
            f"{info}, CUDA {torch.version.cuda} for {os.environ['TORCH_CUDA_ARCH_LIST']}",
        )
        modules.append(
            cpp_extension.CUDAExtension(
                "mrcnn_CUDA",
                sorted(map(str, [csrc / "cuda_module.cpp", *csrc.glob("*/*_cuda.cu")])),
                include_dirs=[*include],
                define_macros=[*stable_abi, ("USE_CUDA", None)],
                extra_compile_args={
                    "cxx": flags,
                    "nvcc": ["-std=c++20", "-O3", "-fmad=false", "-Xcompiler=-fvisibility=hidden"],
                },
            )
        )
    return modules, {
        "build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)
    }


modules, commands = extensions()
setup(ext_modules=modules, cmdclass=commands)
