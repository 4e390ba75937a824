"""Bundles are opened with suspicion."""

import json

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeinfer import onnxfile
from edgeinfer.bundle import Bundle
from edgeinfer.errors import BundleError, EdgeInferError
from helpers.nobody import nobody


def test_a_good_bundle_opens_and_verifies(detector):
    bundle = Bundle.open(detector)

    bundle.verify()
    assert bundle.spec.name == "colors-detect"


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "does not exist"), ("file", "is a file"), ("empty", "holds no")]
)
def test_what_is_not_a_bundle_is_refused_with_the_command_that_makes_one(tmp_path, name, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()

    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(tmp_path / name)
    assert caught.value.hint == "make one: edgeinfer export CHECKPOINT -o DIR"


def test_who_names_something_near_a_bundle_is_told_the_bundle(detector, tmp_path):
    checkpoint, archive, spaced = (tmp_path / name for name in ("yolov5s.pt", "yolov5s.tar.gz", "my yolov5s.pt"))
    for file in (checkpoint, archive, spaced):
        file.write_text("x")
    for path, hint in (
        (detector / "model.fp32.onnx", f"give the folder: {detector}"),
        (detector.parent, f"give one of the bundles in it, such as {detector}"),
        (checkpoint, f"make one: edgeinfer export {checkpoint} -o DIR"),
        (spaced, f"make one: edgeinfer export '{spaced}' -o DIR"),
        (archive, "unpack it, and give the folder"),
        (f"{detector}@ov", f"@ is for edgeinfer compare alone: give {detector}, and --backend or --precision"),
    ):
        with pytest.raises(BundleError) as caught:
            Bundle.open(path)
        assert caught.value.hint == hint


def test_a_changed_artifact_is_refused(detector):
    path = detector / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(BundleError, match=r"model\.fp32\.onnx has sha256"):
        Bundle.open(detector).verify()


def test_a_missing_golden_image_is_refused(detector):
    (detector / "golden" / "0.png").unlink()

    with pytest.raises(BundleError, match=r"golden/0\.png is missing") as refused:
        Bundle.open(detector).verify()
    assert refused.value.hint == "export colors-detect again"


def test_a_link_out_of_the_bundle_is_refused(detector, tmp_path):
    outside = tmp_path / "outside.onnx"
    (detector / "model.fp32.onnx").rename(outside)
    (detector / "model.fp32.onnx").symlink_to(outside)

    with pytest.raises(BundleError, match="not a file inside the bundle") as refused:
        Bundle.open(detector).verify()
    assert refused.value.hint == "export colors-detect again"


def with_external_data(folder, location):
    """The detector's ONNX with one weight said to be in another file, its hash made right."""
    path = folder / "model.fp32.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    rewrite(folder, model.SerializeToString())


def rewrite(folder, data):
    (folder / "model.fp32.onnx").write_bytes(data)
    spec = json.loads((folder / "model.json").read_text())
    import hashlib

    spec["artifacts"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(spec))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "weights.bin"])
def test_onnx_that_keeps_its_weights_elsewhere_is_refused(detector, location):
    with_external_data(detector, location)

    with pytest.raises(BundleError, match="keeps weights in another file") as caught:
        Bundle.open(detector).verify()
    assert location in str(caught.value)


def external(name):
    tensor = numpy_helper.from_array(__import__("numpy").zeros(2, "float32"), name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"offset": "4096", "location": name, "length": "8"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(name):
    return onnx.SparseTensorProto(values=external(f"{name}-values.bin"), indices=external(f"{name}-indices.bin"))


def test_external_weights_are_found_in_attributes_subgraphs_and_functions(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=external("attribute.bin"))
    inner = helper.make_graph([constant], "inner", [], [], [external("subgraph.bin")])
    deeper = helper.make_graph([], "deeper", [], [], [external("list.bin")])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner, others=[deeper])
    function = helper.make_function(
        "d", "f", [], ["c"], [helper.make_node("Constant", [], ["c"], value=external("function.bin"))], []
    )
    graph = helper.make_graph([branch], "g", [], [], [external("top.bin")])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())

    found = onnxfile.external_files(tmp_path / "m.onnx")
    assert found == ["attribute.bin", "function.bin", "list.bin", "subgraph.bin", "top.bin"]


def test_external_weights_are_found_in_sparse_tensors_lists_and_defaults(tmp_path):
    node = helper.make_node("Constant", [], ["c"], alpha=0.5)
    node.attribute.add(name="tensors").tensors.append(external("list.bin"))
    node.attribute.add(name="one").sparse_tensor.CopyFrom(sparse("one"))
    node.attribute.add(name="many").sparse_tensors.append(sparse("many"))
    function = helper.make_function("d", "f", [], ["c"], [], [])
    function.attribute_proto.add(name="default").t.CopyFrom(external("default.bin"))
    graph = helper.make_graph([node], "g", [], [], sparse_initializer=[sparse("top")])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())

    pairs = [f"{name}-{part}.bin" for name in ("many", "one", "top") for part in ("indices", "values")]
    assert onnxfile.external_files(tmp_path / "m.onnx") == sorted(["default.bin", "list.bin", *pairs])


def test_a_tensor_that_says_it_is_in_the_file_itself_is(tmp_path):
    tensor = numpy_helper.from_array(__import__("numpy").zeros(2, "float32"), "x")
    tensor.data_location = onnx.TensorProto.DEFAULT
    (tmp_path / "m.onnx").write_bytes(
        helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    )

    assert onnxfile.external_files(tmp_path / "m.onnx") == []


def test_a_file_of_right_hash_that_is_no_onnx_is_refused(detector):
    rewrite(detector, (detector / "model.fp32.onnx").read_bytes()[:-1])

    with pytest.raises(BundleError, match=r"model\.fp32\.onnx is not an ONNX file"):
        Bundle.open(detector).verify()


def test_an_external_tensor_without_a_location_is_found_too(tmp_path):
    tensor = external("x")
    del tensor.external_data[:]
    (tmp_path / "m.onnx").write_bytes(
        helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    )

    assert onnxfile.external_files(tmp_path / "m.onnx") == [""]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    try:
        onnxfile.external_files(tmp_path / "m.onnx")
    except EdgeInferError as error:
        assert "is not an ONNX file" in str(error)


@pytest.mark.parametrize("closed", ["", "model.json", "model.fp32.onnx", "golden"])
def test_a_bundle_that_may_not_be_read_is_called_so(detector, closed):
    (detector / closed).chmod(0)
    try:
        with nobody(detector), pytest.raises(EdgeInferError, match="cannot be read: Permission denied") as refused:
            Bundle.open(detector).verify()
    finally:
        (detector / closed).chmod(0o755)
    assert "chmod" in refused.value.hint
