"""Changes of colour, and the user's own transforms."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mrcnn.data.augment.colour import LUMA, colour_matrix, random_colours
from mrcnn.data.augment.user_transform import apply_transform, load_transform
from mrcnn.errors import UserError

IMAGE = np.random.default_rng(0).integers(60, 190, (30, 40, 3), dtype=np.uint8)
MEAN = IMAGE.reshape(-1, 3).mean(0)
GREY = np.full((4, 4, 3), 100, np.uint8)


def changed(**factors) -> np.ndarray:
    """IMAGE under one matrix, unrounded."""
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "turn": 0.0}
    matrix = colour_matrix(MEAN, **neutral | factors)
    return IMAGE @ matrix[:, :3].T + matrix[:, 3]


def test_neutral_factors_change_nothing():
    assert np.allclose(changed(), IMAGE, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_factors_equal_pillow(name, enhance, factor):
    expected = np.asarray(enhance(Image.fromarray(IMAGE)).enhance(factor), float)
    # Pillow rounds grey to a whole level, cuts fractions of the result, and rounds the mean.
    error = np.abs(changed(**{name: factor}).clip(0, 255) - expected).max()
    assert error <= 1 + abs(1 - factor)


def test_hue_turns_around_grey():
    third = colour_matrix(MEAN, 1, 1, 1, 1 / 3)
    assert np.allclose(np.linalg.matrix_power(third[:, :3], 3), np.eye(3))
    turned = changed(turn=0.1)
    assert np.allclose(turned @ LUMA, IMAGE @ LUMA)
    assert np.abs(turned - IMAGE).max() > 10
    assert (random_colours(GREY, np.random.default_rng(0), hue=0.5) == 100).all()


def test_colours_are_drawn_from_the_generator_within_their_ranges():
    drawn = [
        float(random_colours(GREY, np.random.default_rng(seed), brightness=0.4).mean())
        for seed in range(300)
    ]
    assert 60 <= min(drawn) < 65
    assert 135 < max(drawn) <= 140
    options = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    a, b, c = (random_colours(IMAGE, np.random.default_rng(seed), **options) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.dtype == np.uint8
    assert a.shape == IMAGE.shape


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "my_colours.py").write_text(
        "import numpy as np\n"
        "def invert(image, rng):\n    return 255 - image\n"
        "def in_place(image, rng):\n    image[:] = rng.integers(256)\n    return image\n"
        "def cut(image, rng):\n    return image[1:]\n"
        "def to_float(image, rng):\n    return image / 255\n"
        "def nothing(image, rng):\n    pass\n"
        "def broken(image, rng):\n    return image @ 'x'\n"
        "def alone(image):\n    return image\n"
        "number = 3\n"
    )
    (tmp_path / "my_broken.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_colours", "my_broken"):
        sys.modules.pop(name, None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


def test_a_transform_gets_the_pixels_and_may_write_into_them(module):
    rng = np.random.default_rng(0)
    assert np.array_equal(
        apply_transform(load_transform("my_colours:invert"), IMAGE, rng), 255 - IMAGE
    )
    before = IMAGE.copy()
    result = apply_transform(load_transform("my_colours:in_place"), IMAGE[3:9, 4:8], rng)
    assert len(np.unique(result)) == 1
    assert np.array_equal(IMAGE, before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_colours", "must be module:function"),
        (":invert", "must be module:function"),
        ("no_module:f", "there is no module 'no_module' in "),
        ("no.module:f", "there is no module 'no.module' in "),
        ("my_broken:f", r"ModuleNotFoundError: .* 'no_such_library' .*my_broken.py, line 1"),
        ("my_colours:invrt", "my_colours has no function invrt; it has invert"),
        ("my_colours:number", "my_colours has no function number; it has "),
        ("my_colours:alone", "must take an image and a random generator"),
    ],
)
def test_a_transform_that_cannot_be_loaded_is_explained(module, name, message):
    with pytest.raises(UserError, match=f"transform '{name}': .*{message}"):
        load_transform(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut", r"must return .* uint8 of shape \(30, .*, got uint8 of shape \(29, 40, 3\)"),
        ("to_float", r"got float64 of shape \(30, 40, 3\)"),
        ("nothing", "got NoneType"),
        ("broken", r"failed with .*my_colours.py, line 14\)"),
    ],
)
def test_a_wrong_transform_is_named(module, name, message):
    transform = load_transform(f"my_colours:{name}")
    with pytest.raises(UserError, match=f"transform 'my_colours:{name}'.*{message}"):
        apply_transform(transform, IMAGE, np.random.default_rng(0))
