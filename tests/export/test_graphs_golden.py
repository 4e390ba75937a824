"""Graphs of tiny models against outputs the reference implementations gave for the same weights."""

import numpy as np
import onnxruntime
import pytest

from edgeinfer.spec import Batch, Boxes
from edgeinfer_export import graphs
from helpers import rows, seeded

# float32 sums in another order; boxes in pixels, scores in 0-1, logits
PIXELS, SCORES, LOGITS = 0.01, 1e-4, 1e-4


def run(built, images):
    session = onnxruntime.InferenceSession(built.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {built.spec.inputs[0].name: images})[0]


CLASSIFIERS = [name for name in seeded.names() if name.startswith("resn") or name.endswith("-cls")]
END_TO_END = [name for name in seeded.names() if name.endswith("-end2end")]


@pytest.mark.parametrize("name", sorted({*seeded.names()} - {*CLASSIFIERS, *END_TO_END}))
@pytest.mark.parametrize("batch", [Batch(2, 2), Batch(1, 4)])
def test_detectors_say_what_the_reference_said(name, batch):
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(), size=golden.size, batch=batch)
    output = run(built, golden.images)
    boxes = np.s_[:, :4] if built.spec.decode.layout == "yolov8" else np.s_[..., :4]
    scores = np.s_[:, 4:] if built.spec.decode.layout == "yolov8" else np.s_[..., 4:]
    np.testing.assert_allclose(output[boxes], golden.output[boxes], rtol=0, atol=PIXELS)
    np.testing.assert_allclose(output[scores], golden.output[scores], rtol=0, atol=SCORES)


@pytest.mark.parametrize("name", END_TO_END)
@pytest.mark.parametrize("batch", [Batch(2, 2), Batch(1, 4)])
def test_detectors_without_suppression_find_what_the_reference_found(name, batch):
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(), size=golden.size, batch=batch)
    assert built.spec.decode == Boxes("end2end")
    rows.assert_same(run(built, golden.images), golden.output, pixels=PIXELS, scores=SCORES)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_say_what_the_reference_said(name):
    golden = seeded.Golden(name)
    output = run(graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 4)), golden.images)
    np.testing.assert_allclose(output, golden.output, rtol=0, atol=LOGITS * golden.output.std())


def test_half_precision_tensors_are_folded_in_double_precision():
    golden = seeded.Golden("resnet-basic")
    halves = {name: value.astype(np.float16) for name, value in golden.tensors.items()}
    singles = {name: value.astype(np.float32) for name, value in halves.items()}
    built = [graphs.build(golden.checkpoint(tensors=one), size=golden.size) for one in (halves, singles)]
    assert built[0].model.SerializeToString(deterministic=True) == built[1].model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov5", "yolov6", "yolov8-ghost", "yolov8-p6"])
def test_fused_tensors_give_the_same_output(name):
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(tensors=seeded.fused(golden.tensors)), size=golden.size, batch=Batch(2, 2))
    np.testing.assert_allclose(run(built, golden.images), golden.output, rtol=0, atol=PIXELS)
