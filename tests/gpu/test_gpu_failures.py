"""Failures of the driver, which only the stand-in has to offer: a clear error, nothing left behind."""

import numpy as np
import pytest

from edgeinfer.devices import gpu, launch
from edgeinfer.errors import BackendUnavailable, DeviceError, DeviceLost, EdgeInferError
from edgeinfer.spec import Boxes, TopK
from gpu import models
from gpu.models import brightness, plain
from kernels.specs import boxes_spec, classes_spec

CLASSES = classes_spec(TopK(3), 6)
NO_MEMORY, LOST, NO_DEVICE = 2, 719, 100


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
