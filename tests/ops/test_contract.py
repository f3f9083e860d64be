"""What all ops promise alike: registrations, shapes without values, and errors in words."""

import functools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.utils._pytree import tree_leaves, tree_map_only

from mrcnn.ops import (
    match_boxes,
    multiscale_roi_align,
    nms,
    roi_align,
    roi_pool,
    segmented_nms,
    select_detections,
    select_proposals,
)

BOX = [1.0, 1.0, 6.0, 5.0]
FACES = {
    f.__name__: f
    for f in (
        match_boxes,
        multiscale_roi_align,
        nms,
        roi_align,
        roi_pool,
        segmented_nms,
        select_detections,
        select_proposals,
    )
}


def arguments(face: str, count: int = 3, dtype: torch.dtype = torch.float32) -> dict:
    """Valid arguments of an op by name, with `count` boxes, RoIs or cells a side."""
    generator = torch.Generator().manual_seed(0)
    rand = functools.partial(torch.rand, generator=generator)
    boxes = torch.tensor(BOX) + torch.arange(count)[:, None]
    return {
        "roi_align": lambda: {
            "input": rand(2, 3, 9, 8).to(dtype),
            "boxes": torch.cat([torch.arange(count)[:, None] % 2, boxes], dim=1),
            "output_size": (2, 3),
            "aligned": True,
        },
        "roi_pool": lambda: {
            "input": rand(2, 3, 9, 8).to(dtype),
            "boxes": torch.cat([torch.arange(count)[:, None] % 2, boxes], dim=1),
            "output_size": (2, 3),
        },
        "multiscale_roi_align": lambda: {
            "features": [rand(2, 3, 8, 8).to(dtype), rand(2, 3, 4, 5).to(dtype)],
            "boxes": boxes,
            "image_index": torch.arange(count) % 3 - 1,
            "scales": [1.0, 0.5],
            "size": (2, 3),
            "canonical_size": 5.0,
        },
        "nms": lambda: {
            "boxes": boxes.to(dtype),
            "scores": rand(count).to(dtype),
            "iou_threshold": 0.5,
        },
        "segmented_nms": lambda: {
            "boxes": boxes.expand(2, -1, -1).to(dtype),
            "scores": rand(2, count).to(dtype),
            "groups": torch.zeros(2, count, dtype=torch.int64),
            "iou_threshold": 0.5,
            "max_keep": 4,
        },
        "select_proposals": lambda: {
            "logits": [rand(2, 1, count, 5).to(dtype), rand(2, 1, 2, 2).to(dtype)],
            "deltas": [rand(2, 4, count, 5).to(dtype), rand(2, 4, 2, 2).to(dtype)],
            "cell_anchors": torch.tensor([[[-4.0, -4, 4, 4]], [[-8.0, -8, 8, 8]]]),
            "strides": [(4, 4), (8, 8)],
            "sizes": torch.tensor([[20, 30], [15, 15]]),
            "pre_nms_top_k": 6,
            "post_nms_top_k": 5,
            "nms_threshold": 0.7,
            "min_side": 0.0,
        },
        "select_detections": lambda: {
            "scores": rand(2, count, 2).to(dtype),
            "deltas": rand(2, count, 8).to(dtype),
            "boxes": boxes.expand(2, -1, -1),
            "valid": torch.ones(2, count, dtype=torch.bool),
            "sizes": torch.tensor([[20, 30], [15, 15]]),
            "delta_weights": (10.0, 10.0, 5.0, 5.0),
            "score_threshold": 0.1,
            "nms_threshold": 0.5,
            "min_side": 0.0,
            "max_detections": 4,
        },
        "match_boxes": lambda: {
            "boxes": boxes[None],
            "targets": rand(2, 4, 4) * 5 + torch.tensor([0, 0, 3, 3]),
            "valid": torch.tensor([[True, True, False, True]] * 2),
            "low_threshold": 0.3,
            "high_threshold": 0.7,
            "low_quality": True,
        },
    }[face]()


def positional(face: str, **options) -> tuple:
    """The arguments of the registered op behind a face."""
    a = arguments(face, **options)
    if face == "multiscale_roi_align":
        tail = (a["scales"], *a["size"], 0, True, a["canonical_size"], 1)
        return (a["features"], a["boxes"], a["image_index"], *tail)
    if face == "roi_pool":
        return (
            a["input"],
            a["boxes"][:, 1:],
            a["boxes"][:, 0].long(),
            1.0,
            *a["output_size"],
            True,
        )
    if face == "select_detections":
        a["delta_weights"] = list(a["delta_weights"])
    if face == "select_proposals":
        a["strides"] = [step for stride in a["strides"] for step in stride]
    return tuple(a.values())


OPS = {
    "roi_align": (torch.ops.mrcnn.roi_align.default, "multiscale_roi_align"),
    "roi_pool": (torch.ops.mrcnn.roi_pool.default, "roi_pool"),
    "nms": (torch.ops.mrcnn.nms.default, "segmented_nms"),
    "select_proposals": (torch.ops.mrcnn.select_proposals.default, "select_proposals"),
    "select_detections": (torch.ops.mrcnn.select_detections.default, "select_detections"),
    "match_boxes": (torch.ops.mrcnn.match_boxes.default, "match_boxes"),
}


@pytest.mark.parametrize("count", [3, 0], ids=["some", "none"])
@pytest.mark.parametrize("op", OPS)
def test_registration(op, count):
    overload, face = OPS[op]
    opcheck(overload, positional(face, count=count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_registration_of_roi_align_with_gradient(dtype):
    features, *rest = positional("multiscale_roi_align", dtype=dtype)
    features = [x.requires_grad_() for x in features]
    opcheck(torch.ops.mrcnn.roi_align.default, (features, *rest))


@pytest.mark.parametrize("count", [3, 0], ids=["some", "none"])
def test_registration_of_roi_align_backward(count):
    features, boxes, image_index, scales, rows, columns, *rest = positional(
        "multiscale_roi_align", count=count
    )
    grad = torch.randn(count, 3, rows, columns, requires_grad=True)
    opcheck(
        torch.ops.mrcnn.roi_align_backward.default,
        (grad, features, boxes, image_index, scales, *rest),
    )


@pytest.mark.parametrize("count", [3, 0], ids=["some", "none"])
def test_registration_of_roi_pool_with_gradient(count):
    features, boxes, image_index, *rest = positional("roi_pool", count=count)
    opcheck(
        torch.ops.mrcnn.roi_pool.default, (features.requires_grad_(), boxes, image_index, *rest)
    )
    pooled, argmax = torch.ops.mrcnn.roi_pool(features, boxes, image_index, *rest)
    without = (features.detach(), boxes, image_index, *rest[:-1], False)
    opcheck(torch.ops.mrcnn.roi_pool.default, without)
    assert torch.equal(torch.ops.mrcnn.roi_pool(*without)[0], pooled)
    grad = torch.randn(pooled.shape, requires_grad=True)
    opcheck(torch.ops.mrcnn.roi_pool_backward.default, (grad, argmax, image_index, 2, 9, 8))


def layout(results) -> list[tuple]:
    return [(x.shape, x.stride(), x.dtype) for x in tree_leaves(results)]


@pytest.mark.parametrize("count", [3, 1, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("face", sorted(set(FACES) - {"nms"}))
def test_layout_needs_no_values(face, dtype, count):
    """Fake tensors and tensors on the meta device give the layout that real ones give."""
    given = arguments(face, count, dtype)
    expected = layout(FACES[face](**given))
    with FakeTensorMode() as mode:
        fake = tree_map_only(torch.Tensor, mode.from_tensor, given)
        assert layout(FACES[face](**fake)) == expected
    meta = tree_map_only(torch.Tensor, lambda x: x.to("meta"), given)
    assert layout(FACES[face](**meta)) == expected


@pytest.mark.parametrize("face", sorted(set(FACES) - {"nms"}))
def test_compiles_without_a_break(face):
    given = arguments(face)
    compiled = torch.compile(FACES[face], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**given), FACES[face](**given), rtol=0, atol=0)


def test_roi_align_of_a_list_compiles_without_a_break():
    given = arguments("roi_align")
    given["boxes"] = [torch.tensor([BOX]), torch.tensor([BOX, BOX])]
    compiled = torch.compile(roi_align, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**given), roi_align(**given), rtol=0, atol=0)


def test_gradient_compiles_without_a_break():
    given = arguments("multiscale_roi_align")
    features = [x.requires_grad_() for x in given["features"]]
    compiled = torch.compile(multiscale_roi_align, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(**given).square().sum(), features)
    expected = torch.autograd.grad(multiscale_roi_align(**given).square().sum(), features)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def changed(argument: str, change):
    """Replaces one argument by what `change` makes of it."""
    return lambda given: {**given, argument: change(given.get(argument))}


META = "must be on the device of"
WRONG = {  # face, what is wrong: change of the arguments, error, message
    ("roi_align", "a map without channels"): (
        changed("input", lambda x: x[0]), ValueError,
        r"roi_align: input must have shape \(N, C, H, W\), got \(3, 9, 8\)",
    ),
    ("roi_align", "boxes without index"): (
        changed("boxes", lambda x: x[:, 1:]), ValueError,
        r"roi_align: boxes must have shape \(K, 5\), got \(3, 4\)",
    ),
    ("roi_align", "a list of the wrong length"): (
        changed("boxes", lambda x: [x[:, 1:]] * 3), ValueError,
        r"roi_align: boxes must be a list of at most 2 tensors, one per image, got 3",
    ),
    ("roi_align", "an index in boxes of a list"): (
        changed("boxes", lambda x: [x, x]), ValueError,
        r"roi_align: boxes of an image must have shape \(K, 4\), got \(3, 5\)",
    ),
    ("roi_align", "a high image index"): (
        changed("boxes", lambda x: x + 2), ValueError,
        r"roi_align: image index must lie in \[0, 2\), got 3",
    ),
    ("roi_align", "integer features"): (
        changed("input", lambda x: x.long()), TypeError,
        r"must be float32 or float64 or float16 or bfloat16, got int64",
    ),
    ("roi_align", "no bins"): (
        changed("output_size", lambda _: 0), ValueError, r"rows must be at least 1, got 0",
    ),
    ("roi_align", "too many samples"): (
        changed("sampling_ratio", lambda _: 1025), ValueError,
        r"sampling_ratio must be at most 1024, got 1025",
    ),
    ("roi_pool", "boxes without index"): (
        changed("boxes", lambda x: x[:, 1:]), ValueError,
        r"roi_pool: boxes must have shape \(K, 5\), got \(3, 4\)",
    ),
    ("roi_pool", "integer features"): (
        changed("input", lambda x: x.long()), TypeError,
        r"roi_pool: input must be float32 or float64 or float16 or bfloat16, got int64",
    ),
    ("roi_pool", "boxes elsewhere"): (
        changed("boxes", lambda x: x.to("meta")), ValueError,
        rf"roi_pool: boxes {META} input, cpu, got meta",
    ),
    ("roi_pool", "no bins"): (
        changed("output_size", lambda _: (0, 2)), ValueError,
        r"roi_pool: rows must be at least 1, got 0",
    ),
    ("multiscale_roi_align", "a level beyond sense"): (
        changed("canonical_level", lambda _: -(2**63)), ValueError,
        r"canonical_level must lie in \[-64, 64\], got -9223372036854775808",
    ),
    ("multiscale_roi_align", "no levels"): (
        changed("features", lambda _: []), ValueError, r"scales must hold one number for each of 0",
    ),
    ("multiscale_roi_align", "too few scales"): (
        changed("scales", lambda x: x[:1]), ValueError,
        r"multiscale_roi_align: scales must hold one number for each of 2 levels .*, got 1",
    ),
    ("multiscale_roi_align", "levels of several types"): (
        changed("features", lambda x: [x[0], x[1].double()]), TypeError,
        r"multiscale_roi_align: features\[1\] must be float32, got float64",
    ),
    ("multiscale_roi_align", "levels of several widths"): (
        changed("features", lambda x: [x[0], x[1][:, :2]]), ValueError,
        r"features\[1\] must have shape \(2, 3, H, W\), got \(2, 2, 4, 5\)",
    ),
    ("multiscale_roi_align", "a float index"): (
        changed("image_index", lambda x: x.float()), TypeError,
        r"image_index must be int64, got float32",
    ),
    ("multiscale_roi_align", "an index too few"): (
        changed("image_index", lambda x: x[:2]), ValueError,
        r"image_index must have shape \(3,\), got \(2,\)",
    ),
    ("multiscale_roi_align", "integer boxes"): (
        changed("boxes", lambda x: x.int()), TypeError, r"boxes must be float32 .*, got int32",
    ),
    ("multiscale_roi_align", "boxes elsewhere"): (
        changed("boxes", lambda x: x.to("meta")), ValueError,
        rf"multiscale_roi_align: boxes {META} features\[0\], cpu, got meta",
    ),
    ("nms", "boxes of an image"): (
        changed("boxes", lambda x: x[None]), ValueError,
        r"nms: boxes must have shape \(K, 4\), got \(1, 3, 4\)",
    ),
    ("nms", "a score too few"): (
        changed("scores", lambda x: x[:2]), ValueError,
        r"nms: scores must have shape \(3,\), got \(2,\)",
    ),
    ("nms", "integer boxes"): (
        changed("boxes", lambda x: x.long()), TypeError,
        r"nms: boxes must be float32 .*, got int64",
    ),
    ("segmented_nms", "groups of another count"): (
        changed("groups", lambda x: x[:, :2]), ValueError,
        r"nms: groups must have shape \(2, 3\) or \(2, 0\), got \(2, 2\)",
    ),
    ("segmented_nms", "groups of floats"): (
        changed("groups", lambda x: x.float()), TypeError,
        r"nms: groups must be int64, got float32",
    ),
    ("segmented_nms", "a negative count"): (
        changed("max_keep", lambda _: -1), ValueError, r"nms: max_keep must be at least 0, got -1",
    ),
    ("segmented_nms", "scores elsewhere"): (
        changed("scores", lambda x: x.to("meta")), ValueError,
        rf"nms: scores {META} boxes, cpu, got meta",
    ),
    ("select_proposals", "a stride too few"): (
        changed("strides", lambda x: x[:1]), ValueError,
        r"select_proposals: logits, deltas and strides must have one entry per level, got 2, 2, 1",
    ),
    ("select_proposals", "deltas of half the anchors"): (
        changed("deltas", lambda x: [d[:, :2] for d in x]), ValueError,
        r"select_proposals: deltas\[0\] must have shape \(2, 4, 3, 5\), got \(2, 2, 3, 5\)",
    ),
    ("select_proposals", "one set of anchors"): (
        changed("cell_anchors", lambda x: x[:1]), ValueError,
        r"select_proposals: cell_anchors must have shape \(2, 1, 4\), got \(1, 1, 4\)",
    ),
    ("select_proposals", "the size of one image"): (
        changed("sizes", lambda x: x[0]), ValueError,
        r"select_proposals: sizes must have shape \(2, 2\), got \(2,\)",
    ),
    ("select_detections", "scores without images"): (
        changed("scores", lambda x: x[0]), ValueError,
        r"select_detections: scores must have shape \(N, R, C\), got \(3, 2\)",
    ),
    ("select_detections", "deltas of other classes"): (
        changed("deltas", lambda x: x[..., :7]), ValueError,
        r"select_detections: deltas must have shape \(2, 3, 8\), got \(2, 3, 7\)",
    ),
    ("select_detections", "validity as numbers"): (
        changed("valid", lambda x: x.float()), TypeError,
        r"select_detections: valid must be bool, got float32",
    ),
    ("match_boxes", "boxes of three images"): (
        changed("boxes", lambda x: x.expand(3, -1, -1)), ValueError,
        r"match_boxes: boxes must have shape \(2, A, 4\), got \(3, 3, 4\)",
    ),
    ("match_boxes", "validity of other slots"): (
        changed("valid", lambda x: x[:, :3]), ValueError,
        r"match_boxes: valid must have shape \(2, 4\), got \(2, 3\)",
    ),
    ("match_boxes", "validity as numbers"): (
        changed("valid", lambda x: x.int()), TypeError,
        r"match_boxes: valid must be bool, got int32",
    ),
    ("multiscale_roi_align", "a level elsewhere"): (
        changed("features", lambda x: [x[0], x[1].to("meta")]), ValueError,
        rf"multiscale_roi_align: features\[1\] {META} features\[0\], cpu, got meta",
    ),
    ("multiscale_roi_align", "a map without images"): (
        changed("features", lambda x: [x[0][0, 0], x[1]]), ValueError,
        r"features\[0\] must have shape \(N, C, H, W\), got \(8, 8\)",
    ),
    ("select_proposals", "flat logits"): (
        changed("logits", lambda x: [x[0].flatten(), x[1]]), ValueError,
        r"select_proposals: logits\[0\] must have shape \(N, A, H, W\), got \(30,\)",
    ),
    ("select_proposals", "integer deltas"): (
        changed("deltas", lambda x: [x[0], x[1].int()]), TypeError,
        r"select_proposals: deltas\[1\] must be float32 .*, got int32",
    ),
    ("select_proposals", "sizes as numbers of pixels"): (
        changed("sizes", lambda x: x.float()), TypeError,
        r"select_proposals: sizes must be int64, got float32",
    ),
    ("select_proposals", "sizes elsewhere"): (
        changed("sizes", lambda x: x.to("meta")), ValueError,
        rf"select_proposals: sizes {META} logits\[0\], cpu, got meta",
    ),
    ("select_proposals", "a negative count before NMS"): (
        changed("pre_nms_top_k", lambda _: -1), ValueError,
        r"select_proposals: pre_nms_top_k must be at least 0, got -1",
    ),
    ("select_proposals", "a negative count"): (
        changed("post_nms_top_k", lambda _: -5), ValueError,
        r"select_proposals: post_nms_top_k must be at least 0, got -5",
    ),
    ("select_detections", "deltas without images"): (
        changed("deltas", lambda x: x[0, :, :4]), ValueError,
        r"select_detections: deltas must have shape \(2, 3, D\), got \(3, 4\)",
    ),
    ("select_detections", "integer scores"): (
        changed("scores", lambda x: x.long()), TypeError,
        r"select_detections: scores must be float32 .*, got int64",
    ),
    ("select_detections", "boxes elsewhere"): (
        changed("boxes", lambda x: x.to("meta")), ValueError,
        rf"select_detections: boxes {META} scores, cpu, got meta",
    ),
    ("select_detections", "a negative count"): (
        changed("max_detections", lambda _: -1), ValueError,
        r"select_detections: max_detections must be at least 0, got -1",
    ),
    ("match_boxes", "a single number"): (
        changed("boxes", lambda x: x[0, 0, 0]), ValueError,
        r"match_boxes: boxes must have shape \(N, A, 4\), got \(\)",
    ),
    ("match_boxes", "integer targets"): (
        changed("targets", lambda x: x.int()), TypeError,
        r"match_boxes: targets must be float32 .*, got int32",
    ),
    ("match_boxes", "targets elsewhere"): (
        changed("targets", lambda x: x.to("meta")), ValueError,
        rf"match_boxes: targets {META} boxes, cpu, got meta",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("face", "wrong"), WRONG)
def test_wrong_arguments_are_named(face, wrong):
    change, error, message = WRONG[face, wrong]
    with pytest.raises(error, match=message):
        FACES[face](**change(arguments(face)))


WRONG_RAW = {
    "roi_align": lambda a: (a[0], a[1][:, :3], *a[2:]),
    "roi_pool": lambda a: (a[0], a[1], a[2][:1], *a[3:]),
    "nms": lambda a: (a[0], a[1][:, :1], *a[2:]),
    "select_proposals": lambda a: (a[0], a[1][:1], *a[2:]),
    "select_detections": lambda a: (*a[:3], a[3][:1], *a[4:]),
    "match_boxes": lambda a: (a[0], a[1], a[2][:, :1], *a[3:]),
}


@pytest.mark.parametrize("op", WRONG_RAW)
def test_ops_without_their_faces_refuse_what_they_would_misread(op):
    """Exported graphs call the registered ops alone."""
    overload, face = OPS[op]
    with pytest.raises(RuntimeError, match=rf"{op}: .*(the other arguments|one entry a level)"):
        overload(*WRONG_RAW[op](positional(face)))
