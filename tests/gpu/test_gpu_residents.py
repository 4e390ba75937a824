"""Frames that already live where the GPU reaches them: no upload, the producer waited for, the same result."""

import ctypes
import weakref

import numpy as np
import pytest

from edgeinfer.devices import cpu
from edgeinfer.devices._driver import call, library
from edgeinfer.errors import InputError
from edgeinfer.spec import Preprocess, Size
from gpu import models
from gpu.hostengine import fetch
from helpers.rounding import assert_same
from kernels.specs import picture_spec

SPEC = picture_spec(Preprocess(Size(32, 48)))


class Producer:
    """A library of its own: memory on the GPU, filled on a stream of its own."""

    def __init__(self, device):
        self.device, self.held = device, []
        with device.context:
            self.stream = call("cuStreamCreate", 1)

    def give(self, image, slack=0, **facts):
        """A copy of the image on the GPU, its rows `slack` bytes further apart; not there before the stream is."""
        rows = image.reshape(len(image), -1)
        wide = np.zeros((len(rows), rows.shape[1] + slack), np.uint8)
        wide[:, : rows.shape[1]] = rows
        memory = self.device.memory
        with self.device.context:
            side, pointer = self.device.pinned(wide.shape), memory.on_device(wide.nbytes)
            side[...] = wide
            call("cuMemcpyHtoDAsync", pointer, side.ctypes.data, wide.nbytes, self.stream)
        strides = (wide.strides[0], *image.strides[1:])
        given = {
            "shape": image.shape,
            "typestr": "|u1",
            "data": (pointer, False),
            "strides": strides,
            "stream": int(self.stream),
            "version": 3,
        }
        return Frame({**given, **facts})

    def close(self):
        with self.device.context:
            call("cuStreamDestroy", self.stream)


class Frame:
    def __init__(self, facts):
        self.__cuda_array_interface__ = facts


@pytest.fixture
def lane(make):
    return make(SPEC)


@pytest.fixture
def producer(lane):
    made = Producer(lane.device)
    yield made
    made.close()


def tensor(lane, images, pixels="bgr"):
    (found,) = lane.device.preprocess(images, pixels)[0].values()
    return fetch(found, lane.device)


def expected(images, pixels="bgr"):
    (found,) = cpu.Device(SPEC).preprocess(images, pixels)[0].values()
    return found


@pytest.mark.parametrize("slack", [0, 13])
@pytest.mark.parametrize(
    ("pixels", "shape"), [("bgr", (41, 67, 3)), ("rgb", (41, 67, 4)), ("bgr", (41, 67)), ("nv12", (60, 66))]
)
def test_a_frame_on_the_gpu_is_read_where_it_lies(lane, producer, pixels, shape, slack):
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)

    assert_same(tensor(lane, [producer.give(image, slack)], pixels), expected([image], pixels), SPEC.preprocess)


def test_it_is_not_copied(lane, producer, driver):
    frame = producer.give(models.noise(1, 40, 50))
    lane.way.run([frame], "bgr")
    lane.way.run([frame], "bgr")
    before = driver.calls()["cuMemcpyHtoDAsync"]
    lane.way.run([frame], "bgr")

    assert driver.calls()["cuMemcpyHtoDAsync"] == before


def test_frames_of_every_size_share_a_graph(lane, producer, driver):
    for side in (20, 30, 40, 50):
        lane.way.run([producer.give(models.noise(side, side, side))], "bgr")

    assert driver.live()["ready graph"] == 1


def test_host_and_gpu_frames_go_in_one_batch(lane, producer):
    images = [models.noise(at, 30 + at, 40 - at) for at in range(4)]
    mixed = [images[0], producer.give(images[1]), images[2], producer.give(images[3])]
    for _ in range(3):
        assert_same(tensor(lane, mixed), expected(images), SPEC.preprocess)


def test_a_stream_that_is_not_told_is_the_default_one(lane, producer):
    image = models.noise(3, 30, 30)
    frame = producer.give(image)
    with lane.device.context:
        call("cuStreamSynchronize", producer.stream)
    facts = {name: fact for name, fact in frame.__cuda_array_interface__.items() if name != "stream"}
    for changed in (facts, {**facts, "stream": None}, {**facts, "stream": 1}, {**facts, "stream": lane.device.stream}):
        assert_same(tensor(lane, [Frame(changed)]), expected([image]), SPEC.preprocess)


@pytest.mark.parametrize("told", [{}, {"stream": None}, {"stream": 1}])
def test_work_on_the_default_stream_is_waited_for_where_no_other_is_told(lane, producer, told):
    """PyCUDA and Numba tell None of arrays that they are still writing there."""
    image = models.noise(3, 30, 30)
    own, producer.stream = producer.stream, library().CUstream(1)
    facts = producer.give(image).__cuda_array_interface__
    producer.stream = own
    del facts["stream"]

    assert_same(tensor(lane, [Frame({**facts, **told})]), expected([image]), SPEC.preprocess)


class Packed:
    """A producer that speaks DLPack."""

    def __init__(self, frame, device_type=2, bits=8, code=1, offset=0, strides=True):
        self.frame, self.kind, self.asked, self.freed = frame, device_type, [], 0
        facts = frame.__cuda_array_interface__
        self._shape = (ctypes.c_int64 * 3)(*facts["shape"])
        self._strides = (ctypes.c_int64 * 3)(*facts["strides"]) if strides else None
        start = facts["data"][0] - offset
        self.managed = Managed(start, device_type, 0, 3, code, bits, 1, self._shape, self._strides, offset)

    def __dlpack_device__(self):
        return (self.kind, 0)

    def __dlpack__(self, *, stream):
        self.asked.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.managed), b"dltensor", None)


class Managed(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


@pytest.mark.parametrize(("slack", "facts"), [(0, {}), (13, {}), (0, {"offset": 60}), (0, {"strides": False})])
def test_dlpack_is_read_as_it_lies_and_asked_for_our_stream(lane, producer, slack, facts):
    image = models.noise(3, 30, 30)
    packed = Packed(producer.give(image, slack), **facts)
    with lane.device.context:
        call("cuStreamSynchronize", producer.stream)  # as a producer does that was told our stream

    assert_same(tensor(lane, [packed]), expected([image]), SPEC.preprocess)
    assert packed.asked == [lane.device.stream]


@pytest.mark.parametrize(
    ("code", "bits", "name"), [(2, 16, "float16"), (2, 32, "float32"), (0, 8, "int8"), (4, 16, "V")]
)
def test_dlpack_of_what_is_no_bytes_is_refused_by_its_type(lane, producer, code, bits, name):
    packed = Packed(producer.give(models.noise(3, 30, 30)), code=code, bits=bits)
    with pytest.raises(InputError, match=rf"got \(30, 30, 3\) \W?{name}"):
        lane.device.preprocess([packed])


def test_dlpack_of_another_gpu_is_refused_and_not_asked_for_a_stream(lane, producer):
    packed = Packed(producer.give(models.noise(3, 30, 30)))
    packed.__dlpack_device__ = lambda: (2, 3)
    with pytest.raises(InputError, match="the frame lies on GPU 3, the model on GPU 0") as caught:
        lane.device.preprocess([packed])
    assert 'device="gpu:3"' in caught.value.hint
    assert packed.asked == []


def test_a_page_locked_frame_of_the_hosts_goes_up_without_a_detour(lane, driver):
    image = models.noise(3, 60, 70)
    pinned = lane.device.pinned((2, 60, 70, 3))
    pinned[1] = image
    for _ in range(3):
        assert_same(tensor(lane, [pinned[1]]), expected([image]), SPEC.preprocess)
        for columns in (np.s_[:, ::-1], np.s_[:, :35], np.s_[:, ::2]):
            assert_same(tensor(lane, [pinned[1][columns]]), expected([image[columns]]), SPEC.preprocess)


def test_a_frame_of_which_the_driver_tells_nothing_is_the_hosts(lane, driver):
    image = models.noise(3, 60, 70)
    driver.fail("cuPointerGetAttributes")

    assert_same(tensor(lane, [image]), expected([image]), SPEC.preprocess)


def test_memory_of_another_context_is_copied(lane, driver):
    image = models.noise(4, 30, 31)
    pointer = driver.foreign(image.nbytes)
    ctypes.memmove(pointer, image.ctypes.data, image.nbytes)
    frame = Frame({"shape": image.shape, "typestr": "|u1", "data": (pointer, False), "stream": None, "version": 3})
    for _ in range(3):
        assert_same(tensor(lane, [frame]), expected([image]), SPEC.preprocess)


def test_a_stream_of_another_context_is_no_hindrance(lane, driver):
    image = models.noise(4, 30, 31)
    pointer = driver.foreign(image.nbytes)
    ctypes.memmove(pointer, image.ctypes.data, image.nbytes)
    with lane.device.context:
        context = call("cuPointerGetAttribute", library().CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT, pointer)
    call("cuCtxPushCurrent", context)
    stream = call("cuStreamCreate", 0)
    call("cuCtxPopCurrent")
    facts = {"shape": image.shape, "typestr": "|u1", "data": (pointer, False), "version": 3}
    for told in (int(stream), 1):
        assert_same(tensor(lane, [Frame({**facts, "stream": told})]), expected([image]), SPEC.preprocess)
    with lane.device.context:
        call("cuStreamDestroy", stream)


def test_a_page_locked_frame_lives_until_the_gpu_has_it(lane):
    frames = lane.device.pinned((2, 20, 30, 3))
    first = frames[0]
    held = weakref.ref(first)
    lane.device.preprocess([first])
    del first
    assert held() is not None
    lane.device.preprocess([frames[1]])

    assert held() is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"typestr": "<f4", "shape": (10, 10, 3), "strides": None}, r"got \(10, 10, 3\) float32"),
        ({"strides": (90, 1, 30)}, "whole pixels side by side"),
        ({"strides": (2, 3, 1)}, "whole pixels side by side"),
        ({"shape": (0, 30, 3), "strides": None}, r"got \(0, 30, 3\) uint8"),
        ({"mask": object()}, "may not be masked"),
        ({"data": (1 << 20, False)}, "not in CUDA memory"),
    ],
)
def test_a_frame_that_cannot_be_read_is_refused_and_the_next_is_fine(lane, producer, facts, words):
    image = models.noise(3, 30, 30)
    for _ in range(2):
        with pytest.raises(InputError, match=words):
            lane.device.preprocess([producer.give(image, **facts)])
        assert_same(tensor(lane, [producer.give(image)]), expected([image]), SPEC.preprocess)


def test_a_producer_that_refuses_is_an_input_error(lane, producer):
    packed = Packed(producer.give(models.noise(3, 30, 30)))

    def refuse(*, stream):
        raise BufferError("requires gradient")

    packed.__dlpack__ = refuse
    with pytest.raises(InputError, match="does not hand it out: requires gradient"):
        lane.device.preprocess([packed])
    packed.__dlpack__ = lambda **_: object()
    with pytest.raises(InputError, match=r"does not hand it out: .*PyCapsule"):
        lane.device.preprocess([packed])
