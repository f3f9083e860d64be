"""Kernels built with AddressSanitizer and UBSan, and random calls run on them.

python -m tests.helpers.sanitized --calls 20000 --isa avx2
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "c++").split()[0]
# vptr needs the type information of PyTorch's own classes.
FLAGS = (
    "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all "
    "-fno-omit-frame-pointer"
)
CHILD = """
import sys
import torch
torch.set_num_threads(1)
from mrcnn.ops import library
assert library.load("mrcnn_C").__file__.startswith(sys.argv[1]), "not the sanitized kernels"
from tests.helpers.op_checker import check_many
shares = check_many(range(int(sys.argv[2]), int(sys.argv[3])), sys.argv[4:])
print(*(f"{op}: {len(found)} answered" for op, found in shares.items()), sep="\\n")
"""


def runtime_library(name: str) -> Path:
    """Return the path of a compiler library; relative if there is none."""
    command = [COMPILER, f"-print-file-name={name}"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def can_build() -> bool:
    return (
        sys.platform == "linux"
        and shutil.which(COMPILER) is not None
        and runtime_library("libasan.so").is_absolute()
    )


def build(folder: Path) -> Path:
    """Build both libraries below `folder` and return their folder."""
    libraries = folder / "lib"
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={libraries}"]
    done = subprocess.run(
        [*command, f"--build-temp={folder / 'objects'}"],
        cwd=ROOT,
        env=os.environ
        | {"CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined", "FORCE_CUDA": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    content = next(libraries.glob("mrcnn_C*")).read_bytes()
    assert b"__asan_report_load" in content
    assert b"__ubsan_handle" in content
    return libraries


def run(libraries: Path, isa: str, seeds: range, ops: Sequence[str] = ()) -> str:
    """Judge one call of each op (of all if none is named) and seed in a process of its own; any
    report ends it."""
    return run_child(libraries, isa, CHILD, str(seeds.start), str(seeds.stop), *ops)


def run_child(
    libraries: Path, isa: str, program: str, *arguments: str, sanitized: bool = True
) -> str:
    """What a Python program prints that has these libraries instead of the installed ones."""
    preload = ("libasan.so", "libstdc++.so") if sanitized else ()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(libraries), *arguments],
        cwd=libraries,
        env=os.environ
        | {
            "LD_PRELOAD": " ".join(str(runtime_library(name)) for name in preload),
            # Python itself keeps memory to its end, and raises MemoryError without more.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "MRCNN_ISA": isa,
            "PYTHONPATH": os.pathsep.join([str(libraries), str(ROOT)]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout[-6000:] + done.stderr[-6000:]
    assert done.returncode == 0, f"{output}\nexit code {done.returncode}"
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=1000, help="of each op")
    parser.add_argument("--isa", default="avx512", help="baseline, avx2 or avx512")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(run(build(Path(folder)), args.isa, range(args.calls)), end="")


if __name__ == "__main__":
    main()
