"""Checkpoints of real libraries (tests/golden/checkpoints) and hand-written ones become the same named tensors."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.errors import CheckpointError
from edgeinfer.spec import Size
from edgeinfer_export import checkpoint
from edgeinfer_export.modeltree import Module
from edgeinfer_export.torchfiles import LEGACY_MAGIC
from helpers.pickling import ORDERED, Call, Name, New, Raw, Tensor, Writer, archive, legacy, module, safetensors

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))["files"]
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(tmp_path, content, name="model.pt"):
    path = tmp_path / name
    path.write_bytes(content)
    return checkpoint.read(path)


def names(tmp_path, *stored, **top):
    root = {**top, "state_dict": {name: Tensor(WEIGHT) for name in stored}}
    return list(read(tmp_path, archive(root)).tensors)


@pytest.mark.parametrize("name", EXPECTED)
def test_real_files_give_what_their_library_says(name):
    found, expected = checkpoint.read(GOLDEN / name), EXPECTED[name]
    digests = {
        tensor: [
            str(array.dtype),
            list(array.shape),
            hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16],
        ]
        for tensor, array in found.tensors.items()
    }
    assert digests == expected["tensors"]
    if "safetensors" not in name:
        assert list(digests) == list(expected["tensors"])


@pytest.mark.parametrize("name", EXPECTED)
def test_real_files_give_their_facts(name):
    found, expected = checkpoint.read(GOLDEN / name), EXPECTED[name]
    assert found.labels == tuple(expected.get("labels", ()))
    assert found.strides == tuple(expected.get("strides", ()))
    assert found.ema == expected.get("ema", False)
    assert found.origin == expected.get("origin", "state dict")
    assert found.license.startswith(expected.get("license", ""))
    if "yaml" in expected:
        assert found.yaml == expected["yaml"]
    assert found.sha256 == hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest()


def test_yolo_files_bring_the_yaml_that_builds_them():
    found = checkpoint.read(GOLDEN / "ultralytics.pt")
    assert found.yaml["nc"] == 3
    assert found.yaml["head"][-1] == [[3], 1, "Detect", ["nc"]]


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"train_args": {"imgsz": 320}}, Size(320, 320)),
        ({"train_args": {"imgsz": [300, 640]}, "stride": [8, 16, 32]}, Size(320, 640)),
        ({"opt": {"imgsz": 320}}, None),  # YOLOv5 exports at 640, whatever it was trained at
        *(({"train_args": {"imgsz": odd}}, None) for odd in (0, -32, 10**9, 320.0, "320", [], [320, "x"], [1] * 3)),
        ({"train_args": {"imgsz": 320}, "stride": [99999]}, None),
        ({"train_args": [320]}, None),
    ],
)
def test_the_size_that_ultralytics_trained_at_is_read(tmp_path, told, size):
    file = tmp_path / "best.pt"
    file.write_bytes(archive({"state_dict": {"model.0.conv.weight": Tensor(WEIGHT)}, **told}))
    assert checkpoint.read(file).size == size


def test_tensors_are_views_of_the_file_and_cannot_be_written():
    found = checkpoint.read(GOLDEN / "yolov5-release.pt").tensors["model.0.conv.weight"]
    assert not found.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        found[:] = 0


@pytest.mark.parametrize("write", [archive, legacy])
def test_tensors_stay_as_they_were_when_the_file_is_written_over(tmp_path, write):
    found = read(tmp_path, write({"state_dict": {"model.0.conv.weight": Tensor(WEIGHT)}}))
    with found.path.open("r+b") as file:
        file.write(bytes(found.path.stat().st_size))
    assert found.tensors["model.0.conv.weight"].tolist() == WEIGHT.tolist()


@pytest.mark.parametrize("write", [archive, legacy])
def test_our_own_checkpoint(tmp_path, write):
    root = {
        "state_dict": {"model.0.conv.weight": Tensor(WEIGHT)},
        "yaml": {"nc": 2, "backbone": [[-1, 1, "Conv", [16, 6, 2, 2]]], "odd": [True, False, None, 0.5, 2**70, -300]},
        "names": {0: "person", 1: "bus"},
        "stride": [8, 16, 32],
        "license": "Apache-2.0",
    }
    found = read(tmp_path, write(root))
    assert found.tensors["model.0.conv.weight"].tolist() == WEIGHT.tolist()
    assert found.yaml == root["yaml"]
    assert (found.labels, found.strides, found.license) == (("person", "bus"), (8.0, 16.0, 32.0), "Apache-2.0")


@pytest.mark.parametrize("write", [archive, legacy])
def test_a_view_is_written_as_what_it_shows(tmp_path, write):
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {
        "turned.weight": wide.T,
        "thin.weight": wide[::2, 1::3],
        "back.weight": wide[::-1],
        "one.weight": wide[2, 3],
    }
    found = read(tmp_path, write({name: Tensor(view) for name, view in views.items()})).tensors
    assert {name: array.tolist() for name, array in found.items()} == {
        name: view.tolist() for name, view in views.items()
    }


@pytest.mark.parametrize("write", [archive, legacy])
def test_tensors_without_a_number_are_read_as_such(tmp_path, write):
    empty = {"x.weight": np.zeros((0, 3), np.float32), "y.weight": np.zeros(0, np.float16)}
    found = read(tmp_path, write({name: Tensor(array) for name, array in empty.items()})).tensors
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == {
        name: (one.shape, one.dtype) for name, one in empty.items()
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("order", ["little", "big", ""])
def test_both_byte_orders(tmp_path, dtype, order):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    found = read(tmp_path, archive({"x.weight": Tensor(array)}, order)).tensors["x.weight"]
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


def test_bfloat16_in_safetensors_becomes_float32(tmp_path):
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    found = read(tmp_path, safetensors(header, b"\x80\x3f\x49\xc0"), "x.safetensors").tensors["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [1.0, -3.140625]


def test_safetensors_whose_length_begins_like_a_pickle_is_read(tmp_path):
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    for padding in range(256):
        found = safetensors({**header, "__metadata__": {"pad": "x" * padding}}, b"\0\0\x80\x3f")
        if found[0] == 0x80:
            break
    assert found[0] == 0x80
    assert read(tmp_path, found, "x.safetensors").tensors["x"].tolist() == [1]


def test_safetensors_agrees_with_its_own_library():
    library = pytest.importorskip("safetensors.numpy")
    path = GOLDEN / "dtypes.safetensors"
    plain = {name: array for name, array in checkpoint.read(path).tensors.items() if "bfloat16" not in name}
    content = library.load(library.save(plain))
    assert {name: array.tolist() for name, array in content.items()} == {name: a.tolist() for name, a in plain.items()}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (["conv1.weight", "fc.bias"], ["conv1.weight", "fc.bias"]),
        (["module.conv1.weight", "module.fc.bias"], ["conv1.weight", "fc.bias"]),
        (["_orig_mod.module.conv1.weight"], ["conv1.weight"]),
        (["module._orig_mod.layer1.0.conv1.weight"], ["layer1.0.conv1.weight"]),
        (["model.conv1.weight", "model.fc.bias"], ["conv1.weight", "fc.bias"]),
        (["net.model.conv1.weight"], ["conv1.weight"]),
        (["model.0.conv.weight", "model.24.m.0.bias"], ["model.0.conv.weight", "model.24.m.0.bias"]),
        (["model.0.conv.weight", "model.anchors"], ["model.0.conv.weight", "model.anchors"]),
        (["module.model.0.conv.weight"], ["model.0.conv.weight"]),
        (["model.model.0.conv.weight"], ["model.0.conv.weight"]),
        (["0.conv.weight", "24.m.0.bias"], ["model.0.conv.weight", "model.24.m.0.bias"]),
        (["n_averaged", "module.fc.bias"], ["fc.bias"]),
        (["model.weight", "fc.bias"], ["model.weight", "fc.bias"]),
        (["backbone.conv1.weight", "backbone.fc.bias"], ["conv1.weight", "fc.bias"]),
        (["features.0.weight", "features.3.bias"], ["features.0.weight", "features.3.bias"]),
        (["1.conv1.weight", "1.fc.bias"], ["model.1.conv1.weight", "model.1.fc.bias"]),
    ],
)
def test_wrappers_leave_the_names(tmp_path, stored, expected):
    assert names(tmp_path, *stored) == expected


def test_lightning_brings_losses_that_are_left_out(tmp_path):
    top = {"pytorch-lightning_version": "2.2.0", "hyper_parameters": {"lr": 0.1}}
    stored = {name: Tensor(WEIGHT) for name in ("model.conv1.weight", "criterion.weight")}
    found = read(tmp_path, archive({"state_dict": stored, **top}))
    assert (list(found.tensors), found.beside) == (["conv1.weight"], ("criterion.weight",))


def test_two_tensors_may_not_become_one(tmp_path):
    with pytest.raises(CheckpointError, match="the same name"):
        names(tmp_path, "conv1.weight", "_orig_mod.conv1.weight")


@pytest.mark.parametrize("key", ["model", "model_state_dict", "net", "ema_state_dict", "model_ema"])
def test_the_model_is_found_under_many_names(tmp_path, key):
    found = read(tmp_path, archive({"epoch": 3, key: {"fc.weight": Tensor(WEIGHT)}, "optimizer": {"state": {}}}))
    assert list(found.tensors) == ["fc.weight"]
    assert found.ema == ("ema" in key)


def test_what_subclasses_of_dict_and_list_hold_is_read_or_passed_over(tmp_path):
    names, history = (Writer().opcodes(New(Name("train.config", kind))) for kind in ("Names", "History"))
    texts = [b"X\x03\0\0\0" + text for text in (b"bus", b"car")]
    root = {
        "names": Raw(names + b"(K\0" + texts[0] + b"uK\x01" + texts[1] + b"s"),
        "history": Raw(history + b"(K\x01K\x02eK\x03a"),
        "model": {"fc.weight": Tensor(WEIGHT)},
    }
    found = read(tmp_path, archive(root))
    assert (found.labels, list(found.tensors)) == (("bus", "car"), ["fc.weight"])


def test_averaged_weights_win_unless_they_are_none(tmp_path):
    model, averaged = {"fc.weight": Tensor(WEIGHT)}, {"fc.weight": Tensor(WEIGHT + 1)}
    both = read(tmp_path, archive({"model": model, "ema": {"module": averaged, "updates": 3}}))
    assert (both.ema, both.tensors["fc.weight"][0, 0]) == (True, 1)
    alone = read(tmp_path, archive({"model": model, "ema": None}))
    assert (alone.ema, alone.tensors["fc.weight"][0, 0]) == (False, 0)


def test_a_whole_model_gives_its_state_dict_in_order(tmp_path):
    conv = module("torch.nn.modules.conv.Conv2d", parameters={"weight": Tensor(WEIGHT), "bias": None})
    norm = module(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        buffers={"mean": Tensor(WEIGHT), "tmp": Tensor(WEIGHT)},
        hidden=["tmp"],
    )
    whole = module(
        "models.yolo.Model",
        parameters={"scale": Tensor(WEIGHT)},
        children={"model": module("torch.nn.modules.container.Sequential", children={"0": conv, "1": norm})},
        yaml={"nc": 1},
        names=["person"],
        stride=Tensor(np.array([8, 16], np.float32)),
    )
    found = read(tmp_path, archive({"model": whole}))
    assert list(found.tensors) == ["scale", "model.0.weight", "model.1.mean"]
    assert (found.origin, found.yaml, found.labels, found.strides) == (
        "models.yolo.Model",
        {"nc": 1},
        ("person",),
        (8, 16),
    )


def test_a_whole_model_says_what_its_layers_are(tmp_path):
    conv = module("torch.nn.modules.conv.Conv2d", parameters={"weight": Tensor(WEIGHT)}, stride=(2, 1), secret="no")
    leaky = module("torch.nn.modules.activation.LeakyReLU", negative_slope=0.1, inplace=True)
    block = module("models.common.Conv", children={"conv": conv, "act": leaky, "bn": None})
    whole = module("torch.nn.Sequential", children={"net": module("torch.nn.Sequential", children={"0": block})})
    found = read(tmp_path, archive(whole))
    assert list(found.tensors) == ["model.0.conv.weight"]
    assert found.modules == {
        "model.0.conv": Module("Conv2d", {"stride": [2, 1]}),
        "model.0.act": Module("LeakyReLU", {"negative_slope": 0.1}),
    }
    assert read(tmp_path, archive({"fc.weight": Tensor(WEIGHT)})).modules == {}


def test_a_wrapped_whole_model_is_unwrapped(tmp_path):
    inner = module(
        "models.yolo.Model", children={"model": module("torch.nn.Sequential", parameters={"0": Tensor(WEIGHT)})}
    )
    outer = module("torch.nn.parallel.distributed.DistributedDataParallel", children={"module": inner})
    found = read(tmp_path, archive(outer))
    assert (found.origin, list(found.tensors)) == ("models.yolo.Model", ["model.0"])


@pytest.mark.parametrize(("names", "stride"), [(7, 8), ({1: "bus"}, [8] * 99), (["bus", None], ["8"]), ({}, [0, -8])])
def test_facts_that_make_no_sense_are_left_out(tmp_path, names, stride):
    found = read(tmp_path, archive({"model": {"fc.weight": Tensor(WEIGHT)}, "names": names, "stride": stride}))
    assert (found.labels, found.strides) == ((), ())


def test_things_beside_the_model_are_only_remembered(tmp_path):
    numpy_scalar = Call(
        Name("numpy.core.multiarray", "scalar"), (Call(Name("numpy", "dtype"), ("f8", False, True)), "8")
    )
    top = {
        "best_fitness": numpy_scalar,
        "date": Call(Name("datetime", "datetime"), (2024, 1, 2)),
        "opt": Call(Name("argparse", "Namespace")),
        "path": Call(Name("pathlib", "PosixPath"), ("runs", "exp")),
        "slice": Call(Name("__builtin__", "slice"), (0, 1, None)),
        "size": Call(Name("torch", "Size"), ((1, 2),)),
        "device": Call(Name("torch", "device"), ("cpu",)),
        "dtype": Name("torch", "float16"),
        "callbacks": Call(Name("utils.callbacks", "make"), ()),
        "ordered": Call(Name("collections", "OrderedDict"), ([["a", 1]],)),
        # what hydra hands to Lightning
        "optimizer": Call(Name("functools", "partial"), (Name("torch.optim.adam", "Adam"),)),
        "hparams": Name("typing", "Any"),
        "range": Call(Name("__builtin__", "xrange"), (0, 3, 1)),
        "generator": Call(Name("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"), ()),
        # YOLOv5's segmenters keep their base class's forward
        "detect": Call(Name("builtins", "getattr"), (Name("models.yolo", "Detect"), "forward")),
    }
    assert names(tmp_path, "fc.weight", **top) == ["fc.weight"]


def test_a_subclass_of_tensor_is_the_tensor_that_it_is_made_from(tmp_path):
    storage = ("storage", Name("torch", "FloatStorage"), "0", "cpu", WEIGHT.size)
    plain = (Raw(Writer().opcodes(storage) + b"Q"), 0, (2, 3), (3, 1), False, Call(ORDERED))
    parts = (Name("torch._utils", "_rebuild_tensor_v2"), Name("fastai.torch_core", "TensorBase"), plain, {"seen": 3})
    made = Call(Name("torch._tensor", "_rebuild_from_type_v2"), parts)
    found = read(tmp_path, archive({"fc.weight": made}, storages={"data/0": WEIGHT.tobytes()}))
    np.testing.assert_array_equal(found.tensors["fc.weight"], WEIGHT)


def test_a_state_dict_made_from_pairs_as_python_2_wrote_it_is_read(tmp_path):
    pairs = [["fc.weight", Tensor(WEIGHT)], ("fc.bias", Tensor(WEIGHT[0]))]
    found = read(tmp_path, archive(Call(ORDERED, (pairs,)))).tensors
    assert {name: array.tolist() for name, array in found.items()} == {
        "fc.weight": WEIGHT.tolist(),
        "fc.bias": WEIGHT[0].tolist(),
    }


def test_an_object_of_an_empty_state_is_no_model(tmp_path):
    assert names(tmp_path, "fc.weight", ema=New(Name("m", "M"), ())) == ["fc.weight"]


def test_numbers_written_as_text_are_read_as_protocol_1_has_them(tmp_path):
    stored = {"x.weight": Tensor(WEIGHT), "trained": Raw(b"I01\n"), "seed": Raw(b"L1180591620717411303424L\n")}
    assert list(read(tmp_path, archive({"model": stored})).tensors) == ["x.weight"]
    magic, content = pickle.dumps(LEGACY_MAGIC, 2), legacy({"x.weight": Tensor(WEIGHT)})
    assert content.startswith(magic)
    old = read(tmp_path, pickle.dumps(LEGACY_MAGIC, 1) + content.removeprefix(magic))
    assert list(old.tensors) == ["x.weight"]


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "empty", "again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>not found</html>", "web page", "the file itself"),
        (b"\x00" * 257 + b"ustar\x0000", "tar archive", "unpack"),
        (b"\x08\x07onnx and so on", "no PyTorch or safetensors", ".pt"),
        (b"\x80\x02K\x01.", "plain pickle", "torch.save"),
        (archive({"epoch": 3}), "no weights in it, found the entries ['epoch']", "state_dict"),
        (archive([1, 2]), "no weights in it, found a list", "state_dict"),
        (archive({"x.weight": Tensor(WEIGHT)})[:-30], "cut off or damaged", "again"),
        (legacy({"x.weight": Tensor(WEIGHT)})[:-1], "24 bytes, 23 are left", "again"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, message, hint):
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith("model.pt: ")
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_a_torchscript_archive_is_named():
    with pytest.raises(CheckpointError, match="TorchScript"):
        checkpoint.read(GOLDEN / "scripted.pt")


def test_a_quantised_tensor_is_named(tmp_path):
    quantised = Call(Name("torch._utils", "_rebuild_qtensor"), (1, 2))
    with pytest.raises(CheckpointError, match="_rebuild_qtensor"):
        read(tmp_path, archive({"a": Tensor(WEIGHT), "b": quantised}))


@pytest.mark.parametrize(("where", "message"), [(".", "directory"), ("none.pt", "not there")])
def test_a_path_that_is_no_file_is_named(tmp_path, where, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.read(tmp_path / where)
    assert str(caught.value).startswith(f"{tmp_path / where} is ")


def test_a_bundle_is_told_from_a_checkpoint(tmp_path):
    (tmp_path / "model.json").touch()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(tmp_path)
    assert f"edgeinfer build {tmp_path} --compile" in caught.value.hint
