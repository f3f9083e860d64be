"""The CUDA kernels built for the CPU, and random calls run on them under the sanitizers.

The library replaces mrcnn_C: it has the same schemas, implemented by csrc/*/*_cuda.cu, which run on
tests/cuda_emulation.

python -m tests.helpers.emulated --calls 1000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils import cpp_extension

from mrcnn.ops.library import source_hash
from tests.helpers.sanitized import COMPILER, FLAGS, ROOT, run

EMULATION = ROOT / "tests/cuda_emulation"
SOURCES = [
    ROOT / "csrc/ops.cpp",
    ROOT / "csrc/common/isa_cpu.cpp",
    *sorted(ROOT.glob("csrc/*/*_cuda.cu")),
]
INCLUDE = [EMULATION, ROOT / "csrc", *cpp_extension.include_paths(), sysconfig.get_path("include")]
COMPILE = [
    *COMPILER.split(),
    *"-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Werror".split(),
    *"-Wno-unknown-pragmas -DTORCH_TARGET_VERSION=0x020a000000000000ULL".split(),
]


def build(folder: Path, flags: str = FLAGS) -> Path:
    """Build the library below `folder` and return its folder."""
    libraries = folder / "lib"
    libraries.mkdir(parents=True)
    (folder / "build_info.h").write_text(
        f'#define MRCNN_BUILD_INFO "{source_hash()} emulated CUDA"\n'
    )
    include = [f"-I{path}" for path in (folder, *INCLUDE)]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        language = ["-x", "c++"] if source.suffix == ".cu" else []
        call(*COMPILE, *flags.split(), *include, *language, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    library = libraries / f"mrcnn_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    torch_lib = cpp_extension.library_paths()[0]
    call(
        *COMPILER.split(), *flags.split(), "-shared", *objects, "-o", library,
        f"-L{torch_lib}", f"-Wl,-rpath,{torch_lib}", "-lc10", "-ltorch_cpu", "-ltorch",
    )  # fmt: skip
    return libraries


def call(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr[-4000:]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100, help="of each op")
    parser.add_argument("--ops", nargs="+", default=[], help="all if none is named")
    parser.add_argument("--keep", type=Path, help="build here, without sanitizers, and stop")
    args = parser.parse_args()
    if args.keep:
        sys.exit(f"PYTHONPATH={build(args.keep, '')}")
    with tempfile.TemporaryDirectory() as folder:
        print(run(build(Path(folder)), "baseline", range(args.calls), args.ops), end="")


if __name__ == "__main__":
    main()
