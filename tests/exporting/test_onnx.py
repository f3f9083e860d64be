"""`mrcnn export --out model.onnx` in ONNX Runtime: operators, preparing images, whole models."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.export import Dim

from tests.helpers import tiny
from tests.helpers.exported import SAME_PIXELS, assert_same, decided
from tests.helpers.random_detectors import random_image

onnx = pytest.importorskip("onnx", reason="the extra mrcnn[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra mrcnn[onnx] is not installed")
onnxscript = pytest.importorskip("onnxscript", reason="the extra mrcnn[onnx] is not installed")

import mrcnn  # noqa: E402
from mrcnn.cli import app  # noqa: E402
from mrcnn.config import MODELS  # noqa: E402
from mrcnn.data.images import network_size, pad_images, to_pixels  # noqa: E402
from mrcnn.exporting.onnx_file import export_onnx  # noqa: E402
from mrcnn.exporting.onnx_ops import TRANSLATIONS  # noqa: E402
from mrcnn.exporting.onnx_pixels import prepare  # noqa: E402
from mrcnn.numerics import NUMERICS  # noqa: E402
from mrcnn.ops import (  # noqa: E402
    multiscale_roi_align,
    roi_pool,
    select_detections,
    select_proposals,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_predict.py"
LOOPS = {"Loop", "Scan", "If", "SequenceMap"}


def session(model):
    """Of a file, or of a model in memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not isinstance(model, Path):
        model = onnxscript.ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model, inputs):
    """The outputs as tensors."""
    named = {value.name: x.numpy() for value, x in zip(model.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(value) for value in model.run(None, named)]


# --- the ops ---


def translated(function, inputs, dynamic_shapes):
    """A session of one function of tensors, traced with these inputs."""

    class Module(nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    program = torch.export.export(Module(), inputs, dynamic_shapes=(dynamic_shapes,))
    exported = torch.onnx.export(
        program, (), dynamo=True, custom_translation_table=TRANSLATIONS, verbose=False
    )
    return session(exported.model)


def test_roi_align_takes_each_box_from_its_level():
    torch.manual_seed(0)
    maps = [torch.randn(2, 4, side, side) for side in (32, 16, 8)]

    def align(boxes, image_index, *maps):
        options = {"scales": [1 / 4, 1 / 8, 1 / 16], "canonical_size": 32.0, "canonical_level": 1}
        adaptive = multiscale_roi_align(maps, boxes, image_index, size=(3, 5), **options)
        fixed = multiscale_roi_align(
            maps, boxes, image_index, size=(3, 5), sampling_ratio=2, aligned=False, **options
        )
        return adaptive, fixed

    count = Dim("count")
    model = translated(
        align,
        (torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), *maps),
        ({0: count}, {0: count}, None, None, None),
    )
    edges = [[0, 0, 16, 16], [0, 0, 32, 32], [5, 5, 69, 69], [3, 3, 3, 9], [-9, -9, 300, 200]]
    low, extent = torch.rand(60, 2) * 100 - 10, torch.rand(60, 2) * 90
    boxes = torch.cat([torch.tensor(edges, dtype=torch.float32), torch.cat([low, low + extent], 1)])
    image_index = torch.arange(len(boxes)) % 4 - 1  # -1 is padding
    image_index[image_index == 2] = 0
    for kept in (slice(None), slice(0, 1), slice(4, 5), slice(0)):  # levels without boxes; no box
        inputs = (boxes[kept], image_index[kept], *maps)
        for got, wanted in zip(run(model, inputs), align(*inputs), strict=True):
            torch.testing.assert_close(got, wanted.contiguous())


def test_roi_pool_without_padding():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 20, 25)

    def pool(rois, features):
        return roi_pool(features, rois, (3, 2), 0.25)

    model = translated(pool, (torch.rand(4, 5), features), ({0: Dim("count")}, None))
    low = torch.rand(40, 2) * 90 - 10
    rois = torch.cat([torch.arange(40)[:, None] % 2, low, low + torch.rand(40, 2) * 60 - 5], 1)
    rois[::3, 1:] = torch.nan  # padding
    rois[1, 1:] = torch.tensor([2.0, 6.0, 10.0, 14.0])  # halves of cells
    for some in (rois, rois[:1], rois[:0]):
        got = run(model, (some, features))[0]
        assert torch.equal(got, pool(some, features).contiguous())


def test_proposals_of_equal_logits_and_of_few_cells():
    torch.manual_seed(0)
    options = {"pre_nms_top_k": 40, "post_nms_top_k": 30, "nms_threshold": 0.5, "min_side": 1.0}
    anchors = torch.tensor([[-8, -8, 8, 8], [-12, -6, 12, 6]]).float()
    anchors = torch.stack([anchors, 2 * anchors])

    def select(sizes, *maps):
        strides = [(maps[0].shape[2] * 8 // x.shape[2],) * 2 for x in maps[:2]]
        return select_proposals(maps[:2], maps[2:], anchors, strides, sizes, **options)

    def maps(images, height, width):
        shapes = [(height, width), (height // 2, width // 2)]
        logits = [torch.randn(images, 2, *shape).mul(2).round() / 2 for shape in shapes]
        return *logits, *(torch.randn(images, 8, *shape) for shape in shapes)

    images, (height, width) = Dim("images", min=1), (Dim("height"), Dim("width"))
    fine, coarse = ({0: images, 2: k * height, 3: k * width} for k in (2, 1))
    model = translated(
        select,
        (torch.tensor([[80, 60], [64, 90]]), *maps(2, 12, 16)),
        ({0: images}, fine, coarse, fine, coarse),
    )
    for case in ((2, 12, 16), (3, 40, 24), (1, 4, 4)):
        sizes = torch.randint(10, 8 * case[1], (case[0], 2))
        inputs = (sizes, *maps(*case))
        boxes, scores = run(model, inputs)
        wanted_boxes, wanted_scores = select(*inputs)
        assert torch.equal(scores, wanted_scores)
        torch.testing.assert_close(boxes, wanted_boxes, atol=1e-4, rtol=0)
    assert (scores == -torch.inf).any()  # of the last case, padding


@pytest.mark.parametrize("boxes_per_roi", [3, 1], ids=["a box a class", "one box"])
def test_detections_of_each_class(boxes_per_roi):
    torch.manual_seed(0)
    options = {"score_threshold": 0.3, "nms_threshold": 0.4, "max_detections": 12, "min_side": 0.5}

    def select(scores, deltas, boxes, valid, sizes):
        weights = (10.0, 10.0, 5.0, 5.0)
        return select_detections(
            scores, deltas, boxes, valid, sizes, delta_weights=weights, **options
        )

    def inputs(images, rois, most):
        scores = (torch.rand(images, rois, 3) * most * 32).round() / 32  # with ties
        low = torch.rand(images, rois, 2) * 40
        boxes = torch.cat([low, low + torch.rand(images, rois, 2) * 60], 2)
        deltas = torch.randn(images, rois, 4 * boxes_per_roi)
        valid = torch.rand(images, rois) < 0.8
        return scores, deltas, boxes, valid, torch.randint(20, 90, (images, 2))

    images, rois = Dim("images", min=1), Dim("rois", min=1)
    both = {0: images, 1: rois}
    model = translated(select, inputs(2, 9, 1), (both, both, both, both, {0: images}))
    for case in ((2, 40, 1.0), (1, 2, 1.0), (3, 30, 0.2)):  # crowded; fewer than slots; none
        given = inputs(*case)
        got, wanted = run(model, given), select(*given)
        torch.testing.assert_close(got[0], wanted[0], atol=1e-4, rtol=0)
        for ours, theirs in zip(got[1:], wanted[1:], strict=True):
            assert torch.equal(ours, theirs)
    assert wanted[4].tolist() == [0, 0, 0]


# --- preparing images ---


def pixels_model(config, outputs):
    """A session of the nodes that prepare images alone."""
    ir = onnxscript.ir
    images = ir.Value(
        name="images", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["batch", "h", "w", 3])
    )
    prepared, nodes = prepare(images, config)
    for name in outputs:
        prepared[name].name = name
        kind = ir.DataType.FLOAT if name == "pixels" else ir.DataType.INT64
        prepared[name].type = ir.TensorType(kind)
    made = [prepared[name] for name in outputs]
    graph = ir.Graph([images], made, nodes=nodes, opset_imports={"": 18}, name="prepare")
    return session(ir.Model(graph, ir_version=10))


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_sizes_are_those_of_the_loader(numerics, scale):
    config = dataclasses.replace(
        MODELS["small"], numerics=numerics, scale=scale, min_size=160, max_size=267
    )
    model = pixels_model(config, ["sizes"])
    rng = np.random.default_rng(0)
    sides = [(160, 267), (96, 128), (1, 7), (7, 1), (67, 100), (334, 201), (128, 128)]
    for height, width in (*sides, *rng.integers(1, 400, (60, 2)).tolist()):
        image = np.broadcast_to(np.uint8(0), (1, height, width, 3))
        (size,) = model.run(None, {"images": image})[0].tolist()
        assert tuple(size) == network_size(height, width, config), (height, width)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_pixels_are_those_of_the_loader(numerics):
    """Up to roundings: of 8 bits, or of the positions between pixels."""
    ones = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
    config = dataclasses.replace(tiny.CONFIG, numerics=numerics, **ones)
    model = pixels_model(config, ["pixels", "sizes", "original_sizes"])
    for seed, size in enumerate(((90, 140), (300, 200), (64, 64), (50, 200))):
        images = np.stack([random_image(*size, seed), random_image(*size, seed + 10)])
        pixels, sizes, original_sizes = model.run(None, {"images": images})
        seen = network_size(*size, config)
        assert sizes.tolist() == [list(seen)] * 2
        assert original_sizes.tolist() == [list(size)] * 2
        wanted = pad_images([to_pixels(image, seen, config) for image in images], 32).pixels
        apart = (torch.from_numpy(pixels) - wanted).abs()
        in_8_bits = NUMERICS[numerics].resize_filter != "float"
        assert apart.max() <= (1 if in_8_bits else 255 * 3 * max(size) * 2**-24)


def test_pixels_are_normalised_as_the_loader_does():
    model = pixels_model(tiny.CONFIG, ["pixels"])
    image = random_image(64, 96, 0)  # is not network_size
    wanted = to_pixels(image, (64, 96), tiny.CONFIG)
    assert torch.equal(torch.from_numpy(model.run(None, {"images": image[None]})[0][0]), wanted)


# --- whole models ---


@pytest.fixture(scope="module")
def taking_images(tmp_path_factory):
    """A file of a tiny model that takes images, and the same model here."""
    folder = tmp_path_factory.mktemp("onnx")
    predictor = decided(dataclasses.replace(tiny.CONFIG, score_threshold=0.5))
    run, target = tiny.saved(folder, predictor.model, predictor.config), folder / "model.onnx"
    assert app.main(["export", "--weights", str(run), "--out", str(target), "--preprocess"]) == 0
    return target, predictor


def test_a_file_is_of_standard_operators_alone(taking_images):
    target, predictor = taking_images
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    assert [(imported.domain, imported.version) for imported in model.opset_import] == [("", 18)]
    assert not model.functions
    assert not {node.op_type for node in model.graph.node} & LOOPS
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", "h", "w", 3],
        "boxes": ["batch", 20, 4],
        "scores": ["batch", 20],
        "labels": ["batch", 20],
        "counts": ["batch"],
        "masks": ["batch", 20, 28, 28],
    }
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about["class_names"] == ["cat", "dog"]
    assert about["category_ids"] == [3, 7]
    assert about["preprocess"] is True
    assert (about["min_size"], about["max_size"], about["score_threshold"]) == (64, 128, 0.5)
    assert about["model"] == json.loads(json.dumps(predictor.config.to_dict()))


def test_objects_in_the_pixels_of_the_images(taking_images):
    """As the predictor finds them, of images of any size, also several of one size.

    Colours are multiples of 16, so that neither program rounds them when it doubles an image.
    """
    target, predictor = taking_images
    model, found = session(target), 0
    for count, size in ((1, (64, 90)), (3, (100, 64)), (1, (32, 45)), (2, (50, 32))):
        images = np.stack([random_image(*size, seed) // 16 * 16 for seed in range(count)])
        boxes, scores, labels, counts, _ = model.run(None, {"images": images})
        for n, image in enumerate(images):
            wanted = predictor.predict(image, score_threshold=0)
            assert counts[n] == len(wanted)
            assert labels[n, : counts[n]].tolist() == wanted.labels.tolist()
            np.testing.assert_allclose(boxes[n, : counts[n]], wanted.boxes, atol=1e-2, rtol=0)
            np.testing.assert_allclose(scores[n, : counts[n]], wanted.scores, atol=1e-4, rtol=0)
            found += len(wanted)
    assert found >= 30


def test_the_example(taking_images, tmp_path, monkeypatch, capsys):
    """It draws the masks that the predictor finds."""
    target, predictor = taking_images
    spec = importlib.util.spec_from_file_location("onnx_predict", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    image = random_image(64, 90, 0)
    Image.fromarray(image).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    example.main(str(target), "photo.png", "found.png", 0.6)
    wanted = predictor.predict(image, score_threshold=0.6)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [wanted.class_names[i] for i in wanted.labels]
    for mask in wanted.masks:
        image[mask] = image[mask] // 2 + np.array([0, 127, 60], np.uint8)
    drawn = np.asarray(Image.open("found.png"))
    assert (drawn == image).all(-1).mean() >= SAME_PIXELS


MODELS_HERE = {
    "small": {},
    "small, torchvision": {"numerics": "torchvision"},
    "small, maskrcnn-benchmark": {"numerics": "maskrcnn_benchmark"},
    "small, one box and one mask": {"class_agnostic_boxes": True, "class_agnostic_masks": True},
    "small-mobilenet": {},
    "small-vgg": {},
    "small-roipool": {},
    "small-inception": {},
    "resnet18-c4": {"min_size": 160, "max_size": 260, "pre_nms_top_k": 300},
    "resnet50-fpn": {"min_size": 320, "max_size": 533},
    "resnet50-fpn, torchvision": {"min_size": 320, "max_size": 533, "numerics": "torchvision"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MODELS_HERE)
def test_models_of_every_kind(case, shared_data):
    """Of random weights, which find many objects by outputs that are nearly equal: few of them."""
    classes = tuple(f"class {i}" for i in range(5))
    name, options = case.split(",")[0], MODELS_HERE[case]
    few = {"post_nms_top_k": 50, "max_detections": 20, "score_threshold": 0.5}
    config = dataclasses.replace(MODELS[name], class_names=classes, **{**few, **options})
    pictures = _pictures(shared_data, 5)
    batches = [_batch(pictures[:1], config), _batch(pictures[1:4], config)]
    predictor = decided(config, batches[0])
    model = session(export_onnx(predictor.model, config))
    found = 0
    for images in batches:
        outputs = run(model, (images.pixels, images.sizes))
        found += assert_same(outputs, images, predictor)
    assert found >= 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of some minutes on drawn shapes."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert app.main(["train", "--out", str(out), "--device", "cpu", "--steps", "300"]) == 0
    return out


@pytest.mark.slow
def test_a_trained_model_on_real_pictures(trained, shared_data, tmp_path):
    """Every kind of file: the same objects in 20 pictures and in batches of three, and none in a
    black one."""
    predictor = mrcnn.load(trained)
    for file, *flags in (["model.pt2"], ["model.onnx"], ["compiled.pt2", "--format", "aoti"]):
        target = str(tmp_path / file)
        assert app.main(["export", "--weights", str(trained), "--out", target, *flags]) == 0
    program = torch.export.load(tmp_path / "model.pt2").module()
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "compiled.pt2"))
    model = session(tmp_path / "model.onnx")
    pictures = _pictures(shared_data, 20)
    groups = [[picture] for picture in pictures] + [pictures[i : i + 3] for i in (0, 3, 6)]
    groups.append([np.zeros((333, 500, 3), np.uint8)])
    found = []
    for group in groups:
        images = _batch(group, predictor.config)
        found.append(assert_same(program(images.pixels, images.sizes), images, predictor))
        assert_same(compiled(images.pixels.contiguous(), images.sizes), images, predictor)
        assert_same(run(model, (images.pixels, images.sizes)), images, predictor)
    assert sum(found) >= 200
    assert found[-1] == 0


def _pictures(shared_data, count):
    files = sorted((shared_data / "coco_mini/images").iterdir())
    files = files[:: len(files) // count][:count]
    return [np.array(Image.open(file).convert("RGB")) for file in files]


def _batch(pictures, config):
    sizes = [network_size(*picture.shape[:2], config) for picture in pictures]
    pixels = [to_pixels(x, size, config) for x, size in zip(pictures, sizes, strict=True)]
    return pad_images(pixels, config.size_multiple)
