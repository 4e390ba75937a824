"""Opening and closing, threads, and what the steady state takes."""

import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.devices import gpu
from edgeinfer.devices._driver import Context, call
from edgeinfer.errors import DeviceError, EdgeInferError, InputError
from edgeinfer.lanes import Lane
from edgeinfer.pipeline import Pipeline
from edgeinfer.spec import Boxes, TopK
from gpu import hostengine, models, standin
from gpu.models import brightness, plain
from helpers import cases
from kernels.specs import boxes_spec, classes_spec

CLASSES = classes_spec(TopK(3), 6)


def test_a_device_says_what_it_is():
    device = gpu.Device(CLASSES)

    assert device.name
    assert device.stream > 0
    assert min(device.compute_capability) >= 0
    assert device.compute_capability >= (5, 0)
    assert re.fullmatch(r"\d+\.\d", device.driver_version)
    device.close()


def test_a_tensor_can_be_read_by_others(make):
    device = make(CLASSES).device
    tensor = device.empty((4, 3, 2), "float16")

    assert tensor.nbytes == 48
    assert tensor.rows(2).shape == (2, 3, 2)
    assert tensor.rows(2).__cuda_array_interface__ == {
        "shape": (2, 3, 2),
        "typestr": "<f2",
        "data": (tensor.pointer, False),
        "strides": None,
        "stream": device.stream,
        "version": 3,
    }


def test_a_thousand_devices_leave_nothing():
    spec = boxes_spec(Boxes("yolov5"), 200, 3)
    context = Context()  # held, so that the driver need not start it anew each time

    def taken_after(cycles):
        """Bytes of the GPU's and of the host's memory."""
        for _ in range(cycles):
            gpu.Device(spec).close()
        with context:
            free, total = call("cuMemGetInfo")
        return np.array([int(total) - int(free), 4096 * int(Path("/proc/self/statm").read_text().split()[1])])

    taken = [taken_after(cycles) for cycles in (10, 250, 250, 250, 250)]

    # others may use the GPU, the driver itself keep some pages; of any buffer of ours, of the smallest graph or
    # kernel so many are more, every time
    assert (np.diff(taken, axis=0).min(0) < (1 << 20, 8 << 20)).all()
    context.close()


def test_a_closed_device_says_so_and_may_be_closed_again():
    device = gpu.Device(CLASSES)
    device.close()
    device.close()

    with pytest.raises(DeviceError, match="the device is closed"):
        device.preprocess([plain(1)])


def test_devices_in_one_process_do_not_disturb_each_other(make):
    lanes = [make(CLASSES, brightness) for _ in range(3)]
    lanes[1].close()
    for level in range(6):
        for lane in (lanes[0], lanes[2]):
            assert lane.way.run([plain(level)], "bgr")[0][0].class_ids[0] == level


# of pictures that tell whose they are; as many as the aim says where a GPU works on them
CALLS = 10_000 if standin.controls() is None else 320


def test_sixteen_threads_never_get_each_others_results():
    devices = [gpu.Device(CLASSES) for _ in range(4)]
    lanes = [Lane(device, hostengine.HostEngine(brightness, CLASSES, device)) for device in devices]
    wrong = []
    with Pipeline(CLASSES, lanes) as model:

        def work(number):
            chance = np.random.default_rng(number)
            for _ in range(CALLS // 16):
                levels = chance.integers(0, 6, chance.integers(1, 4)).tolist()
                found = model.batch([plain(level, 20 + 4 * level) for level in levels])
                if [int(one.class_ids[0]) for one in found] != levels:
                    wrong.append(levels)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert model.graph == ""

    assert wrong == []


def test_a_lane_that_does_not_close_keeps_no_other_from_closing():
    devices = [gpu.Device(CLASSES) for _ in range(3)]
    lanes = [Lane(device, hostengine.HostEngine(brightness, CLASSES, device)) for device in devices]
    model = Pipeline(CLASSES, lanes)
    lanes[1].engine.failure = ValueError("a callback that failed")

    with pytest.raises(ValueError, match="a callback that failed"):
        model.close()
    for device in devices:
        with pytest.raises(DeviceError, match="the device is closed"):
            device.mark()


@pytest.fixture
def second():
    """The number of a GPU that is not the first."""
    found = standin.controls()
    if found:
        found.be_several(2)
    elif int(call("cuDeviceGetCount")) < 2:
        pytest.skip("needs two GPUs")
    return 1


def test_two_gpus_work_side_by_side_and_take_no_frame_of_each_other(second):
    with models.lane(CLASSES, brightness) as one, models.lane(CLASSES, brightness, second) as other:
        for level in range(6):
            for lane in (one, other):
                assert lane.way.run([plain(level)], "bgr")[0][0].class_ids[0] == level
        assert (one.way.graph, other.way.graph) == ("", "")
        frame = hostengine.send(plain(1), one.device)
        with pytest.raises(InputError, match="the frame lies on GPU 0, the model on GPU 1") as caught:
            other.way.run([frame], "bgr")
        assert 'device="gpu:0"' in caught.value.hint
        assert one.way.run([frame], "bgr")[0][0].class_ids[0] == 1


def test_a_context_is_left_as_it_was_found(make):
    lane = make(CLASSES, brightness)
    before = call("cuCtxGetCurrent")
    lane.way.run([plain(1)], "bgr")
    lane.device.mark()
    with pytest.raises(EdgeInferError):
        lane.way.run(["no picture"], "bgr")

    assert int(call("cuCtxGetCurrent")) == int(before)


def test_the_steady_state_takes_memory_of_neither_the_gpu_nor_the_host(make):
    spec = boxes_spec(Boxes("yolov5"), 200, 3)
    raw = cases.crowd(0, 200, 3, 40)[None]
    lane = make(spec, lambda _: {"output0": raw})
    frame = lane.device.pinned((360, 640, 3))
    frame[...] = models.noise(1, 360, 640)
    frames = [frame, frame.copy()]

    def free():
        with lane.device.context:
            return int(call("cuMemGetInfo")[0])

    def work(count):
        for _ in range(count):
            for image in frames:
                lane.way.run([image], "bgr")

    work(4)
    rounds = [free()]
    for _ in range(5):
        work(20)
        rounds.append(free())
    tracemalloc.start()
    try:
        work(1)  # what Python itself keeps
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work(20)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert np.diff(rounds).max() >= 0  # where others use the GPU too, what is left may be less, but not every time
    assert now - held < 20_000  # 40 frames; a single copy of one is 691,200
    assert peak - held < 100_000


def test_the_steady_state_allocates_nothing(driver, make, detector):
    spec, function = detector
    lane, images = make(spec, function), models.pictures(4)
    for image in images * 3:
        lane.way.run([image], "bgr")
    before = driver.live(), driver.calls()
    for image in images * 3:
        lane.way.run([image], "bgr")

    assert driver.live() == before[0]
    for name in ("cuMemAlloc", "cuMemHostAlloc", "cuEventCreate", "cuGraphInstantiate", "cuModuleLoadData"):
        assert driver.calls().get(name) == before[1].get(name)
