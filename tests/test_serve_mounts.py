"""Cameras as they are told to the service: names, sources, models, and passwords that nobody is shown."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from edgeinfer.errors import UsageError
from edgeinfer.serve.cameras import Cameras, Mount
from edgeinfer.serve.refusals import NOT_FOUND, UNAVAILABLE, Refusal
from edgeinfer.serve.watching import Watching
from helpers.patience import until
from helpers.service import service
from helpers.watching import state


def test_a_camera_is_named_with_its_source_and_perhaps_its_model():
    assert Mount.parse("door=rtsp://me:pass@10.0.0.5/a=b") == Mount("door", "rtsp://me:pass@10.0.0.5/a=b")
    assert Mount.parse("yard@yolov5s=camera:0") == Mount("yard", "camera:0", "yolov5s")


@pytest.mark.parametrize("text", ["camera:0", "=camera:0", "a b=camera:0", "door=", "../x=camera:0", "door=clip.mp4"])
def test_other_words_are_no_camera(text):
    with pytest.raises(UsageError, match="camera"):
        Mount.parse(text)


def test_words_that_are_no_camera_are_told_without_their_password():
    for text in (
        "rtsp://me:secret@10.0.0.5/x",
        "door@a b=rtsp://me:secret@10.0.0.5/x",
        "door=file://me:secret@10.0.0.5",
    ):
        with pytest.raises(UsageError) as told:
            Mount.parse(text)
        assert "secret" not in str(told.value)


def test_two_cameras_of_one_name_are_refused():
    with pytest.raises(UsageError, match="two cameras are called door"):
        Cameras([Mount("door", "camera:0"), Mount("door", "camera:1")])


def test_all_cameras_are_told_to_stop_before_one_is_waited_for(monkeypatch):
    told = []
    monkeypatch.setattr(Cameras, "__iter__", lambda _: iter(followed))
    followed = [
        SimpleNamespace(
            stop=lambda name=name: told.append(f"stop {name}"), end=lambda name=name: told.append(f"end {name}")
        )
        for name in ("door", "yard")
    ]
    asyncio.run(Cameras(()).close(asyncio.to_thread))
    assert told == ["stop door", "stop yard", "end door", "end yard"]


@pytest.mark.parametrize("handler", ["one", "health", "latest", "picture", "live"])
def test_a_camera_is_not_there_yet_while_the_service_starts(handler):
    watching = Watching(Cameras([Mount("door", "camera:0")]))
    for name, kind in (("door", UNAVAILABLE), ("yard", NOT_FOUND)):
        with pytest.raises(Refusal) as told:
            asyncio.run(getattr(watching, handler)(SimpleNamespace(path_params={"name": name}, query_params={})))
        assert told.value.kind == kind


def test_a_file_of_cameras_that_is_not_there_is_told(detector, tmp_path, unserved):
    code, _, said = unserved(detector, "--camera-file", tmp_path / "none")
    assert code == 2
    assert "cannot be read" in said


def test_a_file_of_cameras_may_begin_with_a_byte_order_mark(detector, tmp_path, unserved):
    (tmp_path / "cameras").write_text("# the door\ndoor=a.png\n", encoding="utf-8-sig")
    code, _, said = unserved(detector, "--camera-file", tmp_path / "cameras")
    assert code == 2
    assert "error: camera door: 'a.png' is no camera" in said


@pytest.mark.parametrize(("word", "told"), [("door@other", "'other' is not served"), ("door", "which model")])
def test_a_camera_needs_a_model_that_is_served(detector, classifier, unserved, word, told):
    code, _, said = unserved(detector, classifier, "--camera", f"{word}=camera:0")
    assert code == 2
    assert told in said
    assert "hint: --camera door@detector=..." in said


def test_a_password_is_not_shown(detector, tmp_path):
    (tmp_path / "cameras").write_text("# the door\n\ndoor=rtsp://me:secret@127.0.0.1:9/x\n")
    with service(detector, "--camera-file", tmp_path / "cameras") as running:
        until(lambda: "trying again" in state(running)["health"]["reason"])
        assert state(running)["source"] == "rtsp://127.0.0.1:9/x"
        assert "secret" not in json.dumps(state(running))
    assert "secret" not in running.log()
