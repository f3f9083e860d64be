"""Builds the kernels: mrcnn_C (CPU ops), mrcnn_host (annotation codecs), mrcnn_CUDA where CUDA is.

The libraries have top-level names, so that `python -m mrcnn.train` works from the repository root,
where the source folder `mrcnn` hides the installed one.
"""

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)  # setuptools wants relative paths


def stop(problem: str, remedy: str) -> None:
    sys.exit(f"\nmrcnn: {problem}\n  {remedy}\n")


def source_hash() -> str:
    """Of all kernel sources; mrcnn/ops/library.py computes the same."""
    digest = hashlib.sha256()
    for path in sorted(
        p for p in Path("csrc").rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"}
    ):
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def write_build_info(info: str) -> None:
    """A header rather than a macro, so that a changed hash recompiles two files, not all."""
    header, text = Path("build/build_info.h"), f'#define MRCNN_BUILD_INFO "{info}"\n'
    header.parent.mkdir(exist_ok=True)
    if not header.exists() or header.read_text() != text:
        header.write_text(text)


def extensions() -> tuple[list, dict]:
    """The extension modules and the build command, or nothing where only metadata is asked for."""
    if "sdist" in sys.argv or "egg_info" in sys.argv or "dist_info" in sys.argv:
        return [], {}
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

    write_build_info(f"{source_hash()} torch {torch.__version__} {platform.machine()}")
    defines = [("TORCH_TARGET_VERSION", "0x020a000000000000ULL")]
    # Exact ops promise the same bits on every machine, so no silent fused multiply-add.
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

    def library(name: str, sources: list[Path], libraries: list[str], compile_args, **options):
        return cpp_extension.CppExtension(
            name,
            sorted(map(str, sources)),
            include_dirs=include,
            libraries=libraries,
            library_dirs=[torch_lib],
            define_macros=[*defines, *options.pop("define_macros", [])],
            extra_compile_args=compile_args,
            **options,
        )

    csrc = Path("csrc")
    modules = [
        library("mrcnn_C", [csrc / "ops.cpp", *csrc.glob("*/*_cpu.cpp")], [], {"cxx": flags}),
        library("mrcnn_host", list(csrc.glob("host/*.cpp")), [], {"cxx": flags}),
    ]
    cuda_sources = list(csrc.glob("*/*_cuda.cu"))
    wanted = torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None
    if cuda_sources and os.environ.get("FORCE_CUDA", str(int(wanted))) == "1":
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX")
        modules.append(
            cpp_extension.CUDAExtension(
                "mrcnn_CUDA",
                sorted(map(str, cuda_sources)),
                include_dirs=include,
                define_macros=[*defines, ("USE_CUDA", None)],
                extra_compile_args={"cxx": flags, "nvcc": ["-std=c++20", "-O3", "-fmad=false"]},
            )
        )
    return modules, {
        "build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=False)
    }


modules, commands = extensions()
setup(ext_modules=modules, cmdclass=commands)
