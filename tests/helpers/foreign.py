"""ONNX files as other tools write them: small heads with seeded weights, their layouts, their metadata."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.bundle import Bundle
from edgeinfer.errors import ExportError
from edgeinfer_export.export import Options, export

STRIDES = (8, 16, 32)
ULTRALYTICS = {"author": "Ultralytics", "task": "detect", "stride": "32", "batch": "1", "end2end": "False"}


def names(classes):
    return repr({place: f"thing {place}" for place in range(classes)})


def yolov5(classes=3, **how):
    """(n, anchors, 5 + classes), with the metadata of yolov5's export.py."""
    rows = 5 + classes
    how.setdefault("metadata", {"stride": "32", "names": names(classes)})
    return _model(
        *_levels(3 * rows, ((0, 3, rows, -1), (0, 1, 3, 2), (0, -1, rows)), axis=1, shape=(1, 1, rows)), **how
    )


def yolov8(classes=3, **how):
    """(n, 4 + classes, anchors), with the metadata of Ultralytics."""
    how.setdefault("metadata", {**ULTRALYTICS, "names": names(classes)})
    return _model(*_levels(4 + classes, ((0, 4 + classes, -1),), axis=2, shape=(1, 4 + classes, 1)), **how)


def end2end(boxes=300, **how):
    """(n, boxes, 6), every box the same, with the metadata of Ultralytics."""
    row = np.tile(np.array([4, 4, 20, 20, 0.9, 1], np.float32), (1, boxes, 1))
    nodes = [_node("ReduceMin", ["images"], "least", axes=[1, 2, 3]), _node("Mul", ["least", "nothing"], "zero")]
    nodes += [_node("Reshape", ["zero", "three"], "flat"), _node("Add", ["flat", "row"], "output0")]
    weights = {"row": row, "nothing": np.float32(0), "three": np.array([-1, 1, 1])}
    how.setdefault("metadata", {**ULTRALYTICS, "end2end": "True", "names": names(3)})
    return _model(nodes, weights, **how)


def classifier(classes=1000, softmax=False, gemm=False, **how):
    """(n, classes) from the mean colour, as torchvision's exports: no metadata."""
    random = np.random.RandomState(1)
    nodes = [_node("GlobalAveragePool", ["images"], "color"), _node("Flatten", ["color"], "flat")]
    nodes.append(_node("Gemm" if gemm else "MatMul", ["flat", "weight"], "logits" if softmax else "output0"))
    nodes += [_node("Softmax", ["logits"], "output0", axis=1)] if softmax else []
    how = {"metadata": {}, "size": (224, 224), **how}
    return _model(nodes, {"weight": random.normal(0, 3, (3, classes)).astype(np.float32)}, **how)


def resizing(opset=17, channels=32, mode="nearest", **how):
    """(n, 7) from convolutions round a Resize, the constants nodes as PyTorch exports them."""
    random, twice = np.random.RandomState(2), 2 * channels
    weights = {
        "first": random.normal(0, 0.3, (channels, 3, 3, 3)).astype(np.float32),
        "second": random.normal(0, 0.1, (channels, channels, 1, 1)).astype(np.float32),
        "third": random.normal(0, 0.1, (twice, twice, 1, 1)).astype(np.float32),
        "bias": random.normal(0, 1, twice).astype(np.float32),
        "last": random.normal(0, 1, (twice, 7)).astype(np.float32),
        "roi": np.zeros(0, np.float32),
        "ones": np.ones(2, np.float32),
        "twos": np.full(2, 2, np.float32),
    }
    tensors = {name: numpy_helper.from_array(value) for name, value in weights.items()}
    nodes = [helper.make_node("Constant", [], [name], name, value=tensor) for name, tensor in tensors.items()]
    enlarging = {"mode": mode}
    enlarging |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if opset > 10 else {}
    nodes += [
        _node("Conv", ["images", "first"], "a", pads=[1] * 4, strides=[2, 2]),
        _node("MaxPool", ["a"], "b", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Conv", ["b", "second"], "c"),
        helper.make_node("Concat", ["ones", "twos"], ["scales"], axis=0),
        _node("Resize", ["c", "roi", "scales"] if opset > 10 else ["c", "scales"], "d", **enlarging),
        _node("Concat", ["d", "a"], "e", axis=1),
        _node("Conv", ["e", "third", "bias"], "f"),
        _node("Relu", ["f"], "g"),
        _node("GlobalAveragePool", ["g"], "h"),
        _node("Squeeze", ["h"], "i", axes=[2, 3]) if opset < 13 else _node("Flatten", ["h"], "i"),
        _node("MatMul", ["i", "last"], "output0"),
    ]
    how = {"metadata": {**ULTRALYTICS, "task": "classify"}, "size": (64, 64), **how}
    return _model(nodes, {}, opset=opset, **how)


def _levels(channels, reshapes, axis, shape):
    """Average pools of each stride, a 1x1 convolution, and what brings its maps into rows."""
    random = np.random.RandomState(channels)
    nodes, weights, joined = [], {}, []
    for stride in STRIDES:
        at = f"p{stride}"
        nodes.append(_node("AveragePool", ["images"], f"{at}.pool", kernel_shape=[stride] * 2, strides=[stride] * 2))
        weights[f"{at}.weight"] = random.normal(0, 2, (channels, 3, 1, 1)).astype(np.float32)
        nodes.append(_node("Conv", [f"{at}.pool", f"{at}.weight"], f"{at}.conv"))
        last = f"{at}.conv"
        for place, to in enumerate(reshapes):
            if 0 in to[1:] or to == (0, 1, 3, 2):
                nodes.append(_node("Transpose", [last], f"{at}.{place}", perm=list(to)))
            else:
                weights[f"{at}.shape{place}"] = np.array(to)
                nodes.append(_node("Reshape", [last, f"{at}.shape{place}"], f"{at}.{place}"))
            last = f"{at}.{place}"
        joined.append(last)
    # centres and sides of some 30 pixels, scores in 0-1
    weights["range"] = np.array([64] * 4 + [1] * (max(shape) - 4), np.float32).reshape(shape)
    nodes += [_node("Concat", joined, "raw", axis=axis), _node("Sigmoid", ["raw"], "shares")]
    nodes.append(_node("Mul", ["shares", "range"], "output0"))
    return nodes, weights


def _node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], name=f"/{output}", **attributes)


def _model(nodes, weights, *, size=(64, 96), batch=1, dtype=np.float32, metadata=None, opset=17, producer="pytorch"):
    """`size` and `batch` may be names, which leaves them open."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    cast = {name: value.astype(dtype) if value.dtype == np.float32 else value for name, value in weights.items()}
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("images", kind, [batch, 3, *size])],
        [helper.make_tensor_value_info("output0", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in cast.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.producer_name = producer
    helper.set_model_props(model, metadata or {})
    return model


def save(model, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def exported(tmp_path, model, **options):
    """The bundle that such a model becomes."""
    return Bundle.open(export(save(model, tmp_path / "in" / "model.onnx"), tmp_path / "out", Options(**options)))


def refusal(tmp_path, model, **options):
    """The error's text and hint, once it is sure that nothing was written."""
    with pytest.raises(ExportError) as caught:
        exported(tmp_path, model, **options)
    assert not (tmp_path / "out").exists()
    assert len(str(caught.value)) < 700
    return f"{caught.value} | {caught.value.hint}"


def add_output(model, shape, name="output1"):
    """A second output of this shape, which nothing depends on."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), f"{name}.zeros"))
    model.graph.node.append(_node("Identity", [f"{name}.zeros"], name))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model
