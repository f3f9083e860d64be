"""Every named model, and every choice of its parts: build, train, predict, save; or refuse."""

import dataclasses
import re
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from mrcnn import checkpoints
from mrcnn.config import CHOICES, MODELS, ModelConfig
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.loader import eval_loader, train_loader
from mrcnn.models import MaskRCNN, build, losses
from mrcnn.models.box_head import BoxHead
from mrcnn.models.fpn import FPN, TOPS
from mrcnn.models.layers import NORMS
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.pooling import ROI_OPS, RoIPooler
from mrcnn.models.rpn import RPN
from mrcnn.numerics import NUMERICS
from mrcnn.ops import roi_pool
from mrcnn.structures import ImageBatch
from tests.helpers import tiny
from tests.models.test_fixed_shapes import images, square_targets

ONE_LEVEL = {"neck": "single", "fpn_levels": 3, "anchor_sizes": ((16, 32, 64),)}
C4 = {
    "neck": "c4",
    "anchor_sizes": ((16, 32, 64),),
    "box_head_layers": 0,
    "mask_head_convs": 0,
    "box_bins": 3,
    "mask_bins": 6,
}
HEAD_CONVS = {"box_head_convs": 2, "box_head_conv_width": 16, "box_head_layers": 1}
VGG = {"backbone": "vgg11", "norm": "none"}
INCEPTION = {"backbone": "inception_v3_narrow", "norm": "group_of_8"}
MOBILENET = {"backbone": "mobilenet_v2", "norm": "group_of_8"}

FAMILIES = {  # of bodies and necks
    "ResNet, FPN": {},
    "ResNet, one level": ONE_LEVEL,
    "ResNet, conv5 heads": C4,
    "ResNet, dilated conv5": {**ONE_LEVEL, "neck": "dc5", "backbone": "resnet50"},
    "VGG, FPN": VGG,
    "VGG, conv5_3 and RoIPool": {**VGG, **ONE_LEVEL, "roi_op": "pool"},
    "Inception, FPN": INCEPTION,
    "Inception, Mixed_6e": {**INCEPTION, **ONE_LEVEL},
    "MobileNet, FPN": MOBILENET,
    "MobileNet, one level": {**MOBILENET, **ONE_LEVEL},
}
VARIANTS = FAMILIES | {
    "conv5 heads of bottlenecks": {**C4, "backbone": "resnet50"},
    "conv5 heads, RoIPool, boxes only": {**C4, "roi_op": "pool", "masks": False},
    "ResNeXt": {"backbone": "resnext50_32x4d"},
    "wide ResNet": {"backbone": "wide_resnet50_2", "stride_in_1x1": True},
    "VGG with norms": {"backbone": "vgg11_bn"},
    "coarser level by a convolution": {"fpn_top": "conv"},
    "one stage": {"fpn_levels": 1, "anchor_sizes": (16, 32)},
    "four stages": {"fpn_levels": 4, "anchor_sizes": (8, 16, 32, 64, 128)},
    "several sizes a level": {"anchor_sizes": ((8, 12), (16, 24), (32, 48))},
    "two RPN convolutions": {"rpn_convs": 2},
    "RoIPool on a pyramid": {"roi_op": "pool"},
    "RoIPool up to the last pixel": {"roi_op": "pool", "numerics": "maskrcnn_benchmark"},
    "RoIAlign up to the last pixel": {"numerics": "maskrcnn_benchmark"},
    "numbers of torchvision": {"numerics": "torchvision"},
    "GIoU": {"rpn_box_loss": "giou", "box_loss": "giou"},
    "GIoU of boxes for all classes": {"box_loss": "giou", "class_agnostic_boxes": True},
    "betas": {"rpn_smooth_l1_beta": 0.5, "box_smooth_l1_beta": 0.0},
    "masks of 56 x 56": {"mask_bins": 28},
    "an odd number of bins": {"box_bins": 5, "mask_bins": 9},
    "conv5 heads of the usual size": {**C4, "box_bins": 7, "mask_bins": 14},
    "convolutions in the box head": HEAD_CONVS,
    "convolutions alone in the box head": {**HEAD_CONVS, "box_head_layers": 0},
    "linear heads": {"box_head_layers": 0, "mask_head_convs": 0},
    "one mask and one box for all classes": {
        "class_agnostic_boxes": True,
        "class_agnostic_masks": True,
    },
    "boxes only": {"masks": False},
    "group norm of 8": {"norm": "group_of_8", "head_norm": "group_of_8", **HEAD_CONVS},
    "group norm": {
        **HEAD_CONVS,
        "norm": "group",
        "head_norm": "group",
        "fpn_channels": 32,
        "box_head_conv_width": 32,
        "mask_head_width": 32,
    },
    "frozen batch norm": {"norm": "frozen_batch", "head_norm": "frozen_batch", **HEAD_CONVS},
    "live batch norm": {"norm": "batch", "head_norm": "batch", **HEAD_CONVS},
    "batch norm of all processes": {
        "norm": "sync_batch",
        "head_norm": "sync_batch",
        **HEAD_CONVS,
    },
    "frozen stages": {"norm": "frozen_batch", "frozen_stages": 2},
}


SLOW = {
    "ResNet, dilated conv5",
    "conv5 heads of bottlenecks",
    "conv5 heads of the usual size",
    "ResNeXt",
    "wide ResNet",
}


def cases(names: Iterable[str], slow: set[str] = SLOW) -> list:
    """Parameters of tests; the large ones are marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def config_of(changes: dict) -> ModelConfig:
    """Narrow necks and heads."""
    return dataclasses.replace(tiny.CONFIG, roi_samples=16, post_nms_top_k=20, **changes)


def model_of(changes: dict) -> MaskRCNN:
    return tiny.model(config_of(changes))


def on_meta(name: str) -> MaskRCNN:
    """A named model whose tensors have shapes but no values."""
    with torch.device("meta"):
        return build(dataclasses.replace(MODELS[name], class_names=("disc", "square")))


def step(model: MaskRCNN, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    found = model.train()(images(), square_targets())
    torch.stack(list(found.values())).sum().backward()
    return found


def test_choices_are_those_of_the_modules():
    assert set(CHOICES["norm"]) == set(CHOICES["head_norm"]) == {*NORMS, "none"}
    assert CHOICES["fpn_top"] == tuple(TOPS)
    assert CHOICES["roi_op"] == ROI_OPS
    assert CHOICES["box_loss"] == CHOICES["rpn_box_loss"] == losses.BOX_LOSSES


@pytest.mark.parametrize("name", MODELS)
def test_named_models_build(name):
    model = on_meta(name)
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "name", cases(MODELS, {name for name in MODELS if "101" in name or "152" in name})
)
def test_named_models_build_train_and_predict(name):
    model = on_meta(name)
    found = model(images("meta"), square_targets("meta"))
    torch.stack(list(found.values())).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    side = 2 * model.mask_head.pooler.size
    assert model.eval()(images("meta")).masks.shape == (2, 100, side, side)


@pytest.mark.parametrize("case", cases(VARIANTS))
def test_variants_train_predict_and_survive_a_file(case, tmp_path):
    config = config_of(VARIANTS[case])
    model = tiny.model(config)
    found = step(model)
    assert all(torch.isfinite(loss) for loss in found.values())
    assert ("loss_mask" in found) == config.masks
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    with torch.no_grad():
        before = model.eval()(images_of_seed())
    side = 2 * model.mask_head.pooler.size if model.mask_head else 0
    assert before.masks.shape == (2, config.max_detections, side, side)
    assert before.counts.min() > 0
    checkpoints.save(tmp_path / "a.safetensors", model.state_dict(), config, {})
    saved = checkpoints.load(tmp_path / "a.safetensors")
    assert saved.config == config
    again = build(saved.config).eval()
    again.load_state_dict(saved.state)
    with torch.no_grad():
        after = again(images_of_seed())
    for one, other in zip(dataclasses.astuple(before), dataclasses.astuple(after), strict=True):
        assert torch.equal(one, other)


def images_of_seed(seed: int = 1):
    torch.manual_seed(seed)
    return images()


ILLEGAL = {  # the changes, and all that the message must name
    "an unknown backbone": ({"backbone": "resnet19"}, ["backbone", "resnet19", "resnet18"]),
    "an unknown neck": ({"neck": "bifpn"}, ["neck", "bifpn", "fpn, single, c4, dc5"]),
    "an unknown norm": ({"norm": "layer"}, ["norm", "layer", "frozen_batch"]),
    "an unknown norm of heads": ({"head_norm": "layer"}, ["head_norm", "layer"]),
    "an unknown pooling": ({"roi_op": "crop"}, ["roi_op", "crop", "align, pool"]),
    "an unknown loss": ({"box_loss": "iou"}, ["box_loss", "iou", "smooth_l1, giou"]),
    "an unknown loss of the RPN": ({"rpn_box_loss": "l2"}, ["rpn_box_loss", "l2"]),
    "an unknown top": ({"fpn_top": "p6p7"}, ["fpn_top", "p6p7", "max_pool, conv"]),
    "plain VGG with a norm": ({**VGG, "norm": "batch"}, ["'vgg11'", "norm 'batch'"]),
    "VGG with norms without": ({"backbone": "vgg11_bn", "norm": "none"}, ["vgg11_bn", "'none'"]),
    "ResNet without norms": ({"norm": "none"}, ["backbone 'resnet18'", "'none'"]),
    "Inception without norms": ({**INCEPTION, "norm": "none"}, ["inception_v3_narrow", "'none'"]),
    "MobileNet without norms": ({**MOBILENET, "norm": "none"}, ["mobilenet_v2", "'none'"]),
    "32 groups in MobileNet": ({**MOBILENET, "norm": "group"}, ["mobilenet_v2", "'group'"]),
    "conv5 of VGG": ({**VGG, **C4}, ["neck 'c4'", "'vgg11'"]),
    "dilated conv5 of MobileNet": (
        {**MOBILENET, **ONE_LEVEL, "neck": "dc5"},
        ["neck 'dc5'", "'mobilenet_v2'"],
    ),
    "dilated conv5 of basic blocks": (
        {**ONE_LEVEL, "neck": "dc5"},
        ["neck 'dc5'", "'resnet18'", "bottlenecks"],
    ),
    "conv5 and other heads": ({**C4, "box_head_convs": 1}, ["neck 'c4'", "box_head_convs"]),
    "conv5 and other bins": ({**C4, "box_bins": 6}, ["neck 'c4'", "mask_bins", "box_bins"]),
    "a top without a pyramid": (
        {**ONE_LEVEL, "fpn_top": "conv"},
        ["fpn_top 'conv'", "neck 'single'"],
    ),
    "anchors of one level for many": (
        {"anchor_sizes": ((16, 32, 64),)},
        ["anchor_sizes", "2 FPN levels"],
    ),
    "anchors of many levels for one": (
        {**ONE_LEVEL, "anchor_sizes": (16, 32)},
        ["anchor_sizes", "neck 'single'"],
    ),
    "32 groups of 24 channels": (
        {"head_norm": "group", "fpn_channels": 24},
        ["head_norm 'group'", "fpn_channels", "32", "24"],
    ),
    "groups of 8 of 12 channels": (
        {"head_norm": "group_of_8", "mask_head_width": 12},
        ["head_norm 'group_of_8'", "mask_head_width", "12"],
    ),
    "groups of 8 of 4 channels": (
        {**HEAD_CONVS, "head_norm": "group_of_8", "box_head_conv_width": 4},
        ["head_norm 'group_of_8'", "box_head_conv_width", "4"],
    ),
    "a beta of GIoU": (
        {"box_loss": "giou", "box_smooth_l1_beta": 1.0},
        ["box_smooth_l1_beta", "box_loss", "'giou'"],
    ),
    "a beta of the RPN's GIoU": (
        {"rpn_box_loss": "giou", "rpn_smooth_l1_beta": 0.0},
        ["rpn_smooth_l1_beta", "rpn_box_loss", "'giou'"],
    ),
    "a beta below 0": ({"rpn_smooth_l1_beta": -1.0}, ["rpn_smooth_l1_beta", "-1.0"]),
    "no bins of masks": ({"mask_bins": 0}, ["mask_bins", "[1, 64]", "0"]),
    "no bins of boxes": ({"box_bins": 0}, ["box_bins", "[1, 64]", "0"]),
    "no stages": ({"fpn_levels": 0, "anchor_sizes": (16,)}, ["fpn_levels", "0"]),
    "a fifth stage": (
        {"fpn_levels": 5, "anchor_sizes": (8, 16, 32, 64, 128, 256)},
        ["fpn_levels", "[1, 4]", "5"],
    ),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_what_does_not_go_together_is_named(case):
    changes, words = ILLEGAL[case]
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        build(config_of(changes))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FPN(Halves(), 32, top="p6p7"),
        lambda: FPN(Halves(), 32, norm="layer"),
        lambda: RoIPooler(32, 7, [4], op="crop"),
        lambda: RPN(32, strides=[4], anchor_sizes=[[16]], box_loss="iou"),
        lambda: BoxHead(RoIPooler(32, 7, [4]), num_classes=2, box_loss="iou"),
    ],
)
def test_plain_constructors_name_their_choices(make):
    with pytest.raises(ValueError, match=r"(top|norm|op|box_loss) must be one of .*, got '"):
        make()


@pytest.mark.parametrize("norm", ["frozen_batch", "group_of_8"])
@pytest.mark.parametrize(
    "case",
    cases(["ResNet, FPN", "MobileNet, FPN", "ResNet, conv5 heads"], {"ResNet, conv5 heads"}),
)
def test_images_do_not_see_each_other(case, norm):
    """In training as well, but for live batch norm."""
    heads = {} if "conv5" in case else {**HEAD_CONVS, "head_norm": norm}
    model = model_of({**FAMILIES[case], **heads, "norm": norm}).double()
    model.train()
    pixels = torch.randn(4, 3, 64, 96, dtype=torch.float64)
    boxes = torch.tensor([[4.0, 8, 40, 50], [30, 2, 90, 60]]).expand(4, -1, -1)
    valid = torch.ones(4, 2, dtype=torch.bool)

    def outputs(rows: slice) -> list[Tensor]:
        features = model.backbone(pixels[rows])
        logits, deltas = model.rpn(features)
        heads = model.box_head(features, boxes[rows], valid[rows])
        masks = model.mask_head(features, boxes[rows], valid[rows].long())
        return [*features.values(), *logits, *deltas, *heads, masks]

    together = outputs(slice(0, 4))
    for n in range(4):
        for whole, alone in zip(together, outputs(slice(n, n + 1)), strict=True):
            torch.testing.assert_close(whole[n : n + 1], alone)


@pytest.mark.parametrize("case", cases(FAMILIES))
def test_families_in_both_memory_formats(case):
    """`build` gives channels_last; the maps of the other format are the same."""
    model = model_of({"norm": "group_of_8", **FAMILIES[case]}).double()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        found = model.backbone(pixels.contiguous(memory_format=torch.channels_last))
        expected = model.to(memory_format=torch.contiguous_format).backbone(pixels)
    for level, x in found.items():
        assert x.is_contiguous(memory_format=torch.channels_last), level
        torch.testing.assert_close(x, expected[level])


@pytest.mark.parametrize("case", cases(FAMILIES))
def test_families_under_autocast(case):
    model = model_of(FAMILIES[case])
    with torch.autocast("cpu", torch.bfloat16):
        found = step(model)
        with torch.no_grad():
            detections = model.eval()(images())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found.values())
    for values in (detections.boxes, detections.scores, detections.masks):
        assert values.dtype == torch.float32
        assert values.isfinite().all()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.parametrize("case", cases(FAMILIES))
def test_families_repeat_to_the_bit(case):
    model = model_of({"norm": "group_of_8", **FAMILIES[case]})
    runs = []
    for _ in range(2):
        model.zero_grad()
        found = step(model)
        runs.append([*found.values(), *(p.grad for p in model.parameters() if p.requires_grad)])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


class OnTensors(nn.Module):
    """A detector whose arguments and results are plain tensors, as an exported program has them."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        found = self.model(ImageBatch(pixels, sizes))
        return found.boxes, found.scores, found.labels, found.counts, found.masks


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILIES)
@torch.no_grad()
def test_families_are_exported(case):
    """One graph from pixels to padded detections, with equal results."""
    model, batch = OnTensors(model_of({"norm": "group_of_8", **FAMILIES[case]})).eval(), images()
    arguments = (batch.pixels, batch.sizes)
    program = torch.export.export(model, arguments, strict=False).module()
    for found, expected in zip(program(*arguments), model(*arguments), strict=True):
        # Convolutions that end in a ReLU are fused in eager mode alone.
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", VARIANTS)
def test_variants_on_real_pictures(case, shared_data):
    folder = shared_data / "coco_mini"
    dataset = read_coco(folder / "annotations.json", folder / "images")
    config = dataclasses.replace(
        config_of(VARIANTS[case]),
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        min_size=128,
        max_size=192,
    )
    model = tiny.model(config)
    batch = next(train_loader(dataset, config, Augmentation(), batch_size=2, steps=1))
    found = model.train()(batch.images, batch.targets)
    torch.stack(list(found.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in found.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    whole = next(eval_loader(dataset, config, batch_size=2))
    with torch.no_grad():
        detections = model.eval()(whole.images)
    assert detections.boxes.isfinite().all()


def test_betas_of_the_configuration_come_before_those_of_the_numerics():
    model = model_of({"numerics": "torchvision", "rpn_smooth_l1_beta": 0.0})
    assert model.rpn.numerics.rpn_smooth_l1_beta == 0
    assert model.box_head.pooler.numerics.box_smooth_l1_beta == pytest.approx(1 / 9)


@pytest.mark.parametrize("numerics", ["detectron2", "maskrcnn_benchmark"])
def test_roi_pool_takes_each_roi_from_the_level_of_its_size(numerics):
    torch.manual_seed(0)
    maps = {"p2": torch.randn(2, 3, 64, 64), "p3": torch.randn(2, 3, 32, 32)}
    boxes = torch.tensor(
        [[[3.0, 5, 40, 60], [0, 0, 250, 250]], [[9, 9, 240, 255], [20, 20, 30, 31]]]
    )
    valid = torch.tensor([[True, True], [True, False]])
    pooler = RoIPooler(3, 7, [4, 8], NUMERICS[numerics], "pool")
    found = pooler(maps, boxes, valid).view(2, 2, 3, 7, 7)
    beyond = torch.tensor([0.0, 0, 1, 1]) * NUMERICS[numerics].last_pixel
    # 224 pixels belong to stride 16, 112 to 8: the second RoI of image 0 and the first of image 1.
    for image, slot, level, stride in [(0, 0, "p2", 4), (0, 1, "p3", 8), (1, 0, "p3", 8)]:
        roi = [(boxes[image, slot] - beyond)[None]]
        expected = roi_pool(maps[level][image : image + 1], roi, 7, 1 / stride)
        assert torch.equal(found[image, slot], expected[0])
    assert found[1, 1].eq(0).all()


class Halves(nn.Module):
    """A body of one's own: maps at strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.strides, self.channels = [4, 8], [16, 32]
        self.stem, self.last = nn.Conv2d(3, 16, 7, 4, 3), nn.Conv2d(16, 32, 3, 2, 1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        fine = self.stem(pixels).relu()
        return [fine, self.last(fine).relu()]


def test_a_model_from_plain_constructors_on_a_body_of_ones_own():
    torch.manual_seed(0)
    backbone = FPN(Halves(), 32)
    rpn = RPN(32, strides=backbone.strides, anchor_sizes=[[16], [32], [64]])
    box_head = BoxHead(RoIPooler(32, 7, [4, 8]), num_classes=2, score_threshold=0.0)
    mask_head = MaskHead(RoIPooler(32, 14, [4, 8]), num_classes=2, width=32)
    model = MaskRCNN(backbone, rpn, box_head, mask_head, roi_samples=64)

    step(model)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        found = model.eval()(images())
    assert found.masks.shape == (2, 100, 28, 28)
    assert found.counts.min() > 0
