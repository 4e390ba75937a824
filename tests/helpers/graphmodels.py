"""Models built with our own graph builder for the tests of what is moved into a graph, and how they are run."""

import dataclasses

import numpy as np
import onnx
import onnxruntime

from edgeinfer.devices.cpu import Device
from edgeinfer.spec import Batch, Boxes, ModelSpec, Preprocess, Size, TensorSpec, TopK
from edgeinfer_export.graphs.ops import Feature, Graph, Kernel

SIDE = 12
BATCH = Batch(1, 8)


def convolution(how, *, pad=1, kernel=3, groups=1, seed=0):
    """One convolution whose every output is a class: any change of any input number shows."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(6, 3 // groups, kernel, kernel)).astype(np.float32)
    graph = Graph()
    x = Feature("images", 3, how.size.height, how.size.width)
    y = graph.conv("first", x, Kernel(weight, random.normal(size=6).astype(np.float32)), pad=pad, groups=groups)
    graph.node("Flatten", "logits", y.name, axis=1)
    return finished(graph, how, y.channels * y.height * y.width)


def averages(how):
    """No convolution: the input is read by two operators."""
    graph = Graph()
    places = graph.integers("order", 1, 0, 2)
    total = graph.node("Add", "total", "images", graph.node("Gather", "turned", "images", places, axis=1))
    graph.node("Flatten", "logits", total, axis=1)
    return finished(graph, how, 3 * how.size.height * how.size.width)


def finished(graph, how, classes):
    spec = ModelSpec(
        "small",
        "classify",
        (TensorSpec("images", (BATCH, 3, how.size.height, how.size.width)),),
        (TensorSpec("logits", (BATCH, classes)),),
        how,
        TopK(1),
        tuple(map(str, range(classes))),
    )
    return graph.model("small", spec.inputs, spec.outputs, "0"), spec


def decoder(layout, anchors, classes, size=64, **decode):
    """A detector that gives what it is given: its output alone, as a model of `layout`."""
    shape = (anchors, 5 + classes) if layout == "yolov5" else (4 + classes, anchors)
    spec = ModelSpec(
        "small",
        "detect",
        (TensorSpec("images", (BATCH, 3, size, size)),),
        (TensorSpec("output0", (BATCH, *shape)),),
        Preprocess(Size(size, size)),
        Boxes(layout, **decode),
        tuple(map(str, range(classes))),
    )
    graph = Graph()
    graph.node("Identity", "output0", "given")
    given = TensorSpec("given", spec.outputs[0].shape)
    return graph.model("small", [given], spec.outputs, "0"), spec


def run(model, **inputs):
    """Outputs by name."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def seen(model, spec, pictures):
    """The model's first output for pictures that the CPU device prepares by the spec."""
    tensors, _ = Device(spec).preprocess(pictures)
    return run(model, **tensors)[spec.outputs[0].name]


def copied(model):
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def fixed(spec, batch):
    """The spec with a fixed batch."""
    tensors = {
        name: tuple(dataclasses.replace(one, shape=(batch, *one.shape[1:])) for one in getattr(spec, name))
        for name in ("inputs", "outputs")
    }
    return dataclasses.replace(spec, **tensors)
