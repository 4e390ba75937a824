"""Pictures through the whole GPU path give what the CPU gives; a replayed graph gives what eager work gives."""

import sys
import time

import numpy as np
import pytest

from edgeinfer.devices import cpu
from edgeinfer.devices._staging import Staging
from edgeinfer.errors import EngineError, InputError
from edgeinfer.spec import Batch, Boxes, Preprocess, Size, TensorSpec, TopK
from gpu import models
from gpu.hostengine import fetch
from gpu.models import expected, logits, through
from helpers import cases, specs
from helpers.rounding import assert_same
from kernels.specs import boxes_spec, classes_spec, picture_spec


def test_real_pictures_become_the_cpus_boxes_first_plainly_then_from_a_graph(make, detector):
    spec, function = detector
    lane = make(spec, function)
    found = 0
    for image in models.pictures(6):
        wanted = expected(spec, function, [image])
        found += len(wanted[0][0])
        for _ in range(3):
            assert through(lane, [image]) == wanted
    assert lane.way.graph == ""
    assert found > 10


def test_a_batch_of_mixed_sizes_is_each_picture_alone(make, detector):
    spec, function = detector
    lane, images = make(spec, function), [one[: 200 + 40 * at] for at, one in enumerate(models.pictures(4))]
    alone = [expected(spec, function, [image])[0] for image in images]

    for _ in range(3):
        assert through(lane, images) == alone
    assert through(lane, images[:2]) == alone[:2]


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize(
    ("pixels", "shape"),
    [("bgr", (41, 67, 3)), ("rgb", (41, 67, 3)), ("bgr", (41, 67, 4)), ("bgr", (41, 67)), ("nv12", (60, 66))],
)
def test_every_kind_of_picture_becomes_the_cpus_tensor(make, pixels, shape, dtype):
    spec = picture_spec(Preprocess(Size(32, 48)), dtype)
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    lane = make(spec)
    (tensor,) = lane.device.preprocess([image], pixels)[0].values()
    (wanted,) = cpu.Device(spec).preprocess([image], pixels)[0].values()

    assert_same(fetch(tensor, lane.device), wanted, spec.preprocess)


def test_a_model_that_preprocesses_itself_is_given_bytes(make):
    spec, image = picture_spec(Preprocess(Size(32, 48), where="graph"), "uint8"), models.noise(2, 50, 60)
    lane = make(spec)
    (tensor,) = lane.device.preprocess([image])[0].values()
    (wanted,) = cpu.Device(spec).preprocess([image])[0].values()

    assert_same(fetch(tensor, lane.device), wanted, spec.preprocess)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3], np.s_[3:9, 5:6]])
def test_a_view_of_a_picture_is_read_as_it_lies(make, view):
    spec, image = picture_spec(Preprocess(Size(32, 48))), models.noise(2, 50, 60)[view]
    lane = make(spec)
    (tensor,) = lane.device.preprocess([image])[0].values()
    (wanted,) = cpu.Device(spec).preprocess([image])[0].values()

    assert_same(fetch(tensor, lane.device), wanted, spec.preprocess)


def test_a_fixed_batch_is_filled_up_and_gives_the_pictures_results_only(make):
    spec = classes_spec(TopK(2), 5)
    spec = type(spec)(
        **{**vars(spec), "inputs": (TensorSpec("images", (4, 3, 8, 8)),), "outputs": (TensorSpec("logits", (4, 5)),)}
    )
    seen = []

    def function(inputs):
        seen.append(inputs["images"].shape)
        return {"logits": np.arange(20, dtype=np.float32).reshape(4, 5)}

    assert len(through(make(spec, function), [models.noise(1, 8, 8)])) == 1
    assert seen == [(4, 3, 8, 8)]


def test_classes_are_the_cpus(make):
    spec = classes_spec(TopK(3), 6)
    lane = make(spec, logits)
    for seed in range(3):
        images = [models.noise(seed, 20, 30), models.noise(seed + 9, 20, 30)]
        found = lane.way.run(images, "bgr")[0]
        wanted = models.on_the_cpu(spec, logits, images)

        assert [one.class_ids.tolist() for one in found] == [one.class_ids.tolist() for one in wanted]
        np.testing.assert_allclose([one.scores for one in found], [one.scores for one in wanted], rtol=1e-5)


def crowd(candidates, count=1):
    """A detector of 9,000 anchors whose output is always the same."""
    spec = boxes_spec(Boxes("yolov5", limit=1000), 9000, 4)
    raw = np.stack([cases.crowd(seed, 9000, 4, candidates[seed]) for seed in range(len(candidates))])
    return spec, lambda inputs: {"output0": raw[: len(inputs["images"])]}


def test_more_candidates_than_there_is_room_for_are_not_lost(make):
    spec, function = crowd([100, 5000, 6000])
    lane, images = make(spec, function), [models.noise(at, 8, 8) for at in range(3)]
    wanted = expected(spec, function, images)

    assert [through(lane, images) for _ in range(4)] == [wanted] * 4
    assert lane.way.graph == ""


def test_what_is_not_a_number_is_an_error_and_the_next_picture_is_fine(make):
    spec = boxes_spec(Boxes("yolov5"), 50, 4)
    raw = cases.crowd(0, 50, 4, 20)[None].copy()
    lane, image = make(spec, lambda _: {"output0": raw}), models.noise(1, 8, 8)
    wanted = through(lane, [image])
    for _ in range(3):
        raw[0, 7, 4:6] = (1, np.nan)
        with pytest.raises(EngineError, match="output0 holds NaN or infinity"):
            lane.way.run([image], "bgr")
        raw[0, 7, 4:6] = cases.crowd(0, 50, 4, 20)[7, 4:6]
        assert through(lane, [image]) == wanted


def test_a_model_that_suppresses_itself_is_read_as_the_cpu_reads_it(make):
    outputs = (
        TensorSpec("num", (Batch(1, 4), 1), "int32"),
        TensorSpec("boxes", (Batch(1, 4), 300, 4)),
        TensorSpec("scores", (Batch(1, 4), 300)),
        TensorSpec("classes", (Batch(1, 4), 300), "int32"),
    )
    spec = specs.detector(batch=Batch(1, 4), decode=Boxes("yolov5", where="graph"), outputs=outputs)
    chance = np.random.default_rng(4)
    found = {
        "num": np.array([[7], [0], [300], [2]], np.int32),
        "boxes": chance.uniform(0, 64, (4, 300, 4)).astype(np.float32),
        "scores": chance.random((4, 300)).astype(np.float32),
        "classes": chance.integers(0, 3, (4, 300)).astype(np.int32),
    }

    def function(inputs):
        return {name: array[: len(inputs["images"])] for name, array in found.items()}

    lane = make(spec, function)
    for count in (1, 4, 3, 4, 3):
        images = [models.noise(at, 30, 40) for at in range(count)]
        assert through(lane, images) == expected(spec, function, images)


def test_the_protocols_own_steps_give_what_a_frame_gives(make, detector):
    spec, function = detector
    lane, images = make(spec, function), models.pictures(2)
    device, engine = lane.device, lane.engine
    wanted = expected(spec, function, images)
    for _ in range(2):
        start = device.mark()
        tensors, placements = device.preprocess(images)
        outputs = engine.run(tensors)
        end = device.mark()

        assert [models.rows(one) for one in device.postprocess(outputs, placements)] == wanted
        assert [models.rows(one) for one in device.postprocess(outputs, placements)] == wanted
        assert device.elapsed_ms(start, end) > 0


def test_the_time_that_reading_takes_is_postprocessings(make, monkeypatch):
    lane = make(classes_spec(TopK(3), 6), logits)
    read = lane.device.readout.read
    monkeypatch.setattr(lane.device.readout, "read", lambda *given: time.sleep(0.05) or read(*given))
    _, timings = lane.way.run([models.noise(1, 30, 30)], "bgr")
    assert timings["postprocess"] >= 50


def test_a_call_that_a_signal_broke_off_at_any_line_while_pictures_grow_leaves_the_next_right(make):
    spec, line = classes_spec(TopK(3), 6), 0
    images = [models.noise(side, side, side) for side in (50, 300)]
    wanted = [one.scores for one in models.on_the_cpu(spec, logits, images)]

    def interrupt(frame, event, _):
        if frame.f_code in (Staging._grow.__code__, Staging._take.__code__) and event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == line:
                raise KeyboardInterrupt
        return interrupt

    lines = []
    while len(lines) >= line:
        lane, lines, line = make(spec, logits), [], line + 1
        for _ in range(2):
            lane.way.run([models.noise(7, 50, 50)], "bgr")
        sys.settrace(interrupt)
        try:
            lane.way.run(images[1:], "bgr")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        for image, scores in zip(images, wanted, strict=True):
            np.testing.assert_allclose(lane.way.run([image], "bgr")[0][0].scores, scores, rtol=1e-5)
    assert line > 9


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        "picture.jpg",
        None,
    ],
)
def test_what_is_no_picture_is_refused_and_the_next_is_fine(make, image):
    lane = make(classes_spec(TopK(3), 6), logits)
    for _ in range(3):
        with pytest.raises(InputError, match="image must be"):
            lane.way.run([models.noise(1, 9, 9), image], "bgr")
        assert len(through(lane, [models.noise(1, 9, 9)])) == 1


def test_a_batch_that_is_empty_or_too_large_is_refused(make):
    lane = make(classes_spec(TopK(3), 6), logits)
    for count in (0, 10):
        with pytest.raises(InputError, match=f"a batch must be 1 to 9 images, got {count}"):
            lane.way.run([models.noise(1, 9, 9)] * count, "bgr")


@pytest.fixture
def integrated(driver):
    driver.be_integrated(True)


def test_a_gpu_that_shares_the_hosts_memory_copies_no_frame_and_finds_the_same(integrated, make, detector, driver):
    spec, function = detector
    lane, images = make(spec, function), models.pictures(1)
    for image in images:
        for _ in range(3):
            assert through(lane, [image]) == expected(spec, function, [image])
    pinned = lane.device.pinned(images[0].shape)
    pinned[...] = images[0]
    before = driver.calls()
    lane.way.run([pinned], "bgr")
    copies = {name: driver.calls()[name] - before[name] for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")}

    assert through(lane, [pinned]) == expected(spec, function, [images[0]])
    # the stand-in engine's own, and the frame's record
    assert copies == {"cuMemcpyHtoDAsync": 2, "cuMemcpyDtoHAsync": 1}


@pytest.mark.parametrize("rows", [1, 3])
def test_tensors_of_the_caller_go_through_the_engine_alone(make, detector, rows):
    spec, function = detector
    lane = make(spec, function)
    generator = np.random.default_rng(3)
    array = generator.random(spec.inputs[0].at(rows), np.float32)
    found = lane.device.fetch(lane.engine.run(lane.device.send({spec.inputs[0].name: array})), rows)
    expected = function({spec.inputs[0].name: array})
    for name, output in found.items():
        assert np.array_equal(output, expected[name])
