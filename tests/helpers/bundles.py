"""Tiny bundles whose answer is plain to see: they name the colour of a picture (red, green or blue).

The detector always puts one box per picture around the middle half of the model's frame, class and score
from the mean colour there; the classifier gives the mean colours as logits times ten.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeinfer import backends, devices, modeljson
from edgeinfer.bundle import Bundle
from edgeinfer.lanes import Lane
from edgeinfer.pipeline import Pipeline
from edgeinfer.spec import (
    Artifact,
    Batch,
    Boxes,
    Expected,
    Golden,
    ModelSpec,
    Preprocess,
    Provenance,
    Size,
    TensorSpec,
    TopK,
)
from helpers import fake_nvinfer

if TYPE_CHECKING:
    from pathlib import Path

COLORS = ("red", "green", "blue")
BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
SIDE = 32
# the types of tensors besides float32, as NumPy and ONNX call them
CASTS = {
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}
ELEMENTS = {"float32": TensorProto.FLOAT, **CASTS}


def picture(color="red", height=SIDE, width=SIDE):
    """A picture of one colour: (h, w, 3) uint8 BGR."""
    return np.full((height, width, 3), BGR[color], np.uint8)


def png(color="red", height=SIDE, width=SIDE):
    """That picture as the bytes of a file."""
    return cv2.imencode(".png", picture(color, height, width))[1].tobytes()


def video(path: Path, pictures, fps=10) -> Path:
    """Write pictures of one size as a video in Motion JPEG, which every OpenCV writes and reads."""
    height, width, _ = pictures[0].shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for one in pictures:
        writer.write(one)
    writer.release()
    return path


def detect_bundle(folder: Path) -> Path:
    """Write a detector into `folder`."""
    middle = np.array([[SIDE / 2, SIDE / 2, SIDE / 2, SIDE / 2, 1]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["color"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["middle", "color"], ["row"], axis=1),
        helper.make_node("Unsqueeze", ["row", "one"], ["output0"]),
    ]
    constants = {"middle": middle, "one": np.array([1], np.int64)}
    spec = ModelSpec(
        name="colors-detect",
        task="detect",
        inputs=(TensorSpec("images", (1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec("output0", (1, 1, 5 + len(COLORS))),),
        preprocess=Preprocess(Size(SIDE, SIDE)),
        decode=Boxes("yolov5"),
        labels=COLORS,
        provenance=Provenance(source="colors.pt", architecture="colors", license="CC0-1.0", parameters=5),
    )
    quarter = SIDE / 4
    expect = Expected(0, 1.0, (quarter, quarter, SIDE - quarter, SIDE - quarter))
    return _write(folder, spec, nodes, constants, expect)


def classify_bundle(folder: Path, batch=1, side=SIDE) -> Path:
    """Write a classifier of pictures `side` pixels wide and high into `folder`; `batch` may be a `Batch`."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["color"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["color", "ten"], ["logits"]),
    ]
    return _write(folder, _classifier(batch, side), nodes, {"ten": np.float32(10)}, Expected(0, 0.9999))


def _classifier(batch=1, side=SIDE):
    return ModelSpec(
        name="colors-classify",
        task="classify",
        inputs=(TensorSpec("images", (batch, 3, side, side)),),
        outputs=(TensorSpec("logits", (batch, len(COLORS))),),
        preprocess=Preprocess(Size(side, side), fit="resize-crop", resize=side),
        decode=TopK(2),
        labels=COLORS,
    )


def root_bundle(folder: Path) -> Path:
    """Write a classifier whose outputs are NaN where a picture is mostly blue, as a damaged engine's may be."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["color"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["limit", "color"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["sound"]),
        helper.make_node("Mul", ["color", "sound"], ["logits"]),
    ]
    constants = {"limit": np.array([[9, 9, 0.5]], np.float32)}
    return _write(folder, _classifier(), nodes, constants, Expected(0, 0.9))


def casts_bundle(folder: Path, dtype: str) -> Path:
    """Write a classifier that takes `dtype` and gives the mean colours times ten in every type there is."""
    graph = dtype == "uint8"
    axes = [1, 2] if graph else [2, 3]
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["color"], axes=axes, keepdims=0),
        helper.make_node("Mul", ["color", "ten"], ["logits"]),
    ]
    nodes += [helper.make_node("Cast", ["logits"], [one], to=kind) for one, kind in CASTS.items()]
    given = TensorSpec("images", (1, SIDE, SIDE, 3) if graph else (1, 3, SIDE, SIDE), dtype)
    made = [TensorSpec(one, (1, len(COLORS)), one) for one in CASTS]
    preprocess = Preprocess(Size(SIDE, SIDE), fit="resize-crop", resize=SIDE, where="graph" if graph else "runtime")
    spec = dataclasses.replace(
        _classifier(),
        inputs=(given,),
        outputs=(TensorSpec("logits", (1, len(COLORS))), *made),
        preprocess=preprocess,
    )
    scale = np.float32(10 / 255 if graph else 10)
    return _write(folder, spec, nodes, {"ten": scale}, Expected(0, 0.9999))


def echo_bundle(folder: Path) -> Path:
    """Write a classifier of up to 8 pictures that gives back what it was given, too."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0),
        helper.make_node("Identity", ["images"], ["echo"]),
    ]
    batch = Batch(1, 8)
    spec = _classifier(batch)
    echo = TensorSpec("echo", (batch, 3, SIDE, SIDE))
    return _write(folder, dataclasses.replace(spec, outputs=(*spec.outputs, echo)), nodes, {}, Expected(0, 0.5761))


def new_version(folder: Path, told="another"):
    """Have a bundle that differs in a word, at once: a service that watches reads no half of it."""
    record = json.loads((folder / "model.json").read_text())
    record["provenance"]["license"] = told
    (folder / "model.json.new").write_text(json.dumps(record))
    (folder / "model.json.new").replace(folder / "model.json")


def add_plan(folder, library, *, name="", precision="fp32", content=None, built_with="", **target):
    """Put an engine of the stand-in `library` into a bundle, for its GPU unless `target` says otherwise."""
    spec = modeljson.read(folder / "model.json")
    (source,) = [one for one in spec.artifacts if one.format == "onnx"]
    kind = "rtx" if library.__name__.endswith("rtx") else "trt"
    batch = spec.batch
    profiles = [(batch.min, batch.max, batch.max)] if batch.min != batch.max else []
    onnx_bytes = (folder / source.file).read_bytes()
    data = fake_nvinfer.plan(onnx_bytes, library.__version__, library.sm, profiles) if content is None else content
    file = name or f"{kind}-{len(spec.artifacts)}.{precision}.plan"
    (folder / file).write_bytes(data)
    facts = {"sm": library.sm, "os": "linux-x86_64", "onnx": source.sha256, "gpu": "Stand-in A10", **target}
    held = {key: value for key, value in facts.items() if value}
    built = built_with or f"{library.__name__} {library.__version__}"
    made = Artifact(file, kind, precision, hashlib.sha256(data).hexdigest(), built_with=built, target=held)
    modeljson.write(dataclasses.replace(spec, artifacts=(*spec.artifacts, made)), folder / "model.json")
    return made


def engine_of(folder, library, artifact=None, contexts=1):
    """A pipeline over the bundle's engine, put together by hand."""
    artifact = artifact or add_plan(folder, library)
    spec = Bundle.open(folder).spec
    backend = backends.load(artifact.format)
    device = devices.load("gpu")(spec)
    lanes = [Lane(device, backend(folder / artifact.file, spec, device))]
    for _ in range(contexts - 1):
        other = devices.load("gpu")(spec)
        lanes.append(Lane(other, lanes[0].engine.fork(other)))
    return Pipeline(spec, lanes)


def _write(folder, spec, nodes, constants, expect):
    folder.joinpath("golden").mkdir(parents=True)
    graph = helper.make_graph(
        nodes,
        spec.name,
        [_value(tensor) for tensor in spec.inputs],
        [_value(tensor) for tensor in spec.outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    folder.joinpath("model.fp32.onnx").write_bytes(data)
    cv2.imwrite(str(folder / "golden" / "0.png"), picture("red"))
    artifact = Artifact("model.fp32.onnx", "onnx", "fp32", hashlib.sha256(data).hexdigest())
    golden = Golden("golden/0.png", (expect,))
    facts = {**vars(spec), "artifacts": (artifact,), "golden": (golden,)}
    modeljson.write(ModelSpec(**facts), folder / "model.json")
    return folder


def _value(tensor):
    shape = ["batch" if isinstance(side, Batch) else side for side in tensor.shape]
    return helper.make_tensor_value_info(tensor.name, ELEMENTS[tensor.dtype], shape)
