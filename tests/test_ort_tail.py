"""Models that end in moving numbers: ONNX Runtime is spared it, and no output differs by a bit."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeinfer import backends
from edgeinfer.backends import _orttail
from edgeinfer.errors import EngineError
from edgeinfer.spec import Batch, Boxes, TensorSpec
from helpers import networks

CELLS = 256  # of a 16 x 16 map
MANY = Batch(1, 3)
KINDS = ("Transpose", "Concat")


def saved(path, build, shapes, batch=1):
    """A network whose last nodes `build` adds to what heads say of each cell: (n, 2, 256), another, (n, 5, 256)."""
    net = networks.Net()
    stem, shape = net.conv("images", 3, 8, 3, 2), net.weight(np.array([0, 0, -1]))
    build(net, *(net.add("Reshape", net.conv(stem, 8, rows, 1), shape) for rows in (2, 2, 5)))
    return net.save(path, [(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in shapes.items()], batch)


def joined(net, *parts, **given):
    return net.add("Concat", *parts, axis=1, **given)


def turned(net, value, perm=(0, 2, 1)):
    return net.add("Transpose", value, out="output0", perm=perm)


# what ends a model, and its outputs; how many values ONNX Runtime writes then, for one picture and for several
ENDS = {
    "joined, then turned": (lambda net, *parts: turned(net, joined(net, *parts)), {"output0": (CELLS, 9)}, 3, 1),
    "joined": (lambda net, *parts: joined(net, *parts, out="output0"), {"output0": (9, CELLS)}, 3, 1),
    "turned": (lambda net, part, *_: turned(net, part), {"output0": (CELLS, 2)}, 1, 1),
    "beside another output": (
        lambda net, one, *parts: (net.add("Relu", one, out="other"), turned(net, joined(net, *parts))),
        {"other": (2, CELLS), "output0": (CELLS, 7)},
        3,
        2,
    ),
    "turned twice": (
        lambda net, one, *_: turned(net, net.add("Transpose", one, perm=[0, 2, 1])),
        {"output0": (2, CELLS)},
        1,
        1,
    ),
    "of a constant": (
        lambda net, one, *_: turned(net, joined(net, one, net.weight(np.ones((1, 1, CELLS), np.float32)))),
        {"output0": (CELLS, 3)},
        2,
        0,
    ),
}
# ends that must stay
STAY = {
    "turned columns that are an output too": (
        lambda net, one, *_: turned(net, net.add("Relu", one, out="columns")),
        {"columns": (2, CELLS), "output0": (CELLS, 2)},
    ),
    "a part twice": (lambda net, one, *_: joined(net, one, one, out="output0"), {"output0": (4, CELLS)}),
    "joined along another axis": (
        lambda net, *parts: net.add("Concat", *parts[:2], out="output0", axis=2),
        {"output0": (2, 2 * CELLS)},
    ),
    "turned so that the batch is not first": (
        lambda net, one, *_: turned(net, net.add("Reshape", one, net.weight(np.array([1, 1, -1]))), (1, 0, 2)),
        {"output0": (1, 2 * CELLS)},
    ),
    "something after it": (
        lambda net, one, *_: net.add("Relu", net.add("Transpose", one, perm=[0, 2, 1]), out="output0"),
        {"output0": (CELLS, 2)},
    ),
}


def opened(path, shapes, batch=1, layout="yolov5"):
    inputs = (TensorSpec("images", (batch, 3, networks.SIDE, networks.SIDE)),)
    outputs = tuple(TensorSpec(name, (batch, *shape)) for name, shape in shapes.items())
    spec = SimpleNamespace(inputs=inputs, outputs=outputs, batch=inputs[0].batch, decode=Boxes(layout))
    # what is not written stays NaN
    device = SimpleNamespace(empty=lambda shape, dtype: np.full(shape, np.nan, dtype))
    return backends.load("ort")(path, spec, device)


def noise(images):
    shape = (images, 3, networks.SIDE, networks.SIDE)
    return {"images": np.random.default_rng(images).random(shape, np.float32)}


def check_equal(engine, path, images):
    """Every output is what ONNX Runtime itself gives for the file."""
    theirs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = dict(zip([value.name for value in theirs.get_outputs()], theirs.run(None, noise(images)), strict=True))
    found = engine.run(noise(images))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(("build", "shapes", "values", "_"), ENDS.values(), ids=ENDS)
def test_an_output_of_one_picture_is_written_in_parts_and_read_as_it_was(tmp_path, build, shapes, values, _):
    path = saved(tmp_path / "net.onnx", build, shapes)
    engine = opened(path, shapes)
    assert len(engine._session.get_outputs()) == values
    check_equal(engine, path, 1)
    check_equal(engine.fork(SimpleNamespace(empty=np.empty)), path, 1)


@pytest.mark.parametrize(
    ("build", "shapes", "values"), [(end[0], end[1], end[3]) for end in ENDS.values() if end[3]], ids=list(ENDS)[:5]
)
def test_outputs_of_several_pictures_are_turned_by_the_reader_and_joined_by_onnx_runtime(
    tmp_path, build, shapes, values
):
    path = saved(tmp_path / "net.onnx", build, shapes, "n")
    engine = opened(path, shapes, MANY)
    assert len(engine._session.get_outputs()) == values
    for images in (3, 1, 2):
        check_equal(engine, path, images)


@pytest.mark.parametrize(("build", "shapes"), STAY.values(), ids=STAY)
def test_what_cannot_be_left_out_is_not(tmp_path, build, shapes):
    path = saved(tmp_path / "net.onnx", build, shapes)
    engine = opened(path, shapes)
    assert [value.name for value in engine._session.get_outputs()] == [*shapes]
    check_equal(engine, path, 1)


def wrong(net, attribute, values):
    """Gives the last node that has this attribute other numbers."""
    node = next(node for node in reversed(net.nodes) if any(one.name == attribute for one in node.attribute))
    del node.attribute[:]
    node.attribute.append(helper.make_attribute(attribute, values))


BROKEN = {
    "axes that there are not": lambda net, *parts: (turned(net, joined(net, *parts)), wrong(net, "perm", [0, 9, 1])),
    "an axis twice": lambda net, *parts: (turned(net, joined(net, *parts)), wrong(net, "perm", [0, 1, 1])),
    "too few axes": lambda net, *parts: (turned(net, joined(net, *parts)), wrong(net, "perm", [0, 1])),
    "parts of several types": lambda net, one, *_: joined(
        net, one, net.add("Cast", one, to=TensorProto.DOUBLE), out="output0"
    ),
    "parts that do not fit": lambda net, one, *_: joined(
        net, one, net.weight(np.ones((1, 2, 3), np.float32)), out="output0"
    ),
    "parts of other ranks": lambda net, one, *_: joined(net, one, net.weight(np.ones(4, np.float32)), out="output0"),
}


@pytest.mark.parametrize("build", BROKEN.values(), ids=BROKEN)
def test_a_tail_that_is_not_right_is_one_clear_error(tmp_path, monkeypatch, build):
    monkeypatch.setattr(onnx.checker, "check_model", lambda _: None)
    path = saved(tmp_path / "net.onnx", build, {"output0": (CELLS, 9)})
    with pytest.raises(EngineError, match=r"net\.onnx: "):
        opened(path, {"output0": (CELLS, 9)})


def test_parts_whose_sizes_are_not_told_are_joined_by_onnx_runtime(tmp_path):
    def build(net, one, *parts):
        unknown = net.add("Compress", one, net.add("Cast", net.add("Shape", one), to=TensorProto.BOOL), axis=1)
        turned(net, joined(net, unknown, *parts))

    path = saved(tmp_path / "net.onnx", build, {"output0": (CELLS, 9)})
    engine = opened(path, {"output0": (CELLS, 9)})
    assert [value.name for value in engine._session.get_outputs()] == ["output0"]
    check_equal(engine, path, 1)


def test_columns_of_which_each_is_read_are_turned_by_onnx_runtime(tmp_path):
    build, shapes, *_ = ENDS["turned"]
    path = saved(tmp_path / "net.onnx", build, shapes)
    assert opened(path, shapes, layout="end2end").run(noise(1))["output0"].strides[2] > 4
    assert opened(path, shapes, layout="yolov8").run(noise(1))["output0"].strides[2] == 4


def usual(folder):
    build, shapes, *_ = ENDS["joined, then turned"]
    return saved(folder / "net.onnx", build, shapes), shapes


def test_a_large_file_is_not_copied(tmp_path, monkeypatch):
    path, shapes = usual(tmp_path)
    monkeypatch.setattr(_orttail, "LARGEST", path.stat().st_size - 1)
    assert len(opened(path, shapes)._session.get_outputs()) == 1
    monkeypatch.setattr(_orttail, "LARGEST", path.stat().st_size)
    assert len(opened(path, shapes)._session.get_outputs()) == 3


def test_axes_are_read_whether_they_are_packed_or_not(tmp_path):
    path, _ = usual(tmp_path)
    model = onnx.load(path)
    loose = model.SerializeToString()
    numbers = b"\x40\x00\x40\x02\x40\x01"  # three times field 8
    assert loose.count(numbers) == 1
    # a zero of two bytes, so that the message around them stays as long
    packed = loose.replace(numbers, b"\x42\x04\x80\x00\x02\x01", 1)
    one, other = (_orttail.without(memoryview(data), KINDS) for data in (loose, packed))
    assert one
    assert other
    assert one == other


def test_layers_are_those_of_what_runs(tmp_path):
    path, shapes = usual(tmp_path)
    # for ARM ONNX Runtime adds a Transpose of its own
    assert "Concat" not in {layer[2] for layer in opened(path, shapes).profile_layers(noise(1))}


def test_a_damaged_model_is_left_to_onnx_runtime(tmp_path):
    path, _ = usual(tmp_path)
    whole, chance = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: chance.integers(1, len(whole))] if chance.random() < 0.3 else whole)
        for place in chance.integers(0, len(data), 5):
            data[place] = chance.integers(256)
        path.write_bytes(data)
        found = _orttail.read(path, KINDS)
        assert found is None or isinstance(found[0], bytes)
