"""Opening and closing, threads, and failures of the driver: a clear error, nothing left behind."""

import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.devices import gpu, launch
from edgeinfer.devices._driver import Context, call
from edgeinfer.errors import BackendUnavailable, DeviceError, DeviceLost, EdgeInferError, InputError
from edgeinfer.lanes import Lane
from edgeinfer.pipeline import Pipeline
from edgeinfer.spec import Boxes, TopK
from gpu import hostengine, models, standin
from helpers import cases
from kernels.specs import boxes_spec, classes_spec

CLASSES = classes_spec(TopK(3), 6)
NO_MEMORY, LOST, NO_DEVICE = 2, 719, 100


def brightness(inputs):
    """Classes that tell the pictures of `plain()` apart."""
    mean = inputs["images"].mean((1, 2, 3))
    return {"logits": np.stack([-((mean * 255 - 40 * k) ** 2) for k in range(6)], 1).astype(np.float32)}


def plain(level, side=20):
    return np.full((side, side, 3), 40 * level, np.uint8)


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


# failures, which only the stand-in has to offer


def life(spec, function, images):
    """Open, run until a graph is replayed, close."""
    with models.lane(spec, function) as lane:
        for _ in range(3):
            results, _ = lane.way.run(images, "bgr")
    return results


@pytest.fixture
def small_room(monkeypatch):
    """Room for 64 candidates, so that more of them cost no time."""
    monkeypatch.setattr(launch.Detect.__init__, "__defaults__", (64,))


def crowded():
    """A detector with more candidates than fit, so that the second, roomy path is taken too."""
    spec = boxes_spec(Boxes("yolov5"), 100, 2)
    raw = np.zeros((1, 100, 7), np.float32)
    raw[..., :4], raw[..., 4:] = (4, 4, 2, 2), 1
    return spec, lambda _: {"output0": raw}


def used(driver):
    """How often each function is called in a life."""
    spec, function = crowded()
    life(spec, function, [plain(1)])
    before = driver.calls()
    life(spec, function, [plain(1)])
    counted = {name: number - before.get(name, 0) for name, number in driver.calls().items()}
    return {name: number for name, number in counted.items() if number}


# closing needs these: what they fail to free stays
FREEING = {
    "cuCtxPushCurrent",
    "cuMemFree",
    "cuMemFreeHost",
    "cuStreamDestroy",
    "cuEventDestroy",
    "cuModuleUnload",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuDevicePrimaryCtxRelease",
    "cuCtxPopCurrent",
}
MAY_FAIL = {
    "cuPointerGetAttributes",
    "cuStreamBeginCapture",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuEventRecordWithFlags",
    "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync",
    "cuLaunchKernel",
    "cuLaunchHostFunc",
    "cuGraphDestroy",
    "cuCtxPopCurrent",
}


def test_whichever_call_fails_is_named_and_nothing_is_left(driver, small_room):
    spec, function = crowded()
    wanted = models.rows(life(spec, function, [plain(1)])[0])
    calls = used(driver)
    assert len(calls) > 25
    for name, number in calls.items():
        for after in sorted({0, number // 2, number - 1}):
            driver.fail(name, after, NO_MEMORY)
            try:
                found = models.rows(life(spec, function, [plain(1)])[0])
            except EdgeInferError as error:
                assert f"{name} failed: CUDA_ERROR_OUT_OF_MEMORY (2)" in str(error)
                assert error.hint
            else:
                # a failure in a capture means only that there is no graph; some answers may fail
                assert found == wanted
                assert name in MAY_FAIL, name
            if name in FREEING:
                driver.forget()  # what could not be freed
            assert driver.live() == {}, (name, after)


def test_memory_that_is_not_there_names_the_bytes(driver):
    driver.fail("cuMemAlloc", 1, NO_MEMORY)
    with pytest.raises(
        DeviceError, match=r"bytes were asked for: cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY"
    ) as caught:
        gpu.Device(CLASSES)
    assert "smaller batch" in caught.value.hint


def test_where_memory_has_no_room_for_a_crowd_the_next_crowd_is_found_all_the_same(driver, make, small_room):
    spec = boxes_spec(Boxes("yolov5"), 300, 2)
    raw = np.zeros((1, 300, 7), np.float32)
    raw[..., :4] = (4, 4, 2, 2)
    lane = make(spec, lambda _: {"output0": raw})

    def crowd(candidates):
        raw[0, :candidates, 4:], raw[0, candidates:, 4:] = 1, 0
        return models.rows(lane.way.run([plain(1)], "bgr")[0][0])

    wanted = crowd(100)
    for call_of in ("cuMemAlloc", "cuMemHostAlloc"):
        crowd(100)
        before = driver.live()
        for _ in range(3):  # more than there is room for, and none to be had
            for after in (0, 1):
                driver.fail(call_of, after, NO_MEMORY)
                with pytest.raises(DeviceError, match="bytes were asked for"):
                    crowd(300)
        driver.fail(call_of, 1 << 30, NO_MEMORY)
        assert driver.live()["device"] < before["device"]  # what was too small is given back, nothing else is taken
        assert crowd(100) == wanted
        assert driver.live() == before


def test_a_batch_whose_staging_fails_leaves_nothing_reading_its_frames(driver, make):
    lane = make(CLASSES, brightness)
    frames = lane.device.pinned((2, 20, 20, 3))
    driver.fail("cuMemcpyHtoDAsync", 1, NO_MEMORY)
    before = driver.calls()["cuStreamSynchronize"]
    with pytest.raises(DeviceError, match="cuMemcpyHtoDAsync failed"):
        lane.way.run(list(frames), "bgr")

    assert driver.calls()["cuStreamSynchronize"] == before + 1


def test_tensors_that_grow_take_no_memory_but_the_largest(driver, make):
    device = make(CLASSES).device
    for rows in range(1, 10):
        device.fetch({"logits": device.empty((rows, 6), "float32")}, rows)
        if rows == 1:
            before = driver.live()["host"]

    assert driver.live()["host"] == before


@pytest.mark.parametrize("status", [200, 209, 222])
def test_a_driver_too_old_for_what_was_compiled_names_the_way_out(driver, make, status):
    driver.fail("cuModuleLoadData", 0, status)
    with pytest.raises(DeviceError, match=rf"cuModuleLoadData failed: CUDA_ERROR_\w+ \({status}\)") as caught:
        gpu.Device(CLASSES)
    assert caught.value.hint.startswith("update the driver, or take the NVRTC of its CUDA version: pip")
    assert make(CLASSES, brightness).way.run([plain(2)], "bgr")[0][0].class_ids[0] == 2


def test_a_failure_that_the_bindings_have_no_name_for_is_an_error_all_the_same(driver, make):
    lane = make(CLASSES, brightness)
    driver.fail("cuStreamSynchronize", 0, 1234)
    with pytest.raises(DeviceError, match="cuStreamSynchronize failed with what these cuda-bindings do not know: 1234"):
        lane.way.run([plain(1)], "bgr")
    assert lane.way.run([plain(2)], "bgr")[0][0].class_ids[0] == 2


@pytest.mark.parametrize(
    ("status", "name"), [(NO_DEVICE, "NO_DEVICE"), (803, "SYSTEM_DRIVER_MISMATCH"), (34, "STUB_LIBRARY")]
)
def test_a_driver_without_a_gpu_is_a_missing_backend(driver, status, name):
    driver.fail("cuInit", 0, status)
    with pytest.raises(BackendUnavailable, match=f"gives no GPU: cuInit failed: CUDA_ERROR_{name}") as caught:
        gpu.Device(CLASSES)
    assert caught.value.hint


def test_a_gpu_lost_in_a_run_is_fatal_and_says_so_every_time(driver):
    lane_context = models.lane(CLASSES, brightness)
    lane = lane_context.__enter__()
    for _ in range(3):
        lane.way.run([plain(1)], "bgr")
    driver.lose(LOST)
    for _ in range(3):
        with pytest.raises(DeviceLost, match=r"lost to this process: .* CUDA_ERROR_LAUNCH_FAILED \(719\)") as caught:
            lane.way.run([plain(1)], "bgr")
        assert caught.value.hint.startswith("restart the process")
    driver.lose(0)
    lane_context.__exit__(None, None, None)


def test_closing_on_a_lost_gpu_is_quiet(driver):
    device = gpu.Device(CLASSES)
    driver.lose(LOST)
    device.close()
    driver.lose(0)
    driver.forget()


def test_a_kernel_that_fails_at_the_first_wait_is_a_lost_gpu(driver, make):
    lane = make(CLASSES, brightness)
    driver.fail("cuStreamSynchronize", 0, 700)
    with pytest.raises(DeviceLost, match="cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        lane.way.run([plain(1)], "bgr")
    assert lane.way.run([plain(2)], "bgr")[0][0].class_ids[0] == 2


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
