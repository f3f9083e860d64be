"""The CUDA kernels: against reference and CPU, on streams, in graphs, on large tensors."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map_only

from mrcnn.config import MODELS
from mrcnn.models import build
from mrcnn.ops import library, multiscale_roi_align, roi_align, roi_pool
from mrcnn.structures import DetectionBatch
from tests.helpers.op_checker import OPS, check_call, check_many, draw_call, on_device
from tests.models.test_fixed_shapes import images, square_targets
from tests.ops import test_limits
from tests.ops.test_contract import OPS as REGISTERED
from tests.ops.test_contract import arguments, positional

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU"),
    pytest.mark.filterwarnings("ignore"),  # what a caller is warned of is part of random calls
]

DEVICE = "cuda"
CALLS = 1000  # of each op
REPEATS = 20
# Whose answer is the same on every device: no float is rounded, or always in the same way.
EXACT = (
    "nms",
    "batched_nms",
    "segmented_nms",
    "match_boxes",
    "mask_targets",
    "roi_pool",
    "paste_masks",
    "paste_masks_packed",
    "paste_masks_rle",
)
# The faces whose result has the same shape whatever the values are; run lengths without their text.
FIXED_SHAPE = {
    name: op.face
    for name, op in OPS.items()
    if name not in ("nms", "batched_nms", "paste_masks_rle")
}
FIXED_SHAPE["paste_masks_rle"] = lambda masks, boxes, height, width, threshold: (
    torch.ops.mrcnn.paste_masks_rle(masks, boxes, height, width, threshold)
)


def test_every_op_has_a_kernel():
    library.load("mrcnn_CUDA")
    for op in library.OPS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mrcnn::{op}", "CUDA"), op


# --- Answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_random_calls(op):
    """Answers and gradients within what rounding explains, or an error that names the argument."""
    shares = check_many(range(CALLS), [op], DEVICE)[op]
    assert len(shares) > CALLS / 2
    assert sum(shares) / len(shares) > 0.6  # most answers do not hang on a rounding


@pytest.mark.parametrize("op", OPS)
def test_large_random_calls(op):
    for seed in range(5):
        check_call(draw_call(op, seed, large=True, device=DEVICE))


@pytest.mark.parametrize("op", EXACT)
def test_exact_answers_are_those_of_the_cpu(op):
    for seed in range(CALLS):
        call = draw_call(op, seed, sound=True)
        expected = tree_leaves(call.answer())
        found = tree_leaves(dataclasses.replace(call, device=DEVICE).answer())
        if op == "paste_masks_rle":
            assert found == expected, f"{op}, seed {seed}"
        else:
            assert_close(found, expected, rtol=0, atol=0, msg=f"{op}, seed {seed}")


FACES = {
    "multiscale_roi_align": multiscale_roi_align,
    "roi_align": roi_align,
    "roi_pool": roi_pool,
}


@pytest.mark.parametrize("face", FACES)
def test_gradients_are_derivatives(face):
    given = on_device(arguments(face, dtype=torch.float64), DEVICE)
    name = "features" if face == "multiscale_roi_align" else "input"
    maps = given.pop(name)
    maps = maps if isinstance(maps, list) else [maps]
    if face == "roi_pool":  # without equal values, so that a small step moves no maximum
        values = torch.randperm(maps[0].numel(), device=DEVICE).to(torch.float64)
        maps = [values.reshape(maps[0].shape)]
    maps = [x.detach().requires_grad_() for x in maps]

    def pool(*maps):
        return FACES[face](maps if name == "features" else maps[0], **given)

    assert torch.autograd.gradcheck(pool, maps)
    assert torch.autograd.gradgradcheck(pool, maps)


@pytest.mark.parametrize("argument", ["boxes", "features"])
def test_an_argument_on_the_cpu_is_named(argument):
    given = arguments("multiscale_roi_align")
    there = on_device(given, DEVICE) | {argument: given[argument]}
    with pytest.raises(ValueError, match=r"multiscale_roi_align: .* must be on the device of"):
        multiscale_roi_align(**there)


# --- What PyTorch asks of ops -----------------------------------------------------------------


@pytest.mark.parametrize("op", REGISTERED)
def test_registration(op):
    overload, face = REGISTERED[op]
    given = tree_map_only(Tensor, lambda x: x.to(DEVICE), positional(face))
    opcheck(overload, given)


@pytest.mark.parametrize("op", ["roi_align", "roi_pool"])
def test_registration_with_gradient(op):
    overload, face = REGISTERED[op]
    features, *rest = tree_map_only(Tensor, lambda x: x.to(DEVICE), positional(face))
    features = tree_map_only(Tensor, lambda x: x.requires_grad_(), features)
    opcheck(overload, (features, *rest))


@pytest.mark.parametrize("op", ["paste_masks", "paste_masks_packed", "paste_masks_rle"])
def test_registration_of_pasting(op):
    masks, boxes = torch.rand(3, 5, 5), torch.tensor([[1.0, 2.0, 9.0, 7.0]]).expand(3, 4)
    # Run lengths beyond the last one are undefined, so two calls cannot be compared.
    kinds = ("test_schema", "test_faketensor")
    overload = getattr(torch.ops.mrcnn, op).default
    opcheck(overload, (masks.to(DEVICE), boxes.to(DEVICE), 12, 15, 0.5), test_utils=kinds)


def test_registration_of_mask_targets():
    given = on_device(usable_call("mask_targets"), DEVICE)
    masks = given["masks"].tensors().values()
    opcheck(
        torch.ops.mrcnn.mask_targets.default,
        (*masks, given["boxes"], given["instance"], given["size"]),
    )


# --- Streams, graphs, reads of the host, repeats ----------------------------------------------


def usable_call(op: str) -> dict:
    """Arguments of an op on the CPU, none of them empty."""
    for seed in range(100):
        given = draw_call(op, seed, large=True, sound=True).arguments
        if all(x.numel() for x in tensors_of(given)):
            return given
    raise AssertionError(f"{op}: every call has an empty argument")


def tensors_of(value) -> list[Tensor]:
    """All tensors among arguments, in order."""
    parts = tree_leaves(value)
    flat = [list(p.tensors().values()) if hasattr(p, "tensors") else [p] for p in parts]
    return [x for part in flat for x in part if isinstance(x, Tensor)]


class Caller:
    """A fixed-shape op with arguments that stay in place, and gradients where features want them.

    Arguments are contiguous, so that other values can be written into them.
    """

    def __init__(self, op: str) -> None:
        self.op = op
        plain = on_device(usable_call(op), DEVICE)
        self.given = contiguous(plain)
        leaves = [x for x in tensors_of(self.given) if x.is_floating_point()]
        features = self.given.get("features", [self.given.get("input")])
        self.features = [x for x in leaves if any(x is f for f in features)]
        for x in self.features:
            x.requires_grad_()
        self.upstream: Tensor | None = None
        self()  # makes the upstream gradient, and what is made at a first call

    def __call__(self) -> list[Tensor]:
        answer = tree_leaves(FIXED_SHAPE[self.op](**self.given))
        if not self.features:
            return answer
        if self.upstream is None:
            generator = torch.Generator().manual_seed(0)
            self.upstream = torch.randn(answer[0].shape, generator=generator).to(answer[0])
        grads = torch.autograd.grad(answer[0], self.features, self.upstream)
        return [answer[0].detach(), *grads]

    def read(self, answer: list[Tensor]) -> list[Tensor]:
        """What of an answer is defined, on the CPU."""
        answer = [x.cpu() for x in answer]
        if self.op == "paste_masks_rle":
            counts, starts = answer
            return [counts[: starts[-1]], starts]
        return answer

    @torch.no_grad()
    def change(self) -> None:
        """Other values of the same kind."""
        for x in tensors_of(self.given):
            if x.is_floating_point():
                x.copy_(x.roll(1, 0))


def contiguous(value):
    """The same arguments, laid out plainly."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {name: contiguous(x) for name, x in value.items()}
    if isinstance(value, list):
        return [contiguous(x) for x in value]
    if hasattr(value, "tensors"):
        return type(value)(*map(contiguous, value.tensors().values()))
    return value


def bits(tensors: list[Tensor]) -> list[bytes]:
    """NaN equals NaN, and -0 is not 0."""
    return [x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for x in tensors]


@pytest.mark.parametrize("op", FIXED_SHAPE)
def test_repeats_give_the_same_bits(op):
    caller = Caller(op)
    first, *rest = (bits(caller.read(caller())) for _ in range(REPEATS))
    assert rest == [first] * (REPEATS - 1)


@pytest.mark.parametrize("op", FIXED_SHAPE)
def test_nothing_is_read_on_the_host(op):
    caller = Caller(op)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        caller()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("op", FIXED_SHAPE)
def test_a_graph_replays_on_other_values(op):
    caller = Caller(op)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            caller()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = caller()
    for _ in range(2):
        caller.change()
        expected = bits(caller.read(caller()))
        graph.replay()
        assert bits(caller.read(answer)) == expected


@pytest.mark.parametrize("op", FIXED_SHAPE)
def test_a_busy_stream_is_waited_for(op):
    """Arguments arrive late on a stream of their own: a kernel on any other would miss them."""
    caller = Caller(op)
    caller.change()
    expected = bits(caller.read(caller()))
    arguments_ = [x for x in tensors_of(caller.given) if x.is_floating_point()]
    right = [x.detach().clone() for x in arguments_]
    with torch.no_grad():
        for x in arguments_:
            x.zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles, some 50 ms
        with torch.no_grad():
            for x, values in zip(arguments_, right, strict=True):
                x.copy_(values)
        answer = caller()
    stream.synchronize()
    assert bits(caller.read(answer)) == expected


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
@pytest.mark.parametrize("op", OPS)
def test_another_device_than_the_current_one(op):
    check_many(range(20), [op], "cuda:1")
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("op", OPS)
def test_calls_keep_no_memory(op):
    given = on_device(usable_call(op), DEVICE)
    OPS[op].face(**given)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        OPS[op].face(**given)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


# --- More elements than an int counts ---------------------------------------------------------


def needs_memory(gigabytes: float) -> None:
    """Skip where the GPU has less."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB of GPU memory")


@pytest.mark.parametrize(
    "test",
    [
        test_limits.test_last_image_of_a_large_batch,
        test_limits.test_output_of_roi_align_beyond_32_bits,
        test_limits.test_pixels_of_masks_beyond_32_bits,
        test_limits.test_run_lengths_of_the_largest_image,
        test_limits.test_proposals_of_maps_beyond_32_bits,
        test_limits.test_detections_of_heads_beyond_32_bits,
    ],
)
def test_limits_of_the_cpu_hold(test):
    """The same tests, with every tensor on the GPU."""
    needs_memory(40)
    with torch.device(DEVICE):
        test()


def test_gradient_beyond_32_bits():
    needs_memory(20)
    images_, channels, side = 70, 64, 704
    features = torch.empty(
        images_, channels, side, side, dtype=torch.float16, device=DEVICE,
        memory_format=torch.channels_last,
    )  # fmt: skip
    assert features[:-1].numel() > 2**31
    features.requires_grad_()
    boxes = torch.tensor([[1.0, 1.0, 2.0, 2.0]], device=DEVICE)
    pooled = multiscale_roi_align(
        [features], boxes, torch.tensor([images_ - 1], device=DEVICE), scales=[1.0], size=(1, 1),
        canonical_level=0,
    )  # fmt: skip
    (grad,) = torch.autograd.grad(pooled.sum(), features)
    assert_close(grad[-1, :, 1, 1], torch.ones(channels, dtype=torch.float16, device=DEVICE))
    assert int(torch.count_nonzero(grad[-1])) == channels
    assert not grad[0].any()


# --- The model --------------------------------------------------------------------------------


def small_model(**changes) -> torch.nn.Module:
    """Its scores spread, so that their order does not hang on a rounding."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        MODELS["small"], class_names=("disc", "square"), score_threshold=0.0, max_detections=20
    )
    model = build(dataclasses.replace(config, **changes))
    torch.nn.init.normal_(model.box_head.class_logits.weight)
    return model


def read(found: DetectionBatch) -> dict[str, Tensor]:
    return {f.name: getattr(found, f.name).cpu() for f in dataclasses.fields(found)}


def test_the_model_detects_the_same_as_on_the_cpu():
    """In float64, so that no choice between boxes hangs on how a convolution rounds."""
    model = small_model(norm="batch").double().eval()
    batch = images()
    batch = dataclasses.replace(batch, pixels=batch.pixels.double())
    with torch.no_grad():
        expected = read(model(batch))
        # The CPU computes masks for used slots only.
        found = read(model.to(DEVICE)(batch.to(DEVICE)))
    assert torch.equal(found["counts"], expected["counts"])
    assert torch.equal(found["labels"], expected["labels"])
    # Boxes are float32: their rounding moves a corner by far less than 0.01 pixels, and with it
    # scores and masks; a wrong kernel moves them by more.
    assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-2)
    assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-3)
    used = expected["labels"] >= 0
    assert_close(found["masks"][used], expected["masks"][used], rtol=0, atol=1e-2)


@pytest.mark.parametrize("amp", [False, True])
def test_inference_and_training_read_nothing_on_the_host(amp):
    model = small_model().to(DEVICE)
    batch, targets = images().to(DEVICE), square_targets().to(DEVICE)

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            losses = model.train()(batch, targets)
        torch.stack(list(losses.values())).sum().backward()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=amp):
            return losses, model.eval()(batch)

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses, found = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert found.counts.min() > 0
    assert found.boxes.dtype == found.masks.dtype == torch.float32


def test_inference_replays_as_a_graph():
    model = small_model().to(DEVICE).eval()
    batch = images().to(DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            model(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = model(batch)
    batch.pixels.copy_(torch.randn(batch.pixels.shape))
    with torch.no_grad():
        expected = read(model(batch))
    graph.replay()
    for name, values in read(captured).items():
        assert_close(values, expected[name], rtol=1e-4, atol=1e-4)


def test_captured_training_has_the_losses_of_training(tmp_path):
    """Forward and backward as a graph; float32 sums in another order apart."""
    test_capture = pytest.importorskip("test_capture")  # it needs what reads data sets
    from mrcnn.data.synthetic import write_shapes

    write_shapes(tmp_path / "shapes", train=10, val=1, size=64)
    wanted = test_capture.losses(tmp_path / "shapes", False, (64,), device=DEVICE)
    found = test_capture.losses(tmp_path / "shapes", True, (64,), device=DEVICE)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_captured_predictions_are_those_without(tmp_path, recwarn):
    import mrcnn
    from tests.helpers import tiny

    run = tiny.run(tmp_path)
    rng = np.random.default_rng(0)
    sizes = ((40, 60), (60, 40), (40, 60))
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    plain, captured = (
        mrcnn.load(run, DEVICE, capture=capture).predict(images, 0.0, batch_size=1)
        for capture in (False, True)
    )
    assert not any("no CUDA graph" in str(warning.message) for warning in recwarn)
    for one, other in zip(plain, captured, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_the_verbs_run_on_a_gpu(tmp_path):
    pytest.importorskip("tyro")
    import mrcnn
    from mrcnn import evaluate, train
    from mrcnn.data.synthetic import write_shapes

    write_shapes(tmp_path / "data", train=8, val=4, size=64)
    flags = ["--data", str(tmp_path / "data"), "--device", DEVICE, "--amp"]
    run = tmp_path / "run"
    few = "--steps 4 --image-size 64 --print-every 2".split()
    train.main([*flags, "--out", str(run), *few])
    evaluate.main([*flags, "--weights", str(run), "--batch-size", "2"])
    predictor = mrcnn.load(run, DEVICE)
    result = predictor.predict(np.zeros((50, 70, 3), np.uint8), 0.0)
    assert len(result.rles) == len(result)
