"""Pictures to tensors on the CPU: against OpenCV, and against the published letterbox and resize-crop."""

import dataclasses
import platform
import threading
import tracemalloc
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinfer.devices import _planes
from edgeinfer.devices.cpu import Device
from edgeinfer.errors import InputError, SpecError
from edgeinfer.spec import INTERPOLATIONS, Batch, Size
from helpers import cases
from helpers.specs import classifier, detector

GOLDEN = Path(__file__).parent / "golden" / "cpu"
LETTERBOX, CROP = np.load(GOLDEN / "letterbox.npz"), np.load(GOLDEN / "resize_crop.npz")
SIDE = cases.SMOOTH_SIDE
SIZES = [(1080, 810), (40, 64), (64, 64), (63, 65), (1, 1), (1, 400), (400, 1), (2, 3), (17, 31)]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def cubic(*size, **facts):
    return classifier(*size, interpolation="cubic-antialias", **facts)


def tensor(spec, *images, pixels="bgr"):
    """What the engine would get for these pictures."""
    (found,) = Device(spec).preprocess(images, pixels)[0].values()
    return found


def boxed(image, spec):
    """The letterboxed picture (H, W, 3) uint8, from OpenCV's own calls."""
    size = spec.preprocess.size
    assert size.height == size.width
    place = spec.preprocess.place(Size(*image.shape[:2]))
    resized = (place.resized.width, place.resized.height)
    return cases.published_letterbox(image, size.height, resized, place.left, place.top)


def planar(picture):
    """(H, W, 3) uint8 BGR -> (1, 3, H, W) float32 RGB in 0-1, divided once."""
    return picture[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_letterbox_is_opencvs_to_the_bit(size):
    image = cases.smooth_picture(*size)

    np.testing.assert_array_equal(tensor(detector(), image), planar(boxed(image, detector())))


@pytest.mark.parametrize("size", cases.SMOOTH_SOURCES, ids=str)
def test_the_letterbox_is_yolov5s(size):
    found = tensor(detector(Size(SIDE, SIDE)), cases.smooth_picture(*size))
    expected = planar(LETTERBOX["picture_{}_{}".format(*size)])

    # one of 255: OpenCV's vector code is not the same on every processor; for ARM it rounds a quarter of them otherwise
    np.testing.assert_allclose(found, expected, atol=1.01 / 255)
    assert np.mean(found != expected) < (0.02 if platform.machine() == "x86_64" else 0.4)


@pytest.mark.parametrize("alone", [True, False])
def test_a_grey_picture_is_one_of_three_equal_channels(monkeypatch, alone):
    monkeypatch.setattr(_planes, "LONE_CHANNEL", alone and _planes.LONE_CHANNEL)
    chance = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in chance.integers(20, 60, 2))
        grey = chance.integers(0, 256, (height, width), np.uint8)
        np.testing.assert_array_equal(tensor(detector(), grey), tensor(detector(), np.dstack([grey] * 3)))


@pytest.mark.parametrize("size", cases.SMOOTH_SOURCES, ids=str)
def test_resize_crop_with_antialias_is_pillows_within_one_of_255(size):
    found = tensor(classifier(), cases.smooth_picture(*size)[..., ::-1]) * 255
    expected = CROP["{}_{}".format(*size)][None].transpose(0, 3, 1, 2).astype(np.float32)

    # Pillow rounds between its two passes
    assert np.abs(found - expected).max() < 1.01
    assert np.abs(found - expected).mean() < 0.25


def test_resize_crop_of_a_photo_to_224_is_torchvisions_within_one_of_255():
    spec = classifier(Size(224, 224), resize=256)
    image = cases.smooth_picture(cases.PHOTO.height, cases.PHOTO.width)
    found = tensor(spec, image[..., ::-1])[0, :, ::5, ::5].transpose(1, 2, 0) * 255

    assert np.abs(found - CROP["photo"]).max() < 1.01


def test_resize_crop_without_antialias_is_opencvs_resize():
    spec = classifier(interpolation="linear")
    image = cases.smooth_picture(100, 75)
    small = cv2.resize(image, (56, 74))[13:61, 4:52]

    np.testing.assert_array_equal(tensor(spec, image), planar(small))


def test_stretch_is_opencvs_resize():
    spec = detector(fit="stretch")
    image = cases.smooth_picture(100, 75)

    np.testing.assert_array_equal(tensor(spec, image), planar(cv2.resize(image, (64, 64))))


def test_a_crop_of_a_line_computes_only_what_is_seen():
    image = np.full((1, 4000, 3), 7, np.uint8)
    for interpolation in INTERPOLATIONS:
        tracemalloc.start()
        found = tensor(classifier(interpolation=interpolation), image)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        np.testing.assert_allclose(found, 7 / 255, atol=1e-6)
        assert peak < 4_000_000  # the whole resized line would be 56 x 224,000 pixels


def test_mean_and_std_are_applied_per_channel_of_the_model():
    image = cases.smooth_picture(64, 64)
    mean, std = (np.array(IMAGENET[name]).reshape(3, 1, 1) for name in ("mean", "std"))

    found = tensor(detector(**IMAGENET), image)

    expected = (image[..., ::-1].transpose(2, 0, 1) / 255 - mean) / std
    np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-7)  # a float32 has seven digits


def test_a_bgr_model_gets_blue_first():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 255

    assert tensor(detector(color="bgr"), image)[0, :, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_other_input_types_hold_the_rounded_values(dtype):
    image = cases.smooth_picture(50, 64)
    scale = 1.0 if dtype == "uint8" else 255.0
    expected = (planar(boxed(image, detector())) * 255 / scale).astype(dtype)

    np.testing.assert_allclose(tensor(detector(dtype=dtype, scale=scale), image), expected, rtol=1e-3)


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 255), (2.0, 100), (2.02, 100), (1.98, 102)])
def test_uint8_inputs_are_rounded_and_end_at_255(scale, expected):
    image = np.full((64, 64, 3), 201, np.uint8)

    assert tensor(detector(dtype="uint8", scale=scale), image)[0, 0, 0, 0] == expected


def test_an_input_type_that_pictures_do_not_have_is_refused():
    with pytest.raises(SpecError, match="the model's input is int64, not one of uint8, float16, float32"):
        Device(detector(dtype="int64"))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(100, 75), (64, 64), (30, 64)], ids=str)
def test_a_graph_that_does_the_arithmetic_gets_the_bytes_in_place(size, channels, color):
    spec = detector(dtype="uint8", where="graph", color=color)
    image = cases.smooth_picture(*size)
    given = {1: image[..., 0], 3: image, 4: np.dstack([image, image[..., 0]])}[channels]
    expected = boxed(image[..., :1].repeat(3, 2) if channels == 1 else image, spec)

    np.testing.assert_array_equal(tensor(spec, given)[0], expected[..., :: 1 if color == "bgr" else -1])


@pytest.mark.parametrize("size", [(100, 75), (64, 64)], ids=str)
def test_grey_counts_as_three_equal_channels(size):
    grey = cases.smooth_picture(*size)[..., 0]
    expected = tensor(detector(), np.dstack([grey] * 3))

    np.testing.assert_array_equal(tensor(detector(), grey), expected)
    np.testing.assert_array_equal(tensor(detector(), grey[..., None]), expected)


@pytest.mark.parametrize("size", [(100, 75), (64, 64)], ids=str)
def test_the_alpha_channel_is_ignored(size):
    image = cases.smooth_picture(*size)
    alpha = np.dstack([image, image[..., 0]])

    np.testing.assert_array_equal(tensor(detector(), alpha), tensor(detector(), image))


def test_rgb_pictures_give_what_their_bgr_twins_give():
    image = cases.smooth_picture(100, 75)
    turned = np.ascontiguousarray(image[..., ::-1])
    alpha = np.dstack([turned, turned[..., 0]])

    np.testing.assert_array_equal(tensor(detector(), turned, pixels="rgb"), tensor(detector(), image))
    np.testing.assert_array_equal(tensor(detector(), alpha, pixels="rgb"), tensor(detector(), image))


@pytest.mark.parametrize("size", [(100, 76), (64, 64), (2, 2)], ids=str)
def test_nv12_pictures_are_converted_as_opencv_does(size):
    height, width = size
    image = cases.smooth_picture(height * 3 // 2, width)[..., 0]
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_YUV2BGR_NV12)

    np.testing.assert_array_equal(tensor(detector(), image, pixels="nv12"), tensor(detector(), bgr))


VIEWS = {
    "rows apart": lambda image: image[::2],
    "columns apart": lambda image: image[:, ::3],
    "a part": lambda image: image[10:50, 7:64],
    "upside down": lambda image: image[::-1],
    "mirrored": lambda image: image[:, ::-1],
    "channels turned": lambda image: image[..., ::-1],
    "transposed": lambda image: image.transpose(1, 0, 2),
    "read only": lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
    "column order": np.asfortranarray,
}


@pytest.mark.parametrize("make", [detector, classifier, cubic], ids=["letterbox", "antialias", "cubic"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_strided_view_gives_what_its_copy_gives(view, make):
    image = VIEWS[view](cases.smooth_picture(90, 96))

    np.testing.assert_array_equal(tensor(make(), image), tensor(make(), image.copy(order="C")))


@pytest.mark.parametrize(
    ("image", "pixels", "message"),
    [
        (np.zeros((480, 640), np.float32), "bgr", r"must be \(h, w, 3\) uint8, got \(480, 640\) float32"),
        (np.zeros((480, 640, 2), np.uint8), "bgr", r"got \(480, 640, 2\) uint8"),
        (np.zeros((480, 640, 1), np.uint8), "rgb", r"got \(480, 640, 1\) uint8"),
        (np.zeros((0, 640, 3), np.uint8), "bgr", r"got \(0, 640, 3\) uint8"),
        (np.zeros((4,), np.uint8), "bgr", r"got \(4,\) uint8"),
        (np.zeros((1, 4, 4, 3), np.uint8), "bgr", r"got \(1, 4, 4, 3\) uint8"),
        (np.zeros((100, 64), np.uint8), "nv12", r"\(h \* 3 / 2, w\) with h and w even uint8, got \(100, 64\) uint8"),
        (np.zeros((96, 63), np.uint8), "nv12", r"got \(96, 63\) uint8"),
        (np.zeros((96, 64, 3), np.uint8), "nv12", r"got \(96, 64, 3\) uint8"),
        (np.zeros((0, 64), np.uint8), "nv12", r"got \(0, 64\) uint8"),
        ("bus.jpg", "bgr", r"must be \(h, w, 3\) uint8, got str"),
        (None, "bgr", "got NoneType"),
        (np.zeros((4, 4, 3), np.uint8), "yuv", "pixels 'yuv' is not one of bgr, rgb, nv12"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_was_found(image, pixels, message):
    with pytest.raises(InputError, match=message):
        Device(detector()).preprocess([image], pixels)


@pytest.mark.parametrize("count", [0, 3])
def test_a_batch_that_does_not_fit_is_refused(count):
    with pytest.raises(InputError, match=f"a batch must be 1 to 2 images, got {count}"):
        Device(detector(batch=2)).preprocess([np.zeros((4, 4, 3), np.uint8)] * count)


def test_a_batch_holds_pictures_of_different_sizes_each_as_if_alone():
    images = [cases.smooth_picture(*size) for size in SIZES[:4]]

    together = tensor(detector(batch=Batch(1, 8)), *images)

    assert together.shape == (4, 3, 64, 64)
    for one, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(one, tensor(detector(), image)[0])


def test_a_fixed_batch_keeps_its_shape_when_fewer_pictures_come():
    assert tensor(detector(batch=4), cases.smooth_picture(9, 9)).shape == (4, 3, 64, 64)
    assert tensor(detector(batch=Batch(2, 4)), cases.smooth_picture(9, 9)).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("make", [detector, classifier, cubic], ids=["letterbox", "antialias", "cubic"])
def test_a_picture_of_another_size_leaves_nothing_behind(make):
    device, spec = Device(make()), make()
    for size in [*SIZES, *reversed(SIZES)]:
        image = cases.smooth_picture(*size)
        (found,) = device.preprocess([image])[0].values()

        np.testing.assert_array_equal(found, tensor(spec, image))


STEADY = {
    "letterbox": (detector(Size(640, 640)), "bgr"),
    "antialias": (classifier(Size(224, 224), resize=256), "bgr"),
    "cubic": (cubic(Size(224, 224), resize=256), "bgr"),
    "graph": (detector(Size(640, 640), dtype="uint8", where="graph"), "bgr"),
    "nv12": (detector(Size(640, 640)), "nv12"),
}


@pytest.mark.parametrize("name", STEADY)
def test_nothing_as_large_as_a_picture_is_allocated_after_the_first(name):
    spec, pixels = STEADY[name]
    image = np.zeros((1080, 810) if pixels == "nv12" else (1080, 810, 3), np.uint8)
    device = Device(spec)
    device.preprocess([image], pixels)
    tracemalloc.start()
    for _ in range(3):
        device.preprocess([image], pixels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 20_000


def addresses(value):
    """Where every array within an object's attributes lies."""
    if isinstance(value, np.ndarray):
        return [value.ctypes.data]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    if type(value).__module__.startswith("edgeinfer.devices"):
        parts = vars(value).values() if hasattr(value, "__dict__") else value
    return [address for part in parts for address in addresses(part)]


@pytest.mark.parametrize("name", STEADY)
def test_every_buffer_stays_where_it_is(name):
    spec, pixels = STEADY[name]
    image = np.zeros((1080, 810) if pixels == "nv12" else (1080, 810, 3), np.uint8)
    device = Device(spec)
    before = device.preprocess([image], pixels)[0], addresses(device)
    after = device.preprocess([image], pixels)[0], addresses(device)

    assert len(before[1]) > 3
    assert after == before
    assert after[0] is before[0]


def test_two_devices_in_two_threads_never_mix():
    shades, wrong = (10, 200), []

    def work(shade):
        device, image = Device(detector()), np.full((100, 64, 3), shade, np.uint8)
        expected = tensor(detector(), image).copy()
        for _ in range(200):
            found = device.preprocess([image])[0]["images"]
            wrong.extend([shade] * (not np.array_equal(found, expected)))

    threads = [threading.Thread(target=work, args=(shade,)) for shade in shades]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_closed_device_holds_no_memory_and_may_be_closed_again():
    device = Device(detector())
    device.preprocess([cases.smooth_picture(9, 9)])
    held = [
        weakref.ref(one) for one in (device._tensor, device._planes._split._memory, device._planes._resized._memory)
    ]
    device.close()
    assert [one() for one in held] == [None] * 3
    device.close()


def test_placements_say_where_each_picture_lies():
    spec = detector(batch=2)
    images = [cases.smooth_picture(100, 75), cases.smooth_picture(9, 9)]

    placements = Device(spec).preprocess(images)[1]

    assert placements == [spec.preprocess.place(Size(100, 75)), spec.preprocess.place(Size(9, 9))]


def test_time_runs_in_milliseconds():
    device = Device(detector())

    assert device.elapsed_ms(1.0, 1.5) == 500
    assert device.elapsed_ms(device.mark(), device.mark()) >= 0


def test_the_split_of_the_preprocess_is_what_device_and_graph_do():
    image = cases.smooth_picture(100, 75)
    spec = detector(**IMAGENET)
    graph = dataclasses.replace(spec.preprocess, where="graph")
    geometry, arithmetic = graph.split()
    first = tensor(detector(dtype="uint8", where="graph"), image)
    mean, std = np.array(arithmetic.mean), np.array(arithmetic.std)

    second = ((first / arithmetic.scale - mean) / std).transpose(0, 3, 1, 2)

    assert geometry.place(Size(100, 75)) == spec.preprocess.place(Size(100, 75))
    np.testing.assert_allclose(tensor(spec, image), second, rtol=1e-5, atol=1e-6)  # float32 has seven digits
