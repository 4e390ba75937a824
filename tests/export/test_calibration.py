"""What calibration sees of a model, and what it tells when that is no number."""

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeinfer.errors import ExportError
from edgeinfer.spec import Batch, Size
from edgeinfer_export import calibration, graphs
from helpers import graphmodels, seeded
from helpers.quantizing import built, makers, pictures, ranged


def test_calibration_sees_what_the_runtime_feeds():
    one = built("resnet-basic")
    shown = pictures(3, Size(50, 70))
    seen = calibration.observe(one.model, one.spec, ["input", "conv1.relu"], shown)
    inputs = graphmodels.Device(one.spec)
    fed = [inputs.preprocess([picture])[0]["input"].copy() for picture in shown]

    assert seen["input"].low == pytest.approx(min(one.min() for one in fed))
    assert seen["input"].high == pytest.approx(max(one.max() for one in fed))
    assert seen["conv1.relu"].low == 0


def test_of_a_large_tensor_a_sample_is_counted_and_means_are_of_the_whole_batch():
    golden = seeded.Golden("resnet-basic")
    one = graphs.build(golden.checkpoint(), size=Size(512, 512), batch=Batch(2, 2))
    seen = calibration.observe(one.model, one.spec, ["input", "conv1.relu"], pictures(1, Size(512, 512)))

    for histogram in seen.values():
        assert calibration.SAMPLE <= histogram._counts.sum() <= 2.5 * calibration.SAMPLE
    assert np.shape(seen["input"].range("minmax").means) == (3,)


def test_a_model_that_onnx_runtime_refuses_is_told_before_a_picture_is_shown():
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "of other sizes", [x], [y])
    with pytest.raises(ExportError, match="calibration: ONNX Runtime refused the model: ") as caught:
        calibration.observe(helper.make_model(graph), None, [], [])
    assert caught.value.hint


def test_values_that_are_not_finite_are_told_with_their_tensor():
    golden = seeded.Golden("resnet-basic")
    golden.tensors["layer1.0.bn1.weight"][:] = 3e38
    golden.tensors["layer1.0.conv1.weight"][:] = 0.5
    one = graphs.build(golden.checkpoint(), size=golden.size)

    with pytest.raises(ExportError, match=r"tensor layer1\.0\.conv1"):
        ranged(one)


def test_nan_beside_numbers_is_told_with_its_tensor():
    one = built("resnet-basic")
    makers(one.model)["layer1.0.conv1.relu"].op_type = "Sqrt"  # NaN of what is negative

    with pytest.raises(ExportError, match=r"tensor layer1\.0\.conv1\.relu holds values that are not finite"):
        ranged(one)
