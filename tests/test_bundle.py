"""Bundles: opened with suspicion, written all or nothing."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeinfer import bundle as bundle_module
from edgeinfer import onnxfile
from edgeinfer.bundle import Bundle, writing
from edgeinfer.errors import BundleError, EdgeInferError
from helpers.nobody import nobody
from helpers.patience import until


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
    checkpoint, archive = tmp_path / "yolov5s.pt", tmp_path / "yolov5s.tar.gz"
    checkpoint.write_text("x")
    archive.write_text("x")
    for path, hint in (
        (detector / "model.fp32.onnx", f"give the folder: {detector}"),
        (detector.parent, f"give one of the bundles in it, such as {detector}"),
        (checkpoint, f"make one: edgeinfer export {checkpoint} -o DIR"),
        (archive, "unpack it, and give the folder"),
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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_leaves_no_file_open(detector, dead):
    for _ in range(3):
        (detector.parent / f".detector.{dead}.0123abcd").mkdir()
        with writing(detector) as fresh:
            (fresh / "model.json").touch()
    opened = map(os.path.realpath, Path("/proc/self/fd").iterdir())
    assert not [path for path in opened if path.startswith(str(detector.parent))]


def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(detector):
    before = names(detector)
    with pytest.raises(RuntimeError), writing(detector) as fresh:
        (fresh / "half").write_text("x")
        raise RuntimeError

    assert names(detector) == before
    assert names(detector.parent) == ["detector"]


class NoExchange:
    """A C library without renameat2."""

    def __init__(self, _):
        pass


@pytest.mark.parametrize("library", [bundle_module.ctypes.CDLL, NoExchange], ids=["exchange", "none"])
def test_a_write_replaces_the_whole_bundle(detector, monkeypatch, library):
    monkeypatch.setattr(bundle_module.ctypes, "CDLL", library)
    with writing(detector) as fresh:
        (fresh / "new").write_text("x")

    assert names(detector) == ["new"]
    assert names(detector.parent) == ["detector"]


def test_the_old_bundle_is_there_until_the_new_one_is(detector, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    if not bundle_module._exchange(tmp_path / "one", tmp_path / "two"):
        pytest.skip("this file system cannot exchange two folders")
    monkeypatch.setattr(Path, "rename", None)
    with writing(detector) as fresh:
        (fresh / "new").touch()
    assert names(detector) == ["new"]


def test_a_bundle_appears_where_it_was_meant_to_though_the_program_went_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with writing(Path("not/yet/there")) as fresh:
        (fresh / "model.json").touch()
        monkeypatch.chdir("/")
    assert names(tmp_path / "not/yet") == ["there"]


def test_a_place_that_no_bundle_can_take_is_refused_with_another_and_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name, message, hint in (
        ("file", "exists and is not a folder", "choose another -o DIR"),
        ("folder", "holds other files, but no model.json", "choose another -o DIR"),
        ("link", "is a link, which would be replaced", f"say -o {tmp_path / 'folder'}"),
        ("file/bundle", "cannot be written", "check free space and permissions, then run again"),
    ):
        with pytest.raises(BundleError, match=message) as refused, writing(tmp_path / name):
            pass
        assert refused.value.hint == hint
    assert names(tmp_path) == ["file", "folder", "link"]
    assert names(tmp_path / "folder") == ["thesis.tex"]


def test_an_empty_folder_becomes_the_bundle(tmp_path):
    with writing(tmp_path) as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == ["model.json"]


def test_all_of_a_bundle_is_on_the_disk_before_it_takes_its_place_and_the_place_after_that(tmp_path, monkeypatch):
    target, before, after = tmp_path / "bundle", set(), set()

    def fsync(handle):
        (after if target.exists() else before).add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    with writing(target) as fresh:
        (fresh / "golden").mkdir()
        (fresh / "golden" / "0.png").touch()
    assert before == {one.stat().st_ino for one in (target, target / "golden", target / "golden/0.png")}
    assert after == {tmp_path.stat().st_ino}


WRITER = """
import sys
from pathlib import Path
from edgeinfer.bundle import writing
while True:
    for text in ("old", "new"):
        with writing(Path(sys.argv[1])) as fresh:
            for part in ("model.json", "one", "two"):
                (fresh / part).write_text(text)
"""


def test_a_writer_killed_at_any_moment_leaves_one_whole_bundle(tmp_path):
    target = tmp_path / "bundle"
    chance = random.Random(7)
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        until(target.exists)
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len({(target / part).read_text() for part in ("model.json", "one", "two")}) == 1

    with writing(target) as fresh:
        (fresh / "model.json").write_text("last")
    assert names(tmp_path) == ["bundle"]
    assert os.listdir(target) == ["model.json"]


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_who_may_read_a_bundle_is_as_the_umask_has_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").write_text("{}")
    finally:
        os.umask(before)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "bundle" / "model.json").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.fixture
def dead():
    """The number of a process that is no more."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("name", ["bundle", "[b]*?"])
def test_what_a_dead_writer_left_goes_whatever_number_it_had(tmp_path, dead, name):
    for left in (f".{name}.{dead}.0123abcd", f".{name}.{os.getpid()}.4567cdef", f".{name}.{dead}.0123abcd-old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.json").touch()
    with writing(tmp_path / name) as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == [name]


def test_what_another_writes_is_left_though_its_number_is_nobodys_here(tmp_path, dead, monkeypatch):
    """As it is where containers share a folder."""
    monkeypatch.setattr(os, "getpid", lambda: dead)
    with writing(tmp_path / "bundle") as others:
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").write_text("ours")
        (others / "model.json").write_text("theirs")
    assert (tmp_path / "bundle" / "model.json").read_text() == "theirs"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_the_number_tells_who_lives(tmp_path, dead, monkeypatch, error):
    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)
    (tmp_path / f".bundle.{dead}.0123abcd").mkdir()
    with writing(tmp_path / "bundle") as others:
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").touch()
        assert names(tmp_path) == sorted([others.name, "bundle"])
        (others / "model.json").touch()


def test_hidden_folders_that_no_writer_made_stay(tmp_path, dead):
    kept = [
        f".bundle.{dead}.backup",
        f".bundle.{'9' * 20}.0123abcd",
        f".bundle.{dead}.0123abcd.old",
        f".bundle-2.{dead}.0123abcd",
        ".bundle.x.0123abcd",
    ]
    for name in kept:
        (tmp_path / name).mkdir()
    with writing(tmp_path / "bundle") as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == sorted([*kept, "bundle"])


def test_a_folder_that_the_system_holds_is_told_as_a_mount_point(tmp_path, monkeypatch):
    def busy(*_):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(bundle_module, "_put", busy)
    with pytest.raises(BundleError, match="is a mount point") as refused, writing(tmp_path / "bundle"):
        pass
    assert refused.value.hint == "choose a folder inside it"
    assert names(tmp_path) == []


@pytest.mark.parametrize("closed", ["", "model.json", "model.fp32.onnx", "golden"])
def test_a_bundle_that_may_not_be_read_is_called_so(detector, closed):
    (detector / closed).chmod(0)
    try:
        with nobody(detector), pytest.raises(EdgeInferError, match="cannot be read: Permission denied") as refused:
            Bundle.open(detector).verify()
    finally:
        (detector / closed).chmod(0o755)
    assert "chmod" in refused.value.hint
