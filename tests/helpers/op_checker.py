"""Random calls of all ops, checked: each returns what the reference does, or a clear error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mrcnn import ops
from mrcnn.ops.instance_masks import InstanceMasks
from tests.helpers.op_calls import (
    Arguments,
    Draw,
    Drawn,
    break_one,
    draw_candidates,
    draw_groups,
    draw_head_maps,
    draw_head_rows,
    draw_instances,
    draw_map_and_boxes,
    draw_map_boxes_and_bins,
    draw_pasted,
    draw_pyramid,
    draw_segments,
    draw_targets,
)
from tests.helpers.op_checks import (
    check_detections,
    check_match_boxes,
    check_nms,
    check_proposals,
    check_roi_align,
    check_roi_align_of_one_map,
    check_roi_pool,
    check_segmented_nms,
)
from tests.helpers.op_checks_masks import (
    check_mask_targets,
    check_packed,
    check_paste_masks,
    check_run_lengths,
)

# Arguments that are handed on to a more general op, or whose shape says what others must have.
ALSO_NAMED = {
    "input": ("features[0]",),
    "idxs": ("groups",),
    "masks.frame": ("masks.", "frame"),
    **{f"masks.{name}": (name,) for name in InstanceMasks.__dataclass_fields__ if name != "frame"},
}


# What kernels on a GPU cannot refuse without reading values back. There such a call must stay
# within its memory, whatever it answers.
VALUES = {
    "image_index",
    "image index",
    "instance",
    "ring_start",
    "instance_ring",
    "instance_count",
    "counts",
    "frame",
}


def reads_no_values(device: str) -> bool:
    """Whether the ops at hand are the CUDA kernels, maybe emulated."""
    return device != "cpu" or "emulated" in torch.ops.mrcnn.build_info()


@dataclasses.dataclass
class Op:
    face: Callable[..., Any]
    draw: Callable[[Draw], Drawn]
    check: Callable[[Arguments, Any], float]  # asserts; returns which share was decided


@dataclasses.dataclass
class Call:
    """Arguments of an op; `wrong` is what the error must name, where one must come.

    Arguments and answers lie on the CPU, wherever the op is called.
    """

    op: str
    seed: int
    arguments: Arguments
    wrong: str | None
    device: str = "cpu"

    def answer(self) -> Any:
        if self.device == "cpu":
            return OPS[self.op].face(**self.arguments)
        answer = OPS[self.op].face(**on_device(self.arguments, self.device))
        return tree_map_only(Tensor, Tensor.cpu, answer)

    def answer_and_gradients(self) -> list[Any]:
        """The parts of the answer and, where features ask for it, their gradients."""
        answer = tree_leaves(self.answer())
        given = [x for x in tree_leaves(self.arguments) if isinstance(x, Tensor)]
        if leaves := [x for x in given if x.requires_grad]:
            upstream = torch.randn(answer[0].shape, generator=torch.Generator().manual_seed(0))
            answer += torch.autograd.grad(answer[0], leaves, upstream.to(answer[0].dtype))
        return answer


class Move(torch.autograd.Function):
    """To another device in the same layout, and gradients back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: str) -> Tensor:
        if not x.numel():
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
        last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
        memory = x.as_strided((x.storage_offset() + last + 1,), (1,), 0).to(device)
        return memory.as_strided(x.shape, x.stride(), x.storage_offset())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.cpu(), None


def on_device(value: Any, device: str) -> Any:
    """Arguments on another device, in the same layouts; tensors without values stay as they are."""
    if isinstance(value, Tensor):
        return value if value.is_meta else Move.apply(value, device)
    if isinstance(value, dict):
        return {name: on_device(x, device) for name, x in value.items()}
    if isinstance(value, list):
        return [on_device(x, device) for x in value]
    if isinstance(value, InstanceMasks):
        return InstanceMasks(*on_device(list(value.tensors().values()), device))
    return value


def draw_call(
    op: str, seed: int, *, large: bool = False, sound: bool = False, device: str = "cpu"
) -> Call:
    """The call of this seed; `sound` ones have no wrong argument."""
    draw = Draw(seed, large)
    arguments, wrong = OPS[op].draw(draw)
    while sound and wrong:
        arguments, wrong = OPS[op].draw(draw)
    if not sound and wrong is None and draw.chance(0.06):
        arguments, wrong = break_one(draw, arguments)
    return Call(op, seed, arguments, wrong, device)


def check_call(call: Call) -> float | None:
    """Assert that a call does what it must.

    Returns:
        The share of the answer that was compared with the reference, or None of a refused call.
    """
    where = f"{call.op}, seed {call.seed}"
    refusal = None
    try:
        answer = call.answer()
    except (ValueError, TypeError, RuntimeError) as error:
        refusal = str(error)
    if refusal is not None:
        assert call.wrong is not None, f"{where}: {refusal}"
        names = (call.wrong, *ALSO_NAMED.get(call.wrong, ()))
        assert any(name in refusal for name in names), f"{where}: {refusal}"
        return None
    if call.wrong in VALUES and reads_no_values(call.device):
        return None
    assert call.wrong is None, f"{where}: took a wrong {call.wrong}"
    try:
        return float(OPS[call.op].check(call.arguments, answer))
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error


OPS = {
    "roi_align": Op(ops.roi_align, draw_map_and_boxes, check_roi_align_of_one_map),
    "multiscale_roi_align": Op(ops.multiscale_roi_align, draw_pyramid, check_roi_align),
    "roi_pool": Op(ops.roi_pool, draw_map_boxes_and_bins, check_roi_pool),
    "nms": Op(ops.nms, draw_candidates, check_nms),
    "batched_nms": Op(ops.batched_nms, draw_groups, check_nms),
    "segmented_nms": Op(ops.segmented_nms, draw_segments, check_segmented_nms),
    "select_proposals": Op(ops.select_proposals, draw_head_maps, check_proposals),
    "select_detections": Op(ops.select_detections, draw_head_rows, check_detections),
    "match_boxes": Op(ops.match_boxes, draw_targets, check_match_boxes),
    "mask_targets": Op(ops.mask_targets, draw_instances, check_mask_targets),
    "paste_masks": Op(ops.paste_masks, draw_pasted, check_paste_masks),
    "paste_masks_packed": Op(ops.paste_masks_packed, draw_pasted, check_packed),
    "paste_masks_rle": Op(ops.paste_masks_rle, draw_pasted, check_run_lengths),
}


def check_many(
    seeds: range, ops: Sequence[str] = (), device: str = "cpu"
) -> dict[str, list[float]]:
    """Judge one call of each op (of all if none is named) for each seed, to the end even if some
    are wrong.

    Returns:
        The shares that were decided of the calls that were answered, by op.
    """
    shares: dict[str, list[float]] = {op: [] for op in ops or OPS}
    wrong = []
    for op, found in shares.items():
        for seed in seeds:
            try:
                share = check_call(draw_call(op, seed, device=device))
            except AssertionError as error:
                wrong.append(str(error))
            else:
                found += [] if share is None else [share]
    assert not wrong, f"{len(wrong)} calls are wrong:\n" + "\n".join(wrong[:20])
    return shares
