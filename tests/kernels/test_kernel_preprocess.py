"""The preprocess kernel against the CPU device, picture by picture."""

import numpy as np
import pytest

from edgeinfer.devices import cpu, launch
from edgeinfer.errors import InputError
from edgeinfer.spec import INTERPOLATIONS, Preprocess, Size
from helpers.rounding import EXACT, assert_same
from kernels import on_cpu
from kernels.specs import picture_spec

FORMATS = ("bgr", "rgb", "bgra", "rgba", "grey")
CHANNELS = {"bgr": 3, "rgb": 3, "bgra": 4, "rgba": 4, "grey": 1}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WIDE, CUBIC = {"interpolation": "linear-antialias"}, {"interpolation": "cubic-antialias"}


def random_image(rng, size, pixels="bgr", slack=0):
    """An image whose rows are `slack` bytes further apart than they need be."""
    channels = CHANNELS[pixels]
    block = rng.integers(0, 256, (size.height, size.width * channels + slack), np.uint8)
    shape = (size.height, size.width, channels) if channels > 1 else (size.height, size.width)
    strides = (block.strides[0], channels, 1) if channels > 1 else (block.strides[0], 1)
    return np.lib.stride_tricks.as_strided(block, shape, strides)


def random_size(rng):
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    return Size(height, width) if rng.random() > 0.2 else Size(height, 1)


def random_how(rng, **facts):
    fit = ("letterbox", "stretch", "resize-crop")[rng.integers(3)]
    size = Size(*(int(side) for side in rng.integers(1, 50, 2)))
    resize = max(size.height, size.width) + int(rng.integers(0, 9)) if fit == "resize-crop" else 0
    color = ("rgb", "bgr")[rng.integers(2)]
    return Preprocess(size, fit=fit, resize=resize, color=color, pad=int(rng.integers(256)), **facts)


def plain(how, size):
    """Whether OpenCV itself resizes this; the CPU device computes the visible part of the rest in floats."""
    resized = how.place(size).resized
    return resized.height * resized.width <= 16 * how.size.height * how.size.width


def on_both(kernels, how, images, pixels="bgr", dtype="float32", **how_to_run):
    """What the kernel and what the CPU device make of the images, by name of the format."""
    read = {"bgra": "bgr", "rgba": "rgb", "grey": "bgr"}.get(pixels, pixels)
    spec = picture_spec(how, dtype)
    tensors, _ = cpu.Device(spec).preprocess(images, read)
    return kernels.preprocess(spec, images, read, **how_to_run), tensors["images"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("pixels", FORMATS)
def test_linear_is_the_cpu_device_to_the_bit(kernels, pixels, dtype):
    rng = np.random.default_rng(1)
    for _ in range(150):
        facts = IMAGENET if rng.random() < 0.5 else {}
        how, size = random_how(rng, **facts), random_size(rng)
        image = random_image(rng, size, pixels, slack=int(rng.integers(0, 5)))
        found, expected = on_both(kernels, how, [image], pixels, dtype)

        if plain(how, size):
            assert_same(found, expected, how)


@pytest.mark.parametrize("pixels", FORMATS)
def test_uint8_for_a_model_that_preprocesses_itself(kernels, pixels):
    rng = np.random.default_rng(2)
    for _ in range(60):
        how, size = random_how(rng, where="graph", **IMAGENET), random_size(rng)
        found, expected = on_both(kernels, how, [random_image(rng, size, pixels)], pixels, "uint8")

        if plain(how, size):
            assert_same(found, expected, how)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_shrinking_by_a_whole_number_is_the_cpu_device_to_the_bit(kernels, ratio):
    image = random_image(np.random.default_rng(3), Size(40 * ratio, 56 * ratio))

    how = Preprocess(Size(40, 56), fit="stretch")

    assert_same(*on_both(kernels, how, [image]), how)


@pytest.mark.parametrize("size", [Size(1080, 1920), Size(720, 1280), Size(1080, 810), Size(333, 517)], ids=str)
def test_a_camera_picture_letterboxed_is_the_cpu_device_to_the_bit(kernels, size):
    image = random_image(np.random.default_rng(4), size)

    how = Preprocess(Size(640, 640))

    assert_same(*on_both(kernels, how, [image]), how)


@pytest.mark.parametrize("facts", [{}, WIDE, CUBIC], ids=INTERPOLATIONS)
def test_equal_sizes_copy(kernels, facts):
    image = random_image(np.random.default_rng(5), Size(31, 17), "rgb")
    found, _ = on_both(kernels, Preprocess(Size(31, 17), scale=1.0, **facts), [image], "rgb")

    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), image)


def test_nv12_is_the_cpu_device_to_the_bit(kernels):
    rng = np.random.default_rng(6)
    for _ in range(200):
        size = Size(*(2 * int(side) for side in rng.integers(1, 40, 2)))
        block = rng.integers(0, 256, (size.height * 3 // 2, size.width + int(rng.integers(0, 7))), np.uint8)
        how = random_how(rng)
        found, expected = on_both(kernels, how, [block[:, : size.width]], "nv12")

        if plain(how, size):
            assert_same(found, expected, how)


@pytest.mark.parametrize("facts", [{}, WIDE, CUBIC], ids=INTERPOLATIONS)
def test_a_batch_of_mixed_sizes_is_each_picture_alone(kernels, facts):
    rng = np.random.default_rng(7)
    how = Preprocess(Size(33, 41), **facts)
    images = [random_image(rng, random_size(rng)) for _ in range(9)]
    found, _ = on_both(kernels, how, images, seed=3)

    np.testing.assert_array_equal(found, np.concatenate([on_both(kernels, how, [one])[0] for one in images]))


def test_frame_records_start_with_no_candidates():
    frames = launch.frames([on_cpu.NOWHERE], [Preprocess(Size(8, 8)).place(Size(4, 4))])

    assert frames["candidates"].tolist() == frames["status"].tolist() == [0]


@pytest.mark.parametrize("facts", [WIDE, CUBIC], ids=INTERPOLATIONS[1:])
def test_antialias_is_the_cpu_device_but_for_rounding(kernels, facts):
    """Both add floats, in another order: a sum next to a half may round either way."""
    rng = np.random.default_rng(8)
    differences = []
    for _ in range(400):
        how = random_how(rng, scale=1.0, **facts)
        found, expected = on_both(kernels, how, [random_image(rng, random_size(rng))])
        differences.append(np.abs(found - expected).ravel())

    assert max(one.max() for one in differences) <= (1 if EXACT else 2)
    assert np.concatenate(differences).mean() < 0.01


@pytest.mark.parametrize("facts", [WIDE, CUBIC], ids=INTERPOLATIONS[1:])
@pytest.mark.parametrize("size", [Size(1080, 1920), Size(500, 375), Size(257, 256), Size(100, 90)], ids=str)
def test_antialias_of_photographs_is_the_cpu_device_but_for_rounding(kernels, size, facts):
    how = Preprocess(Size(224, 224), fit="resize-crop", resize=256, scale=1.0, **facts)
    found, expected = on_both(kernels, how, [random_image(np.random.default_rng(9), size)])

    assert np.abs(found - expected).max() <= (1 if EXACT else 2)
    assert np.abs(found - expected).mean() < 1e-3


def test_the_cubic_ends_at_black_and_white_before_it_goes_down(kernels):
    """What overshoots beside a column of an edge is cut off in each row, and not made up for by the rows below."""
    rng = np.random.default_rng(11)
    how = Preprocess(Size(40, 40), fit="stretch", scale=1.0, **CUBIC)
    for side in (10, 20, 31, 57, 90):
        image = np.kron(rng.integers(0, 2, (side, side, 1)), np.full(3, 255)).astype(np.uint8)
        found, expected = on_both(kernels, how, [image])

        assert {found.min(), found.max()} == {0, 255}
        assert np.abs(found - expected).max() <= (1 if EXACT else 2)


def test_a_crop_of_a_very_long_picture_is_the_cpu_device_within_one(kernels):
    """The CPU device computes the visible part in floats there, the kernel in OpenCV's integers."""
    how = Preprocess(Size(24, 24), fit="resize-crop", resize=32, scale=1.0)
    for size in (Size(3, 900), Size(900, 3), Size(1, 500)):
        found, expected = on_both(kernels, how, [random_image(np.random.default_rng(10), size)])

        assert np.abs(found - expected).max() <= 1


def test_a_picture_too_thin_to_place_exactly_is_refused():
    place = Preprocess(Size(224, 224), fit="resize-crop", resize=256).place(Size(1, 40000))

    with pytest.raises(InputError, match="beyond 4194304 pixels"):
        launch.frames([on_cpu.NOWHERE], [place])
