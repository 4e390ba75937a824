"""ONNX files that are damaged, keep weights elsewhere or hold what cannot run everywhere."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import EdgeInferError, ExportError
from edgeinfer.spec import Size
from edgeinfer_export import onnxsource
from edgeinfer_export.export import export
from edgeinfer_export.told import Told
from helpers import foreign
from helpers.foreign import refusal


def changed(change):
    model = foreign.yolov8()
    change(model)
    return model


def channels_last(model):
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", 1, [1, 64, 96, 3]))


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", 1, [1]))


def in_a_branch(model):
    inner = helper.make_graph(
        [helper.make_node("Mystery", [], ["y"], name="/deep/Mystery")],
        "then",
        [],
        [helper.make_empty_tensor_value_info("y")],
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))


def for_ever(model):
    """A loop of 2^62 rounds, which neither Ctrl-C nor SIGTERM would stop."""
    numbers = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9), ("more", 9))]
    body = helper.make_graph([helper.make_node("Identity", ["c"], ["more"])], "body", numbers[:2], numbers[2:])
    for name, value in (("rounds", np.int64(1 << 62)), ("going", np.bool_(True))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node.append(helper.make_node("Loop", ["rounds", "going"], [], name="/round", body=body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: setattr(model.graph.node[1], "domain", "com.acme"),
            "node /p8.conv is the operator Conv of com.acme",
        ),
        (
            lambda model: setattr(model.graph.node[1], "op_type", "EfficientNMS_TRT"),
            "node /p8.conv is the operator Eff",
        ),
        (in_a_branch, "node /deep/Mystery"),
        (for_ever, "node /round is a Loop"),
        (lambda model: setattr(model.opset_import[0], "version", 99), "opset 99"),
        (lambda model: setattr(model.opset_import[0], "version", 3), "opset 3"),
        (channels_last, "expected 3 channels first"),
        (second_input, "2 inputs (images, more)"),
        (lambda model: setattr(model.graph.node[1].attribute.add(), "name", "odd"), "ONNX Runtime cannot run it"),
        (lambda model: model.graph.ClearField("node"), "no graph"),
    ],
    ids=[
        "domain",
        "plugin",
        "branch",
        "loop",
        "new-opset",
        "old-opset",
        "channels-last",
        "two-inputs",
        "attribute",
        "empty",
    ],
)
def test_a_graph_that_cannot_run_everywhere_is_refused_by_name(tmp_path, change, message):
    assert message in refusal(tmp_path, changed(change))


WHOLE = foreign.yolov8().SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x00" * 64, b"<!DOCTYPE html>", WHOLE[:-40]),
        WHOLE + b"\x42\x02\x10\xff",  # one more opset, whose version is cut off
        WHOLE.replace(b"/p8.conv", b"/p8\xffconv"),  # a name that is not UTF-8
    ],
    ids=["empty", "zeros", "page", "cut", "opset", "name"],
)
def test_a_file_that_is_no_onnx_is_one_error_and_one_hint(tmp_path, capsys, content):
    (tmp_path / "model.onnx").write_bytes(content)

    assert main(["export", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    assert "model.onnx" in said[0]
    assert not (tmp_path / "out").exists()


def external(tmp_path, location):
    """A model whose weights lie in a file, and the file's place in the model changed afterwards."""
    folder = tmp_path / "in"
    folder.mkdir()
    model = foreign.yolov8()
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, folder / "model.onnx")
    stored = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(stored.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin"])
def test_weights_in_a_file_beside_the_onnx_are_put_inside(tmp_path, location):
    bundle = Bundle.open(export(external(tmp_path, location), tmp_path / "out"))

    assert len(list(bundle.path.glob("*.onnx*"))) == 1
    assert main(["verify", str(bundle.path)]) == 0


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "a/../../secret.bin"])
def test_weights_outside_the_folder_are_never_read(tmp_path, location):
    file = external(tmp_path, location)
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 100_000)
    (file.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    (file.parent / "a").mkdir()

    with pytest.raises(ExportError, match=rf"keeps weights in '{location}', which leads outside its folder"):
        export(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("location", ["absent.bin", "../absent.bin", "a\0b", ""])
def test_weights_that_are_not_there_are_named(tmp_path, location):
    with pytest.raises(ExportError) as caught:
        export(external(tmp_path, location), tmp_path / "out")
    assert f"keeps weights in {location!r}, which is not there" in str(caught.value)
    assert "beside" in caught.value.hint
    assert not (tmp_path / "out").exists()


GOOD = [
    model.SerializeToString()
    for model in (
        foreign.yolov5(2, size=(64, 64)),
        foreign.yolov8(2, size=("h", "w")),
        foreign.classifier(4, size=(64, 64)),
    )
]
DAMAGE = st.tuples(st.integers(0, 1 << 16), st.integers(0, 20), st.binary(max_size=5))


# the same files every time: a crash inside ONNX Runtime would end the whole test run
@settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(good=st.sampled_from(GOOD), damages=st.lists(DAMAGE, min_size=1, max_size=3))
def test_a_damaged_file_is_a_graph_or_our_error(tmp_path, capfd, good, damages):
    data = bytearray(good)
    for place, length, content in damages:
        at = place % len(data)
        data[at : at + length] = content
    (tmp_path / "model.onnx").write_bytes(data)
    try:
        onnxsource.build(tmp_path / "model.onnx", size=Size(64, 64), told=Told(normalize="unit"))
    except EdgeInferError as error:
        assert len(str(error)) < 900
    assert capfd.readouterr() == ("", "")


def test_a_name_cannot_steer_the_terminal(tmp_path, capsys):
    model = foreign.yolov8()
    model.graph.node[0].name, model.graph.node[0].domain = "\033[2J\007node", "com.acme"

    assert main(["export", str(foreign.save(model, tmp_path / "model.onnx")), "-o", str(tmp_path / "out")]) == 1
    assert "[2Jnode" in (said := capsys.readouterr().err)
    assert all(character.isprintable() or character == "\n" for character in said)
