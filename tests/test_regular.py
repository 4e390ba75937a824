"""Pipes, sockets and devices among the files of a folder: named, and never waited for."""

import os
import shutil
import socket

import pytest

import edgeinfer
from edgeinfer import cache, cli, datasets, modeljson, plans, sources
from edgeinfer.bundle import Bundle, writing
from edgeinfer.errors import BundleError, DatasetError, EdgeInferError, SourceError
from helpers import bundles


def pipe(path):
    os.mkfifo(path)


def listener(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")  # of which there is no end


@pytest.fixture(params=[pipe, listener, device])
def put(request, tmp_path, monkeypatch):
    """Puts such a thing in this place, whose path may be too long for a socket's name."""

    def place(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        monkeypatch.chdir(path.parent)
        request.param(path.relative_to(path.parent))
        monkeypatch.chdir(tmp_path)
        return path

    return place


def test_a_plan_that_is_no_file_is_told_and_passed_over(detector, put, capsys):
    bundle = Bundle.open(detector)
    file = put(plans.path(bundle))
    with edgeinfer.load(detector) as model:
        assert model.plan == ""
    with pytest.raises(EdgeInferError, match="cannot be read: it is not a regular file") as caught:
        plans.read(bundle)
    assert "edgeinfer tune --forget" in caught.value.hint
    assert cli.main(["info", str(detector)]) == 0
    assert "plan: unreadable\n  not used: the plan " in capsys.readouterr().out
    choice = plans.Choice("ort", "model.fp32.onnx")
    with pytest.raises(OSError, match="not a regular file"):
        plans.write(plans.Plan(choice, "", "", 1.0, "", {}), bundle)
    assert plans.forget(bundle)
    assert not os.path.lexists(file)


def test_what_is_cached_in_no_file_is_not_cached(put):
    put(cache.path("verdicts", "a"))
    assert cache.read("verdicts", "a") is None
    assert cache.write("verdicts", "a", b"it")
    assert cache.read("verdicts", "a") == b"it"


def test_a_picture_that_is_no_file_is_left_out_of_a_folder(tmp_path, put):
    (tmp_path / "a.png").write_bytes(sources.pictures.encode(bundles.picture("red"), ".png"))
    strange, errors = put(tmp_path / "b.png"), []
    assert len(list(sources.frames(tmp_path, on_error=errors.append))) == 1
    for look in (sources.picture, sources.check):
        assert sources.readable([tmp_path / "a.png", strange], errors.append, look) == [tmp_path / "a.png"]
    first, *others = map(str, errors)
    assert first == f"{strange} is not a regular file"
    assert others == [f"{strange} cannot be read: it is not a regular file"] * 2


def test_notes_of_a_data_set_that_are_no_file_are_told(tmp_path, put, detector):
    put(tmp_path / "set" / "annotations.json")
    with pytest.raises(DatasetError, match=r"annotations\.json cannot be read: it is not a regular file"):
        datasets.read(tmp_path / "set", modeljson.read(detector / "model.json"))


@pytest.mark.parametrize("name", ["model.json", "model.fp32.onnx"])
def test_a_part_of_a_bundle_that_is_no_file_is_told(detector, tmp_path, put, name):
    folder = shutil.copytree(detector, tmp_path / "copy")
    put(folder / name)
    with pytest.raises(BundleError, match=r"holds no model\.json|is not a file inside the bundle"):
        Bundle.open(folder).verify()


def test_what_lies_in_or_beside_a_bundle_does_not_keep_it_from_being_written(tmp_path, put):
    put(tmp_path / f".made.{2**22 + 1}.0123abcd")  # as what a dead writer left is called
    with writing(tmp_path / "made", "mark") as folder:
        put(folder / "strange")
        (folder / "mark").touch()
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["mark", "strange"]


def test_a_camera_is_no_regular_file_and_is_told_how_it_is_named(put, tmp_path):
    with pytest.raises(SourceError, match="is not a regular file") as caught:
        list(sources.frames(put(tmp_path / "video0")))
    assert caught.value.hint == "a camera is camera:0"
