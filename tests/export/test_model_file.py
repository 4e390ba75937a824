"""Models are written weight by weight, with the very bytes that protobuf gives."""

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer import protobuf
from edgeinfer.spec import Batch
from edgeinfer_export import graphs, modelfile, precision
from helpers import foreign, seeded


def same(model, path):
    modelfile.write(model, path)
    return path.read_bytes() == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["yolov5", "resnet-basic"])
def test_our_models_have_the_same_bytes(name, tmp_path):
    golden = seeded.Golden(name)
    one = graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 4))

    assert same(one.model, tmp_path / "fp32.onnx")
    assert same(precision.to_half(one.model).model, tmp_path / "fp16.onnx")


def test_models_of_other_tools_too(tmp_path):
    model = onnx.load(foreign.save(foreign.yolov8(batch="n"), tmp_path / "other.onnx"))
    model.graph.metadata_props.add(key="a", value="b")
    model.domain, model.model_version = "x.y", 3

    assert same(model, tmp_path / "written.onnx")
    assert same(onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="bare")), tmp_path / "bare.onnx")


@given(st.integers(0, 2**40))
def test_numbers_are_written_as_protobuf_writes_them(number):
    assert onnx.ModelProto(model_version=number).SerializeToString() in (b"", b"\x28" + protobuf._written(number))
    assert protobuf.varint(memoryview(protobuf._written(number)), 0, 9) == (number, len(protobuf._written(number)))
