"""Frames of NVIDIA's own memory: the pixels they have, what is held meanwhile, and what is left afterwards."""

import ctypes
import gc
import threading

import numpy as np
import pytest

from edgeinfer.devices import _driver, cpu
from edgeinfer.devices._driver import call
from edgeinfer.devices.images import picture
from edgeinfer.errors import InputError, SourceError
from edgeinfer.sources import nvbufsurface, nvmm
from edgeinfer.spec import Preprocess, Size
from edgeinfer.streams.vitals import Vitals
from gpu import standin, surfaces
from gpu.hostengine import fetch
from helpers.rounding import assert_same
from kernels.specs import picture_spec

SPEC = picture_spec(Preprocess(Size(32, 48)))
SIZE, PITCH = Size(40, 62), 256


class Buffers:
    """GStreamer, as far as it is asked: a buffer's address is its surface's."""

    def __init__(self):
        self.mapped, self.taken, self.calls = 0, 0, {}

    def gst_buffer_map(self, buffer, info, flags):
        assert flags == 1
        info._obj.data = buffer
        self.mapped += 1
        self.taken += 1
        return 1

    def gst_buffer_unmap(self, buffer, info):
        assert info._obj.data == buffer
        self.mapped -= 1
        driver = standin.controls()
        self.calls = driver.calls() if driver else {}


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    try:
        return surfaces.build(tmp_path_factory.mktemp("nvbufsurface"))
    except FileNotFoundError:
        pytest.skip("g++ is not installed")


@pytest.fixture
def made(library, monkeypatch):
    found = surfaces.Surfaces(library)
    monkeypatch.setattr(nvbufsurface, "_surfaces", lambda: _as_loaded(found.library))
    yield found
    found.close()


def _as_loaded(library):
    for function in (library.NvBufSurfaceMapEglImage, library.NvBufSurfaceUnMapEglImage):
        function.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


@pytest.fixture(autouse=True)
def buffers(monkeypatch):
    found = Buffers()
    monkeypatch.setattr(nvbufsurface, "_gstreamer", lambda: found)
    yield found
    gc.collect()  # what failed holds what it had, and so on in a circle
    assert found.mapped == 0


@pytest.fixture
def given(made, driver):
    """A function of pixels: a surface of a Jetson's with them."""

    def giver(pixels, **facts):
        surface = made.make(pixels.shape[1], len(pixels) * 2 // 3, PITCH, **facts)
        made.fill(surface, pixels.tobytes())
        return surface

    return giver


def noise(size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size.height * 3 // 2, size.width), np.uint8)


def read(surface, pool=None, size=SIZE):
    return nvmm.read(surface, size, pool, "gst:pipeline")


def tensor(lane, image):
    (found,) = lane.device.preprocess([image], "nv12")[0].values()
    return fetch(found, lane.device)


def expected(pixels):
    (found,) = cpu.Device(SPEC).preprocess([pixels], "nv12")[0].values()
    return found


@pytest.mark.parametrize("newer", [False, True])
def test_the_fields_lie_where_a_c_compiler_puts_them_in_older_and_newer_releases(made, newer):
    kinds = {"Surface": nvbufsurface.Surface, "Params": nvbufsurface.SurfaceParams}
    kinds |= {"Planes": nvbufsurface.PlaneParams, "Mapped": nvbufsurface.MappedAddr}
    ours = {
        f"{name}.{field[0]}": getattr(kind, field[0]).offset for name, kind in kinds.items() for field in kind._fields_
    }

    assert ours == made.offsets(newer=newer)


@pytest.mark.parametrize("arrays", [False, True])
def test_a_jetsons_frame_is_what_the_same_pixels_in_main_memory_are(given, make, arrays):
    pixels = noise()
    image = read(given(pixels, arrays=arrays))

    assert_same(tensor(make(SPEC), image), expected(pixels), SPEC.preprocess)
    assert (np.asarray(image) == pixels).all()


def test_a_desktops_frame_is_what_the_same_pixels_in_main_memory_are(made, make):
    pixels, lane = noise(), make(SPEC)
    device, rows = lane.device, SIZE.height + 3  # so many rows lie before the second plane
    padded = np.full((rows + SIZE.height // 2, PITCH), 0xEE, np.uint8)
    padded[: SIZE.height, : SIZE.width] = pixels[: SIZE.height]
    padded[rows:, : SIZE.width] = pixels[SIZE.height :]
    with device.context:
        side, pointer = device.pinned(padded.shape), device.memory.on_device(padded.nbytes)
        side[...] = padded
        call("cuMemcpyHtoDAsync", pointer, side.ctypes.data, padded.nbytes, device.handle)
        device.wait()
    image = read(made.make(SIZE.width, SIZE.height, PITCH, kind=surfaces.CUDA, data=pointer))

    assert_same(tensor(lane, image), expected(pixels), SPEC.preprocess)
    assert (np.asarray(image) == pixels).all()


def test_what_was_made_of_a_frame_to_read_it_is_gone_once_it_is_read(given, made, driver, buffers):
    before, kept, calls = made.images(), driver.live(), driver.calls()
    image = read(given(noise()))
    kinds = {kind: number - kept.get(kind, 0) for kind, number in driver.live().items()}

    assert made.images() == (before[0] + 1, before[1] + 1)
    assert (buffers.taken, buffers.mapped) == (1, 0)
    given_back = "cuGraphicsUnregisterResource"  # before the buffer is
    assert buffers.calls[given_back] == calls.get(given_back, 0) + 1
    assert {kind: number for kind, number in kinds.items() if number} == {"retained": 1, "stream": 1, "device": 1}
    assert (np.asarray(image) == noise()).all()


def test_an_image_that_an_element_keeps_of_its_surface_is_used_and_left(given, made):
    surface = given(noise())
    made.library.NvBufSurfaceMapEglImage(surface, 0)
    before = made.images()

    assert (np.asarray(read(surface)) == noise()).all()
    assert made.images() == before
    made.library.NvBufSurfaceUnMapEglImage(surface, 0)


@pytest.mark.parametrize(
    "name",
    [
        "cuGraphicsEGLRegisterImage",
        "cuGraphicsResourceGetMappedEglFrame",
        "cuMemAlloc",
        "cuMemcpy2DAsync",
        "cuStreamCreate",
        "cuDevicePrimaryCtxRetain",
    ],
)
def test_a_call_that_fails_is_one_error_that_names_another_pipeline_and_leaves_nothing(given, made, driver, name):
    surface, before = given(noise()), driver.live()
    driver.fail(name)
    with pytest.raises(
        SourceError, match=f"gst:pipeline: its frames do not come to the GPU: .*{name} failed"
    ) as failed:
        read(surface)
    assert "nvvidconv ! video/x-raw,format=NV12 ! appsink" in failed.value.hint
    del failed
    gc.collect()

    assert driver.live() == before
    assert len(set(made.images())) == 1
    assert (np.asarray(read(surface)) == noise()).all()


def test_where_no_egl_image_can_be_made_the_error_says_what_may_be_missing(given, made):
    made.refuse(1)
    with pytest.raises(SourceError, match="libnvbufsurface made no EGLImage") as failed:
        read(given(noise()))
    assert failed.value.hint.startswith("unset DISPLAY")
    assert "nvvidconv" in failed.value.hint


def test_without_nvidias_library_the_error_names_another_pipeline(given, monkeypatch):
    monkeypatch.setattr(nvbufsurface, "_surfaces", lambda: ctypes.CDLL("libnvbufsurface-none.so"))
    with pytest.raises(SourceError, match="libnvbufsurface-none") as failed:
        read(given(noise()))
    assert failed.value.hint.startswith("end the pipeline with ! nvvidconv")


def test_a_hundred_frames_take_the_memory_of_those_that_are_kept(given, driver):
    surface, before = given(noise()), driver.live().get("device", 0)
    pool, images = None, []
    for _ in range(100):
        images = [*images[-2:], read(surface, pool)]
        pool = images[-1].pool

    assert driver.live()["device"] - before == 4
    assert driver.live()["retained"] >= 1
    kept = np.asarray(images[0])
    assert (kept == noise()).all()


def test_a_frame_keeps_its_pixels_while_later_ones_come_and_when_the_pipeline_is_gone(given, driver):
    before = driver.live()
    first = read(given(noise(seed=1)))
    for seed in (2, 3):
        read(given(noise(seed=seed)), first.pool)

    assert (np.asarray(first) == noise(seed=1)).all()
    del first
    gc.collect()
    assert driver.live() == before


def test_a_frame_of_another_size_has_memory_of_its_own(given, driver):
    before, small = driver.live(), Size(20, 30)
    large = read(given(noise()))
    other = read(given(noise(small)), large.pool, small)

    assert (np.asarray(other) == noise(small)).all()
    assert other.pool is not large.pool
    del large, other
    gc.collect()
    assert driver.live() == before


def test_a_picture_that_ends_before_its_planes_do_is_read_alone(given):
    assert (np.asarray(read(given(noise()), size=Size(38, 60))[:38]) == noise()[:38, :60]).all()


def changed(surface, **facts):
    one = nvbufsurface.Surface.from_address(surface)
    for name, value in facts.items():
        setattr(one if hasattr(nvbufsurface.Surface, name) else one.surfaceList[0].planeParams, name, value)
    return surface


@pytest.mark.parametrize(
    ("facts", "size", "told"),
    [
        ({"num_planes": 1}, SIZE, r"planes \[\(40, 62\)\], not one NV12 picture"),
        ({"num_planes": 3}, SIZE, "not one NV12 picture"),
        ({"numFilled": 4}, SIZE, "has 4 pictures"),
        ({}, Size(42, 62), "not one NV12 picture"),
        ({}, Size(40, 64), "not one NV12 picture"),
        ({}, Size(39, 62), "not one NV12 picture"),
        ({"memType": surfaces.SYSTEM}, SIZE, "memory of type 6"),
        ({"gpuId": 3}, SIZE, "gives no GPU"),
    ],
)
def test_what_is_no_nv12_picture_in_the_gpus_reach_is_one_clear_error(given, driver, facts, size, told):
    surface, before = changed(given(noise()), **facts), driver.live()
    with pytest.raises(SourceError, match=told) as failed:
        read(surface, size=size)
    assert "nvvidconv ! video/x-raw,format=NV12 ! appsink" in failed.value.hint
    del failed
    gc.collect()
    assert driver.live() == before


@pytest.mark.parametrize(
    "key",
    [
        np.s_[::8, ::8],
        np.s_[:40:8, ::8],
        np.s_[5:9],
        np.s_[3],
        np.s_[..., :3],
        np.s_[::-2, 1],
        np.s_[70:80],
        np.s_[2, 5],
    ],
)
def test_a_part_of_a_frame_is_the_part_of_its_pixels(given, key):
    assert np.array_equal(read(given(noise()))[key], noise()[key])


def test_frames_are_looked_at_as_others_are(given):
    vitals, black = Vitals(), np.full_like(noise(), 128)
    black[: SIZE.height] = 16
    other = noise()
    other[-1, -1] ^= 1
    saw = [vitals.saw(read(given(pixels)), at, "nv12") for at, pixels in enumerate([noise(), noise(), other, black])]

    assert saw == ["", "repeated", "", "black"]


def test_a_frame_that_cannot_be_fetched_is_an_error_of_its_source(given, driver):
    image = read(given(noise()))
    driver.fail("cuMemcpy2DAsync")
    with pytest.raises(SourceError, match="cannot be fetched from the GPU"):
        np.asarray(image)


def test_who_reads_main_memory_refuses_a_frame_and_names_another_pipeline(given):
    with pytest.raises(InputError, match=r"must be .* uint8, got GpuImage") as failed:
        picture(read(given(noise())), "nv12")
    assert failed.value.hint.startswith("end the pipeline with ! nvvidconv ! video/x-raw,format=NV12 ! appsink")


def test_no_frame_is_read_while_another_thread_captures_a_graph(given, make):
    device, surface = make(SPEC).device, given(noise())
    found = [read(surface)]
    reader = threading.Thread(target=lambda: found.append(read(surface, found[0].pool)))
    mode = _driver.library().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    with device.context.alone():
        call("cuStreamBeginCapture", device.handle, mode)
        reader.start()
        reader.join(0.3)
        graph = call("cuStreamEndCapture", device.handle)
        call("cuGraphDestroy", graph)
    reader.join()

    assert (np.asarray(found[1]) == noise()).all()
