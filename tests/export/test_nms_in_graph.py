"""`--nms graph`: a model that suppresses its boxes keeps those that the runtime keeps."""

import dataclasses

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeinfer import load
from edgeinfer.bundle import Bundle
from edgeinfer.devices.cpu import Device
from edgeinfer.errors import EngineError, ExportError, UsageError
from edgeinfer.spec import Batch, Preprocess, Size
from edgeinfer_export import compile as compiling
from edgeinfer_export import engines, graphs, targets
from edgeinfer_export.export import Options, export
from edgeinfer_export.export import read as reading
from edgeinfer_export.graphs import Variant, suppress
from helpers import cases, graphmodels, seeded
from helpers.scenery import SOURCE, TRUTH

PICTURES = sorted(TRUTH.glob("*.jpg"))[::4]
SIZE, BATCH = Size(256, 320), Batch(1, 8)
PLACE = Preprocess(Size(64, 64)).place(Size(64, 64))
VARIANTS = {
    "nms": Variant(nms=True),
    "both": Variant(nms=True, frames="bgr"),
    "agnostic": Variant(nms=True, class_agnostic=True, score=0.01, iou=0.3, limit=20),
}


def same(found, expected):
    """The same boxes in the same order, within a thousandth."""
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3 * max(SIZE.height, SIZE.width))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The packaged detector with suppression in the runtime, and in the graph by each variant."""
    folder = tmp_path_factory.mktemp("nms")
    variants = {"plain": Variant(), **VARIANTS}
    return {
        name: export(SOURCE, folder / name, Options(SIZE, BATCH, variant=variant)) for name, variant in variants.items()
    }


@pytest.mark.parametrize("images", [1, 3, 8])
@pytest.mark.parametrize("name", ["nms", "both"])
def test_a_real_detector_keeps_the_same_boxes(bundles, name, images):
    shots = [cv2.imread(str(path)) for path in PICTURES]
    with load(bundles["plain"]) as plain, load(bundles[name]) as varied:
        expected = plain.batch(shots)
        found = [one for at in range(0, len(shots), images) for one in varied.batch(shots[at : at + images])]

    assert sum(map(len, expected)) > 50
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_thresholds_given_at_export_are_the_graphs(bundles):
    facts = {"conf": 0.01, "iou": 0.3, "limit": 20}
    decode = Bundle.open(bundles["agnostic"]).spec.decode
    plain = Bundle.open(bundles["plain"])
    agnostic = dataclasses.replace(plain.spec.decode, class_agnostic=True)
    plain.spec = dataclasses.replace(plain.spec, decode=agnostic)
    shots = [cv2.imread(str(path)) for path in PICTURES[:6]]
    with load(plain, **facts) as model, load(bundles["agnostic"]) as varied:
        for one, other in zip(varied.batch(shots), model.batch(shots), strict=True):
            same(one, other)

    assert (decode.score, decode.iou, decode.limit, decode.class_agnostic) == (0.01, 0.3, 20, True)


def test_a_higher_confidence_is_applied_by_the_runtime(bundles):
    shot = cv2.imread(str(PICTURES[0]))
    with load(bundles["plain"], conf=0.6, limit=3) as plain, load(bundles["nms"], conf=0.6, limit=3) as varied:
        same(varied(shot), plain(shot))


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"conf": 0.2}, "conf 0.2 is below the 0.25"), ({"iou": 0.5}, "iou 0.5"), ({"limit": 301}, "limit 301 is above")],
    ids=str,
)
def test_what_the_graph_has_decided_cannot_be_asked_for(bundles, asked, message):
    with pytest.raises(UsageError, match=message) as caught:
        load(bundles["nms"], **asked)
    assert "--nms graph" in caught.value.hint


def outcome(model, spec, rows):
    """What the CPU device makes of a model that is given these raw outputs."""
    outputs = graphmodels.run(model, given=np.stack(rows))
    device = Device(spec)
    return outputs, device.postprocess(outputs, [PLACE] * len(rows))


def laid(rows, layout):
    """yolov5 rows (a, 5 + classes) as an output of the layout; objectness goes into the scores."""
    if layout == "yolov5":
        return rows
    return np.concatenate((rows[:, :4], rows[:, 4:5] * rows[:, 5:]), axis=1).T.astype(np.float32)


@pytest.mark.parametrize("layout", ["yolov5", "yolov8"])
@pytest.mark.parametrize("block", range(2))
def test_ties_and_overlaps_at_the_threshold_are_decided_as_the_runtime_decides(layout, block):
    for rows, decode in list(cases.suppression_cases(block))[:60]:
        facts = {name: getattr(decode, name) for name in ("score", "iou", "limit", "class_agnostic")}
        given = [laid(rows, layout), laid(rows[::-1].copy(), layout)]
        model, spec = graphmodels.decoder(layout, len(rows), rows.shape[1] - 5, **facts)
        plain = outcome(model, spec, given)[1]
        varied = graphmodels.copied(model)
        _, found = outcome(varied, suppress.keep(varied, spec), given)
        for one, other in zip(found, plain, strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.class_ids, other.class_ids)
            np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("layout", ["yolov5", "yolov8"])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_pictures_of_a_batch_do_not_meet(layout, batch):
    rows = [cases.crowd(seed, 400, 4, 30 * seed) for seed in range(batch)]  # the first has no boxes
    model, spec = graphmodels.decoder(layout, 400, 4, limit=20, size=640)
    given = [laid(one, layout) for one in rows]
    plain = outcome(model, spec, given)[1]
    outputs, found = outcome(model, suppress.keep(model, spec), given)

    assert [len(one) for one in found] == [len(one) for one in plain] == outputs["num_dets"][:, 0].tolist()
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_outputs_have_fixed_sizes_and_zeros_behind_the_boxes():
    model, spec = graphmodels.decoder("yolov5", 400, 4, limit=20)
    varied = suppress.keep(model, spec)
    outputs, _ = outcome(model, varied, [cases.crowd(1, 400, 4, 5), np.zeros((400, 9), np.float32)])

    assert {name: (value.dtype.name, value.shape) for name, value in outputs.items()} == {
        "num_dets": ("int32", (2, 1)),
        "boxes": ("float32", (2, 20, 4)),
        "scores": ("float32", (2, 20)),
        "classes": ("int32", (2, 20)),
    }
    number = outputs["num_dets"][0, 0]
    assert 0 < number < 20
    assert outputs["num_dets"][1, 0] == 0
    for name in ("boxes", "scores", "classes"):
        assert not outputs[name][0, number:].any()
        assert not outputs[name][1].any()
    assert (np.diff(outputs["scores"][0]) <= 0).all()


@pytest.mark.parametrize("layout", ["yolov5", "yolov8"])
@pytest.mark.parametrize("column", [0, 3, 4, slice(5, None)], ids=["centre", "height", "objectness", "classes"])
def test_a_number_that_is_none_reaches_the_runtime(layout, column):
    rows = cases.crowd(1, 60, 3, 20)
    best = int((rows[:, 4:5] * rows[:, 5:]).max(1).argmax())
    rows[best, column] = np.nan
    model, spec = graphmodels.decoder(layout, 60, 3)
    with pytest.raises(EngineError, match="holds NaN"):
        outcome(model, suppress.keep(model, spec), [laid(rows, layout)])


def test_no_more_boxes_than_anchors_are_promised():
    model, spec = graphmodels.decoder("yolov8", 60, 3, limit=300)
    assert suppress.keep(model, spec).decode.limit == 60


@pytest.mark.parametrize("name", ["yolov5", "yolov5u", "yolov5-four-levels"])
def test_heads_of_every_layout_are_taken(name):
    golden = seeded.Golden(name)
    built = [graphs.build(golden.checkpoint(), size=golden.size, batch=BATCH) for _ in range(2)]
    raw = graphmodels.run(built[0].model, images=golden.images)["output0"]
    layout = built[0].spec.decode.layout
    scores = raw[..., 4:5] * raw[..., 5:] if layout == "yolov5" else raw[:, 4:].swapaxes(1, 2)
    score = float(np.quantile(scores.max(2), 0.7))
    plain = dataclasses.replace(built[0].spec, decode=dataclasses.replace(built[0].spec.decode, score=score))
    varied = graphs.vary(built[1], Variant(nms=True, score=score))
    expected = Device(plain).postprocess({"output0": raw}, [PLACE] * 2)
    found = Device(varied.spec).postprocess(graphmodels.run(varied.model, images=golden.images), [PLACE] * 2)

    assert min(map(len, expected)) > 3
    for one, other in zip(found, expected, strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": Variant(score=0.01, iou=0.9)}, "has --conf 0.25, --iou 0.45 in its graph"),
        ({"variant": Variant(class_agnostic=True)}, "has --class-agnostic False in its graph"),
        ({"labels": ("a", "b")}, "2 labels given, the model has 10 classes"),
    ],
)
def test_what_a_graph_has_decided_is_told_as_nothing_else_when_it_is_exported_again(bundles, options, message):
    source = bundles["nms"] / "model.fp32.onnx"
    again = reading(source, Options(batch=BATCH, variant=Variant(score=0.25, iou=0.45, limit=300)))
    assert again.spec.decode == Bundle.open(bundles["nms"]).spec.decode
    with pytest.raises(ExportError, match=message):
        reading(source, Options(batch=BATCH, **options))


def test_what_cannot_be_suppressed_in_the_graph_is_refused_with_a_remedy():
    refused = {
        "above the 3840": graphmodels.decoder("yolov5", 60, 3, limit=4000),
        "is a classifier": graphmodels.convolution(Preprocess(Size(8, 8))),
        "itself already": (onnx.ModelProto(), suppress.keep(*graphmodels.decoder("yolov5", 60, 3))),
    }
    model, spec = graphmodels.decoder("yolov5", 60, 3)
    model.graph.node[0].input[0] = model.graph.input[0].name = "scores"
    refused["a tensor called scores already"] = model, spec
    for message, (model, spec) in refused.items():
        with pytest.raises(ExportError, match=message) as caught:
            suppress.keep(model, spec)
        assert caught.value.hint


def test_tensorrt_rtx_is_refused_before_anything_is_built(bundles):
    found = Bundle.open(bundles["nms"])
    with pytest.raises(ExportError, match="rtx:sm86: TensorRT-RTX has no NonMaxSuppression") as caught:
        engines.jobs(found, targets.parse("trt,rtx:sm86"))
    assert "--nms runtime" in caught.value.hint
    assert len(engines.jobs(found, targets.parse("trt"))) == 1


@pytest.mark.parametrize("layout", ["yolov5", "yolov8"])
def test_an_overlap_that_rounds_to_the_threshold_is_above_it(layout):
    # 3 of 10 in float32 is more than 0.3; and the better of two equals is the first
    rows = np.array([[3.25, 0.5, 6.5, 1, 0.9, 1], [6.75, 0.5, 6.5, 1, 0.9, 1]], np.float32)
    model, spec = graphmodels.decoder(layout, 2, 1, iou=0.3)
    plain = outcome(model, spec, [laid(rows, layout)])[1]
    _, found = outcome(model, suppress.keep(model, spec), [laid(rows, layout)])

    assert found[0].boxes.tolist() == plain[0].boxes.tolist() == [[0, 0, 6.5, 1]]


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
def test_models_of_older_and_newer_opsets_are_taken(opset):
    rows = cases.crowd(3, 400, 4, 60)
    model, spec = graphmodels.decoder("yolov5", 400, 4, limit=20)
    model.opset_import[0].version, model.ir_version = opset, 10
    plain = outcome(model, spec, [rows])[1]
    _, found = outcome(model, suppress.keep(model, spec), [rows])

    np.testing.assert_array_equal(found[0].boxes, plain[0].boxes)


NVIDIA = "tensorrt-rtx is not installed: NVIDIA has no wheel for this machine"


def test_nvidias_parser_makes_one_suppression_layer_and_outputs_of_fixed_size(bundles):
    trt = pytest.importorskip("tensorrt_rtx", reason=NVIDIA)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))

    assert parser.parse_from_file(str(bundles["both"] / "model.fp32.onnx"))
    kinds = [network.get_layer(place).type for place in range(network.num_layers)]
    outputs = [network.get_output(place) for place in range(network.num_outputs)]
    assert kinds.count(trt.LayerType.NMS) == 1
    assert {one.name: (tuple(one.shape), one.dtype) for one in outputs} == {
        "num_dets": ((-1, 1), trt.DataType.INT32),
        "boxes": ((-1, 300, 4), trt.DataType.FLOAT),
        "scores": ((-1, 300), trt.DataType.FLOAT),
        "classes": ((-1, 300), trt.DataType.INT32),
    }


@pytest.mark.parametrize("layout", ["yolov5", "yolov8"])
def test_nvidias_compiler_takes_all_round_the_suppression(layout, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason=NVIDIA)
    model, spec = graphmodels.decoder(layout, 400, 4)
    suppress.keep(model, graphmodels.fixed(spec, 1))
    (layer,) = (node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    model.graph.input.append(helper.make_tensor_value_info(layer.output[0], TensorProto.INT64, [300, 3]))
    model.graph.node.remove(layer)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    options = compiling.Options(library="rtx", capabilities=(86,))
    engine = compiling.compile_onnx(tmp_path / "model.onnx", tmp_path / "engine.plan", options)
    assert [one.name for one in engine.outputs] == ["num_dets", "boxes", "scores", "classes"]
