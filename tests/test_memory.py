"""Large tensors of the verbs lie in huge pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, torch
from mrcnn.flags import run
def faults(argv):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
{call}
"""


def faults(call: str) -> int:
    """Page faults of 256 MB, which are 65,536 pages of 4 kB or 128 of 2 MB."""
    clean = {name: v for name, v in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    program = [sys.executable, "-c", PROGRAM.format(call=call)]
    root = Path(__file__).resolve().parents[1]
    return int(subprocess.check_output(program, cwd=root, env=clean))


def test_verbs_use_huge_pages():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file() or "[never]" in setting.read_text():
        pytest.skip("the system gives no huge pages")
    assert faults("run(faults)") < 65536 / 4


def test_a_program_of_the_user_keeps_its_setting():
    call = "import os; os.environ['THP_MEM_ALLOC_ENABLE'] = '0'; run(lambda argv: None)"
    program = PROGRAM.format(call=call) + "print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.check_output([sys.executable, "-c", program], cwd=root) == b"0\n"
