"""Decoding and suppression on thousands of random outputs, against the CPU device; equal to the bit."""

import numpy as np
import pytest

from edgeinfer.devices import cpu, launch, suppression
from edgeinfer.errors import EngineError
from edgeinfer.spec import Boxes, Placement, Preprocess, Size
from kernels import on_cpu
from kernels.specs import boxes_spec

LAYOUTS = ("yolov5", "yolov8", "end2end")


def random_output(rng, layout, anchors, classes, dtype="float32", levels=0):
    """One picture's plausible output: boxes around a few middles, so that many overlap.

    With `levels` every score is one of so many, so that many are equal.
    """
    middles = rng.uniform(0, 640, (max(1, anchors // 8), 2))[rng.integers(0, max(1, anchors // 8), anchors)]
    centre = middles + rng.normal(0, 12, (anchors, 2))
    sides = rng.uniform(0, 200, (anchors, 2)) * (rng.random((anchors, 1)) > 0.05)
    scores = rng.random((anchors, classes))
    objectness = rng.random((anchors, 1))
    if levels:
        scores, objectness = np.ceil(scores * levels) / levels, np.ceil(objectness * 2) / 2
    if layout == "yolov5":
        output = np.concatenate([centre, sides, objectness, scores], axis=1)
    elif layout == "yolov8":
        output = np.concatenate([centre, sides, scores**3], axis=1).T
    else:
        best = scores.max(axis=1, keepdims=True) ** 3
        output = np.concatenate([centre - sides / 2, centre + sides / 2, best, scores.argmax(1)[:, None]], axis=1)
    return np.ascontiguousarray(output, dtype)


def random_placement(rng):
    source = Size(*(int(side) for side in rng.integers(1, 3000, 2)))
    return Preprocess(Size(640, 640)).place(source)


def random_decode(rng, layout, **facts):
    score, iou = float(rng.choice([0.0, 0.001, 0.25, 0.3, 0.45, 0.7, 1.0])), float(rng.choice([0.0, 0.3, 0.45, 0.7, 1]))
    agnostic = bool(rng.integers(2))
    return Boxes(layout, score=score, iou=iou, class_agnostic=agnostic, limit=int(rng.choice([1, 7, 300])), **facts)


def on_the_cpu(spec, outputs, placements):
    """The CPU device's rows of each picture: (x1 y1 x2 y2, score, class)."""
    found = cpu.Device(spec).postprocess({"output0": outputs}, placements)
    columns = [(one.boxes.tolist(), one.scores.tolist(), one.class_ids.tolist()) for one in found]
    return [list(zip(*one, strict=True)) for one in columns]


def check(kernels, spec, outputs, placements, **how):
    results = kernels.detect(spec, outputs, placements, **how)

    assert results["status"].tolist() == [0] * len(placements)
    assert [on_cpu.rows(one) for one in results] == on_the_cpu(spec, outputs, placements)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_outputs_give_what_the_cpu_device_gives(kernels, layout, dtype):
    rng = np.random.default_rng(1)
    for _ in range(120):
        anchors, classes = int(rng.integers(1, 300)), int(rng.choice([1, 2, 5, 80]))
        outputs = np.stack([random_output(rng, layout, anchors, classes, dtype) for _ in range(rng.integers(1, 4))])
        spec = boxes_spec(random_decode(rng, layout), anchors, classes, dtype)
        check(kernels, spec, outputs, [random_placement(rng) for _ in outputs], seed=int(rng.integers(1, 99)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_scores_are_taken_in_the_outputs_order(kernels, layout):
    rng = np.random.default_rng(2)
    for _ in range(100):
        anchors, classes = int(rng.integers(2, 300)), int(rng.choice([2, 5]))
        output = random_output(rng, layout, anchors, classes, levels=3)[None]
        spec = boxes_spec(random_decode(rng, layout), anchors, classes)
        check(kernels, spec, output, [random_placement(rng)], seed=int(rng.integers(1, 99)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_threads_does_not_show(kernels, layout):
    rng = np.random.default_rng(3)
    for _ in range(20):
        output = random_output(rng, layout, 700, 3, levels=4)[None]
        spec = boxes_spec(Boxes(layout, score=0.1), 700, 3)
        place = [random_placement(rng)]
        results = {kernels.detect(spec, output, place, seed=seed).tobytes()[: 16 + 24 * 5] for seed in range(6)}

        assert len(results) == 1


def test_a_whole_camera_frame(kernels):
    """25,200 anchors, 80 classes, some thousands of candidates: more than one word, more than one block."""
    rng = np.random.default_rng(4)
    outputs = random_output(rng, "yolov5", 25200, 80)[None]
    outputs[:, :, 4] *= rng.random(25200) < 0.1
    decode = Boxes("yolov5", score=0.25)

    check(kernels, boxes_spec(decode, 25200, 80), outputs, [random_placement(rng)])


def test_every_anchor_a_candidate(kernels):
    rng = np.random.default_rng(5)
    outputs = random_output(rng, "yolov5", 2500, 3)[None]
    outputs[:, :, 4] = 1
    decode = Boxes("yolov5", score=0.0, iou=0.5, limit=3000)

    check(kernels, boxes_spec(decode, 2500, 3), outputs, [random_placement(rng)], seed=8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_found_is_no_rows(kernels, layout):
    output = random_output(np.random.default_rng(6), layout, 50, 4)[None]
    spec = boxes_spec(Boxes(layout, score=1.0), 50, 4)

    check(kernels, spec, output, [random_placement(np.random.default_rng(6))])


@pytest.mark.parametrize(("candidates", "status"), [(63, 0), (64, 0), (65, launch.OVERFLOWED)])
def test_more_candidates_than_capacity_are_reported(kernels, candidates, status):
    rng = np.random.default_rng(7)
    outputs = np.zeros((2, 100, 7), np.float32)
    outputs[0, :candidates] = random_output(rng, "yolov5", candidates, 2)
    outputs[0, :candidates, 4:] = rng.uniform(0.8, 1, (candidates, 3))
    outputs[1, 3] = (320, 320, 9, 9, 1, 1, 0)
    spec, places = boxes_spec(Boxes("yolov5"), 100, 2), [random_placement(rng) for _ in range(2)]
    results = kernels.detect(spec, outputs, places, capacity=64, seed=5)

    assert results["status"].tolist() == [status, 0]
    assert results["candidates"].tolist() == [candidates, 1]
    assert results["count"][1] == 1
    if status:
        assert results["count"][0] == 0
    again = kernels.detect(spec, outputs, places, capacity=100)
    assert [on_cpu.rows(one) for one in again] == on_the_cpu(spec, outputs, places)


def test_as_many_candidates_as_the_cpu_looks_at_are_compared_and_no_more_have_room(kernels, monkeypatch):
    for module in (launch, suppression):
        monkeypatch.setattr(module, "MOST", 150)
    rng, spec = np.random.default_rng(9), boxes_spec(Boxes("yolov5", score=0.0, limit=300), 1000, 3)
    outputs = np.stack([random_output(rng, "yolov5", 1000, 3) for _ in range(3)])

    check(kernels, spec, outputs, [random_placement(rng) for _ in range(3)], seed=3)
    half, all_of_them = (launch.Detect(spec, 1, capacity).workspace_bytes for capacity in (500, 1000))
    assert all_of_them - half < 500 * 64  # a candidate's own numbers, not its overlap with every other


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_reported_exactly_where_the_cpu_device_refuses(kernels, layout, column, value):
    rng = np.random.default_rng(8)
    for best in (0, 0.3, 1):
        outputs = np.stack([random_output(rng, layout, 40, 3) for _ in range(2)])
        row = outputs[1].T if layout == "yolov8" else outputs[1]
        row[7, 4:] = best
        row[7, column] = value
        spec, places = boxes_spec(Boxes(layout), 40, 3), [random_placement(rng) for _ in outputs]
        results = kernels.detect(spec, outputs, places)
        try:
            rows = on_the_cpu(spec, outputs[1:], places[1:])[0]
        except EngineError:
            assert (results["status"].tolist(), results["count"][1]) == ([0, launch.NOT_FINITE], 0)
        else:
            assert (results["status"].tolist(), on_cpu.rows(results[1])) == ([0, 0], rows)


@pytest.mark.parametrize("iou", [0.4999999, 0.5, 0.5000001])
def test_an_overlap_equal_to_the_threshold_is_kept(kernels, iou):
    """Two boxes of 2 and 1 share 1: their overlap is a half exactly."""
    spec = boxes_spec(Boxes("yolov8", iou=iou), 2, 2)
    outputs = np.array([[[10, 5], [5, 5], [20, 10], [10, 10], [0.9, 0.8], [0, 0]]], np.float32)
    place = Placement(Size(640, 640), Size(640, 640), 0, 0)
    (result,) = kernels.detect(spec, outputs, [place])

    check(kernels, spec, outputs, [place])
    assert result["count"] == (2 if iou >= 0.5 else 1)


def test_sides_beyond_float32_do_not_suppress(kernels):
    outputs = np.zeros((1, 4, 6), np.float32)
    outputs[0] = [(320, 320, 3e38, 3e38, 1, 0.9 - i / 10) for i in range(4)]

    check(kernels, boxes_spec(Boxes("yolov5"), 4, 1), outputs, [Placement(Size(640, 640), Size(640, 640), 0, 0)])


def test_a_second_use_of_the_same_workspace_finds_the_same(kernels):
    rng = np.random.default_rng(9)
    spec, place = boxes_spec(Boxes("yolov5"), 300, 3), [random_placement(rng)]
    plan = launch.Detect(spec, 1)
    workspace, found = np.empty(plan.workspace_bytes, np.uint8), []
    for seed in (0, 1):
        output = random_output(np.random.default_rng(10), "yolov5", 300, 3)
        frames = launch.frames([on_cpu.NOWHERE], place)
        results = np.zeros(1, plan.result)
        at = {"frames": frames, "output": output, "workspace": workspace, "results": results}
        for one in plan.launches(1, **{name: on_cpu.address(array) for name, array in at.items()}):
            kernels.run(one, seed)
        found.append(on_cpu.rows(results[0]))

    assert found[0] == found[1] != []
