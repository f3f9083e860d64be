"""CUDA sources, run on the CPU under the sanitizers: their results, and faults that must show."""

import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.emulated import COMPILE, EMULATION, build, call
from tests.helpers.op_checker import OPS
from tests.helpers.sanitized import FLAGS, ROOT, can_build, run, run_child

CALLS = 100  # of each op
# The tests of the CPU kernels that the CUDA kernels must pass, too.
TESTS = (  # in two processes
    (
        "ops/test_roi_align",
        "ops/test_roi_pool",
        "ops/test_select_proposals",
        "ops/test_select_detections",
        "ops/test_match_boxes",
    ),
    (
        "ops/test_nms",
        "ops/test_mask_targets",
        "ops/test_paste_masks",
        "ops/test_contract",
        "models/test_fixed_shapes",
    ),
)
PYTEST = """
import sys
import pytest
import mrcnn_C
assert mrcnn_C.__file__.startswith(sys.argv[1]), "not the emulated kernels"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.fixture(scope="session")
def compiler() -> None:
    if not can_build():
        pytest.skip("no compiler here with the libraries of AddressSanitizer")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the emulation switches stacks on x86-64 only")


@pytest.fixture(scope="session")
def emulated_kernels(compiler, tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("emulated") / "build")


@pytest.fixture(scope="session")
def faults(compiler, tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("faults") / "faults"
    call(*COMPILE, *FLAGS.split(), f"-I{EMULATION}", EMULATION / "faults.cpp", "-o", program)
    return program


def test_random_calls(emulated_kernels):
    lines = run(emulated_kernels, "baseline", range(CALLS)).splitlines()
    answered = {op: int(rest.split()[0]) for op, rest in (line.split(": ") for line in lines)}
    assert answered.keys() == OPS.keys()
    assert min(answered.values()) > CALLS / 2


def test_the_tests_of_the_ops(compiler, tmp_path):
    """Without the sanitizers, which take three times as long."""
    libraries = build(tmp_path / "build", flags="")

    def run_tests(names: tuple[str, ...]) -> str:
        files = [str(ROOT / f"tests/{name}.py") for name in names]
        return run_child(libraries, "baseline", PYTEST, *files, sanitized=False)

    with ThreadPoolExecutor(len(TESTS)) as pool:
        for output in pool.map(run_tests, TESTS):
            assert " passed" in output.splitlines()[-1]


def run_with(faults: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([faults, name], capture_output=True, text=True, check=False)


def test_a_sound_kernel_passes(faults):
    done = run_with(faults, "none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "32640\n", "")


@pytest.mark.parametrize("name", ["no barrier", "no warp barrier"])
def test_a_missing_barrier_shows(faults, name):
    """In the answer, or as an overflow, as it adds up garbage."""
    done = run_with(faults, name)
    assert (done.returncode, done.stdout) != (0, "32640\n")


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("past shared", "AddressSanitizer: heap-buffer-overflow"),
        ("past global", "AddressSanitizer: heap-buffer-overflow"),
        ("lonely barrier", "some threads wait at a barrier that others never reach"),
    ],
)
def test_a_fault_ends_the_run(faults, name, report):
    done = run_with(faults, name)
    assert done.returncode != 0
    assert report in done.stderr
