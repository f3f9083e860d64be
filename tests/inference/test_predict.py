"""`Predictor`: images of any kind, batches, streams, thresholds and errors."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image

import mrcnn
from mrcnn.data.images import MAX_NETWORK_PIXELS
from mrcnn.errors import UserError
from mrcnn.inference.advice import MODEL, OPTIONS, RESULT
from mrcnn.inference.predictor import Predictor
from mrcnn.inference.results import Result
from mrcnn.runtime.device import find_device
from tests.helpers import tiny
from tests.helpers.tiny import noise


@pytest.fixture(scope="module")
def predictor(weights) -> Predictor:
    return mrcnn.load(weights)


def assert_same(a: Result, b: Result) -> None:
    for name in ("image", "boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.rles == b.rles


def test_kinds_of_images_agree(predictor, tmp_path):
    array = noise(40, 60)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = predictor.predict(array, 0)
    assert len(expected) == 20
    channels_first = torch.from_numpy(array).permute(2, 0, 1)
    files = (str(tmp_path / "a.png"), tmp_path / "a.png")
    for image in (*files, Image.fromarray(array), channels_first, [array], [channels_first]):
        result = predictor.predict(image, 0)
        assert_same(result[0] if isinstance(result, list) else result, expected)
    assert predictor.predict(tmp_path / "a.png").path == tmp_path / "a.png"
    grey = array[:, :, 0]
    assert_same(predictor.predict(grey, 0), predictor.predict(np.stack([grey] * 3, axis=2), 0))


def test_exif_orientation(predictor, tmp_path):
    array = noise(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(array, -1)
    assert_same(predictor.predict(tmp_path / "a.png", 0), predictor.predict(upright.copy(), 0))
    with Image.open(tmp_path / "a.png") as image:
        assert_same(predictor.predict(image, 0), predictor.predict(upright.copy(), 0))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_list_is_batched(predictor, batch_size):
    """A batch of mixed sizes gives the same objects as single images, in the same order.

    Every output is a sum over at most 10^3 products of numbers around 1, so another order of
    summation moves it by 10^3 roundings of 2^-24, less than 1e-4 of a side; sides are below 100.
    """
    sizes = [(40, 60), (90, 30), (40, 60), (60, 40), (40, 59), (40, 60), (90, 30)]
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    seen = []
    hook = predictor.model.backbone.register_forward_hook(
        lambda _, pixels, __: seen.append(len(pixels[0]))
    )
    results = predictor.predict(images, 0, batch_size=batch_size)
    hook.remove()
    assert max(seen) == min(batch_size, 4)  # 40 x 60 and 40 x 59, which are padded alike
    for image, batched in zip(images, results, strict=True):
        single = predictor.predict(image, 0)
        assert len(single) == len(batched) == 20
        np.testing.assert_array_equal(single.image, batched.image)
        np.testing.assert_array_equal(single.labels, batched.labels)
        np.testing.assert_allclose(single.boxes, batched.boxes, atol=1e-2)
        np.testing.assert_allclose(single.scores, batched.scores, atol=1e-4)
        assert batched.masks.shape[1:] == image.shape[:2]
    assert predictor.predict([]) == []


def test_a_stream_reads_little_ahead(predictor):
    """An image waits for at most 2 * batch_size others, and one more batch is prepared."""
    read = []

    def images():
        for seed in range(10):
            read.append(seed)
            yield noise(90, 30, seed) if seed == 1 else noise(40, 60, seed)

    for number, result in enumerate(predictor.stream(images(), batch_size=2)):
        assert result.image.shape == ((90, 30, 3) if number == 1 else (40, 60, 3))
        assert len(read) <= number + 1 + 3 * 2 + 2


def test_a_broken_file_in_a_list(predictor, tmp_path):
    (tmp_path / "empty.png").touch()
    images = [noise(40, 60), tmp_path / "empty.png", noise(40, 60)]
    with pytest.warns(UserWarning, match=r"empty\.png: is empty"):
        first, failed, last = predictor(images, 0)
    assert failed.path == tmp_path / "empty.png"
    assert repr(failed).startswith(f"Result(failed: {tmp_path / 'empty.png'}: is empty")
    assert (len(failed), failed.counts, failed.crop(), failed.masks.shape) == (0, {}, [], (0, 0, 0))
    assert first.error is None
    assert_same(first, last)
    for use in (failed.plot, lambda: predictor(tmp_path / "empty.png")):
        with pytest.raises(UserError, match=r"empty\.png: is empty"):
            use()


def test_the_score_threshold_cuts(predictor):
    everything = predictor.predict(noise(40, 60), 0)
    threshold = float(everything.scores[6])
    some = predictor.predict(noise(40, 60), threshold)
    assert len(some) == (everything.scores >= threshold).sum() < 20
    np.testing.assert_array_equal(some.boxes, everything.boxes[: len(some)])
    assert some.rles == everything.rles[: len(some)]


def test_a_batch_of_no_images(predictor):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predictor.predict(noise(40, 60), batch_size=0)


def test_thresholds_of_classes(predictor):
    everything = predictor.predict(noise(40, 60), 0)
    cats, dogs = everything.of("cat"), everything.of("dog")
    assert len(dogs) > 4
    assert len(cats) > 0
    threshold = float(dogs.scores[3])
    some = predictor.predict(noise(40, 60), 0, {"dog": threshold})
    assert len(some.of("dog")) == (dogs.scores >= threshold).sum()
    assert len(some.of("cat")) == len(cats)
    assert (np.diff(some.scores) <= 0).all()
    with pytest.raises(UserError, match=r"cta=0\.5: .* no class 'cta'; use one .*, such as cat"):
        predictor.predict(noise(40, 60), 0, {"cta": 0.5})


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_its_mode(training):
    predictor = Predictor(tiny.model().train(training), tiny.CONFIG)
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    predictor.predict(noise(40, 60))
    assert predictor.model.training == training
    for name, tensor in predictor.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("value", [[7], 7, None, {"image": "a.jpg"}])
def test_a_value_that_is_not_an_image(predictor, value):
    with pytest.raises(TypeError, match="must be a path, a PIL image, an array or a tensor, or"):
        predictor.predict(value)


def test_folders_and_patterns(predictor, tmp_path):
    for number, name in enumerate(["b.png", "a.jpg", "deeper/c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(40, 60, number)).save(tmp_path / name)
    with pytest.warns(UserWarning, match="left out 1 subfolders"):
        results = predictor.predict(tmp_path, 0)
    assert [result.path.name for result in results] == ["a.jpg", "b.png"]
    assert_same(results[1], predictor.predict(tmp_path / "b.png", 0))
    deep = predictor.stream(f"{tmp_path}/**/*.png", 0)
    assert [result.path.name for result in deep] == ["b.png", "c.png"]
    (tmp_path / "[1].png").write_bytes((tmp_path / "b.png").read_bytes())
    assert_same(results[1], predictor.predict(tmp_path / "[1].png", 0))  # not a pattern
    (only,) = predictor.stream(tmp_path / "b.png", 0)
    assert_same(results[1], only)
    (tmp_path / "empty").mkdir()
    for place, reason in {
        tmp_path / "empty": "has no images",
        "": "not a plain file",
        f"{tmp_path}/*.gif": "matches no images",
        tmp_path / "c.mp4": "does not exist",
        "https://host/a.jpg": r"pass urllib\.request\.urlopen\('https://host/a\.jpg'\)\.read\(\)",
    }.items():
        with pytest.raises(UserError, match=reason):
            predictor.predict(place)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("conf", "write score_threshold="),
        ("score_treshold", "did you mean score_threshold?"),
        ("device", 'write mrcnn.load(path, device="cuda")'),
        ("xyz", "known are batch_size, class_thresholds"),
    ],
)
def test_unknown_options(predictor, name, fix):
    for method in (predictor.predict, predictor.stream):
        with pytest.raises(TypeError, match=f"predict: has no option '{name}'; {re.escape(fix)}"):
            method(noise(4, 4), **{name: 1})


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((50,), {}),
        ((None,), {}),
        ((-0.1,), {}),
        ((0.5, {"cat": 2}), {}),
        ((0.5, ["cat"]), {}),
        ((), {"batch_size": 0}),
    ],
)
def test_wrong_values_of_options(predictor, arguments, options):
    with pytest.raises((ValueError, TypeError), match="predict: "):
        predictor.predict(noise(4, 4), *arguments, **options)


def test_names_that_the_package_does_not_have():
    with pytest.raises(AttributeError, match=r"write from mrcnn\.training import train"):
        mrcnn.__getattr__("train")
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        mrcnn.__getattr__("nothing")


def test_unknown_options_of_loading(weights):
    with pytest.raises(UserError, match="no option 'conf'; write score_threshold="):
        mrcnn.load(weights, conf=0.3)
    with pytest.raises(UserError, match=r"'iou'; write mrcnn\.load\(path, nms_threshold="):
        mrcnn.load(weights, iou=0.3)


def test_what_a_model_is(predictor):
    assert repr(predictor) == "Predictor(resnet18, 2 classes (cat, dog), cpu)"
    assert predictor.class_names == ("cat", "dog")
    for name, fix in {
        "names": "write model.class_names",
        "predct": "did you mean predict?",
    }.items():
        with pytest.raises(AttributeError, match=re.escape(fix)):
            getattr(predictor, name)


def test_advice_names_what_exists(predictor):
    """A name of another library is not one of ours, and each line that is stated runs."""
    result = predictor.predict(noise(40, 60), 0)[:1]
    assert not set(RESULT) & set(dir(result))
    assert not set(MODEL) & set(dir(predictor))
    for line in set(RESULT.values()):
        if not any(word in line for word in ("show", "pandas", "csv")):
            for part in line.split(" and ") if "instances" in line else [line.split(" or ")[0]]:
                exec(part, {"result": result})
    keywords = {line for line in OPTIONS.values() if line.endswith("=...")}
    assert keywords == {f"{name}=..." for name in ("score_threshold", "batch_size", "tiles")}


@pytest.mark.parametrize("options", [{}, {"tta": True}, {"tiles": 7_000}])
def test_an_image_too_large_for_the_network_is_refused(weights, tmp_path, options):
    """The next image is processed; nothing of the size of the input is allocated."""
    model = mrcnn.load(weights)
    model.config = dataclasses.replace(model.config, scale=2.0)
    large = np.broadcast_to(np.uint8(9), (7_000, 7_000, 3))
    Image.fromarray(np.zeros((3_000, 3_000), bool)).save(tmp_path / "a.png")
    images = [large, tmp_path / "a.png", noise(40, 60)]
    first, second, last = model.try_stream(images, **options)
    side = 17504 if "tta" in options else 14016  # the largest view
    assert str(first.error) == (
        f"image 1: of 7000 x 7000 pixels fills {side} x {side} in the network, the limit is "
        f"{MAX_NETWORK_PIXELS:,} pixels; predict with --tiles 1024, or use a model with a smaller "
        "scale or image size"
    )
    assert str(second.error).startswith(f"{tmp_path / 'a.png'}: of 3000 x 3000 pixels")
    assert last.image.shape == (40, 60, 3)
    with pytest.raises(UserError, match="image 1: of 7000 x 7000"):
        model.predict(large, **options)
    assert model.predict(np.broadcast_to(np.uint8(9), (300, 70, 3)), tiles=64).image.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
def test_extreme_sizes(predictor, size):
    result = predictor.predict(np.zeros((*size, 3), np.uint8), 0)
    assert result.image.shape == (*size, 3)
    assert (result.boxes >= 0).all()
    assert (result.boxes[:, 2:] <= size[::-1]).all()


def test_padding_counts_for_the_limit(weights):
    model = mrcnn.load(weights)
    model.config = dataclasses.replace(model.config, scale=1.0)
    thin = np.broadcast_to(np.uint8(0), (1, MAX_NETWORK_PIXELS // 32 + 32, 3))
    with pytest.raises(UserError, match=r"of 781282 x 1 pixels fills 781312 x 32 in the network"):
        model.predict(thin)


def test_loading_with_changes(weights):
    changed = mrcnn.load(weights, score_threshold=0.25, max_detections=3)
    expected = dataclasses.replace(tiny.CONFIG, score_threshold=0.25, max_detections=3)
    assert changed.config == expected
    assert changed.device == torch.device("cpu")
    assert len(changed.predict(noise(40, 60), 0)) <= 3
    assert not changed.model.training


@pytest.mark.parametrize(("amp", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_amp_computes_in_bfloat16(weights, amp, dtype):
    predictor = mrcnn.load(weights, amp=amp)
    seen = []
    predictor.model.backbone.register_forward_hook(
        lambda _, __, maps: seen.extend(m.dtype for m in maps.values())
    )
    result = predictor.predict(noise(40, 60), 0)
    assert set(seen) == {dtype}
    assert len(result) == 20
    assert result.boxes.dtype == result.scores.dtype == np.float32


def test_category_ids_of_a_model_without_any():
    predictor = Predictor(tiny.model(), dataclasses.replace(tiny.CONFIG, category_ids=()))
    entries = predictor.predict(noise(40, 60), 0).to_coco(1)
    assert {entry["category_id"] for entry in entries} <= {1, 2}


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", ""])
def test_no_such_device(name):
    with pytest.raises(UserError, match=f"--device {name}:? .*; use cpu"):
        find_device(name)
