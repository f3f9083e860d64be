"""Random calls of all ops: the answer of the reference or an error that says why, always."""

import pytest
import torch
from torch import Tensor

from tests.helpers.mask_inputs import KINDS, check_inputs
from tests.helpers.op_checker import OPS, check_call, check_many, draw_call
from tests.helpers.sanitized import build, can_build, run, run_child

# What a caller is warned of, as casts of complex numbers, is part of the attack.
pytestmark = pytest.mark.filterwarnings("ignore")

CALLS = 100  # of each op
UNDER_SANITIZERS = 20_000  # of all ops
MASKS_UNDER_SANITIZERS = 50_000  # run lengths and polygons
PIXELS = """
import sys
from mrcnn.ops import library
assert library.load("mrcnn_host").__file__.startswith(sys.argv[1]), "not the sanitized kernels"
from tests.ops.test_write_pixels import judge_random_call
print(sum(judge_random_call(seed) for seed in range(int(sys.argv[2]))))
"""

MASKS = """
import sys
import torch
torch.set_num_threads(1)
from mrcnn.ops import library
for name in ("mrcnn_host", "mrcnn_C"):
    assert library.load(name).__file__.startswith(sys.argv[1]), "not the sanitized kernels"
from tests.helpers.mask_inputs import check_inputs
for (kind, is_sound), count in sorted(check_inputs(range(int(sys.argv[2]))).items()):
    print(f"{kind}: {count} {'sound' if is_sound else 'broken'}")
"""


@pytest.mark.parametrize("op", OPS)
def test_random_calls(op):
    shares = [check_call(draw_call(op, seed)) for seed in range(CALLS)]
    answered = [share for share in shares if share is not None]
    assert len(answered) > CALLS / 2
    # Most answers do not hang on a rounding: the comparison means something.
    assert sum(answered) / len(answered) > 0.6


def bits(answer: list[object]) -> list[object]:
    """NaN equals NaN, and -0 is not 0."""
    flat = [x.detach().reshape(-1) if isinstance(x, Tensor) else x for x in answer]
    return [x.view(torch.uint8).numpy().tobytes() if isinstance(x, Tensor) else x for x in flat]


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("op", OPS)
def test_any_number_of_threads_gives_the_same_bits(op, seed):
    """Sizes that keep several threads at work; also compared with the reference, once."""
    call = draw_call(op, seed, large=True, sound=True)
    found = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        found.append(bits(call.answer_and_gradients()))
    torch.set_num_threads(1)
    assert found[1:] == found[:1] * 3
    if seed == 0:
        check_call(call)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_large_calls(op):
    for seed in range(20):
        check_call(draw_call(op, seed, large=True))


@pytest.fixture(scope="module")
def sanitized_kernels(tmp_path_factory):
    if not can_build():
        pytest.skip("no compiler here with the libraries of AddressSanitizer")
    return build(tmp_path_factory.mktemp("sanitized"))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_sanitizers_report_nothing(sanitized_kernels, isa):
    run(sanitized_kernels, isa, range(UNDER_SANITIZERS // len(OPS)))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_sanitizers_report_nothing_where_images_become_pixels(sanitized_kernels, isa):
    answered = run_child(sanitized_kernels, isa, PIXELS, str(UNDER_SANITIZERS))
    assert int(answered) > UNDER_SANITIZERS / 3


def test_random_masks():
    """Of each kind some are sound and some are not."""
    found = check_inputs(range(200))
    assert set(found) == {(kind, is_sound) for kind in KINDS for is_sound in (True, False)}
    assert min(found.values()) > 20


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_sanitizers_report_nothing_about_masks(sanitized_kernels, isa, capsys):
    told = run_child(sanitized_kernels, isa, MASKS, str(MASKS_UNDER_SANITIZERS // len(KINDS)))
    with capsys.disabled():
        print(f"\n{told}", end="")
    assert sum(int(line.split(": ")[1].split()[0]) for line in told.splitlines()) == (
        MASKS_UNDER_SANITIZERS
    )


def test_calls_follow_from_the_seed():
    first, second = (check_many(range(3)) for _ in range(2))
    assert first == second
