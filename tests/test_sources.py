"""Every kind of source gives frames, and every bad one a SourceError that says what is wrong with it."""

import os
import pathlib
import tracemalloc

import cv2
import numpy as np
import pytest

from edgeinfer import naming, pictures, sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import gstreamer
from edgeinfer.streams import Stream
from helpers import bundles
from helpers.nobody import nobody

IMAGE = bundles.picture("green", 48, 64)


@pytest.fixture
def folder(tmp_path):
    for name in ("b10.png", "b2.png", "A1.jpg"):
        tmp_path.joinpath(name).write_bytes(pictures.encode(IMAGE, name[-4:]))
    tmp_path.joinpath("notes.txt").write_text("not a picture")
    tmp_path.joinpath(".hidden.png").write_bytes(b"")
    return tmp_path


def names(frames):
    return [(pathlib.Path(frame.source).name, frame.index) for frame in frames]


def test_a_picture_is_one_frame(folder):
    (frame,) = sources.frames(folder / "b2.png")
    assert (frame.source, frame.index, frame.fps) == (str(folder / "b2.png"), 0, 0.0)
    assert np.array_equal(frame.image, IMAGE)
    assert frame.captured_ns > 0


def test_a_picture_takes_the_memory_of_its_own_file_and_not_of_the_largest(folder):
    sources.picture(folder / "b2.png")
    tracemalloc.start()
    try:
        sources.picture(folder / "b2.png")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_picture_is_known_by_its_content_not_its_suffix(folder):
    folder.joinpath("b2.png").rename(folder / "b2.mp4")
    assert names(sources.frames(folder / "b2.mp4")) == [("b2.mp4", 0)]


@pytest.mark.parametrize("address", ["rtmp://me:secret@10.0.0.5/live", "RTSP://10.0.0.5/main", "file:///clip.mp4"])
def test_an_address_of_another_kind_is_told_with_those_that_are_read(address):
    with pytest.raises(SourceError, match="is no address that is read") as caught:
        list(sources.frames(address))
    assert "rtsp://" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_folder_gives_its_pictures_in_natural_order(folder):
    assert names(sources.frames(folder)) == [("A1.jpg", 0), ("b2.png", 1), ("b10.png", 2)]


def test_capital_letters_do_not_come_first(folder):
    folder.joinpath("A1.jpg").rename(folder / "C1.jpg")
    assert names(sources.frames(folder)) == [("b2.png", 0), ("b10.png", 1), ("C1.jpg", 2)]


def test_a_pattern_gives_what_it_matches(folder):
    assert names(sources.frames(f"{folder}/b*.png")) == [("b2.png", 0), ("b10.png", 1)]


def test_brackets_in_a_file_name_are_not_a_pattern(folder):
    folder.joinpath("b2.png").rename(folder / "b[2].png")
    assert names(sources.frames(folder / "b[2].png")) == [("b[2].png", 0)]


def test_a_bad_picture_in_a_folder_is_reported_and_the_rest_goes_on(folder):
    folder.joinpath("b2.png").write_bytes(b"")
    errors = []
    assert names(sources.frames(folder, on_error=errors.append)) == [("A1.jpg", 0), ("b10.png", 2)]
    assert [str(error) for error in errors] == [f"{folder}/b2.png is empty"]


def test_a_bad_picture_in_a_folder_is_raised_unless_told_otherwise(folder):
    folder.joinpath("b2.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"b2.png is empty"):
        list(sources.frames(folder))


BAD = {
    "nothing.jpg": "does not exist",
    "notes.txt": "is not a picture",
    "empty.png": "is empty",
    "empty.mp4": "is empty",
    "broken.mp4": "cannot be opened by OpenCV",
    "pipe": "is not a regular file",
    "no-pictures": "has no pictures in it",
    "*.tiff": "matches no file",
    "a\0b": "cannot be read|does not exist",
}


@pytest.mark.parametrize(("name", "message"), BAD.items())
def test_a_bad_source_says_what_is_wrong(folder, name, message):
    for empty in ("empty.png", "empty.mp4"):
        folder.joinpath(empty).touch()
    folder.joinpath("broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    folder.joinpath("no-pictures").mkdir()
    os.mkfifo(folder / "pipe")
    with pytest.raises(SourceError, match=message) as caught:
        list(sources.frames(f"{folder}/{name}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "told"), [("", "an empty text"), (b"a", "bytes"), (None, "NoneType"), (0, "int")])
def test_what_names_no_source_is_refused_before_anything_is_read(folder, monkeypatch, given, told):
    monkeypatch.chdir(folder)  # whose pictures an empty path would be
    with pytest.raises(SourceError, match=f"not {told}(\n|$)"):
        next(sources.frames(given))
    with pytest.raises(SourceError, match=f"not {told}(\n|$)"):
        Stream([given], None)


def test_a_file_without_permission_says_so(folder):
    folder.joinpath("b2.png").chmod(0)
    with nobody(folder / "b2.png"), pytest.raises(SourceError, match=r"b2.png cannot be read: Permission denied"):
        list(sources.frames(folder / "b2.png"))


def test_a_read_that_the_system_refuses_says_so(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(SourceError, match=r"b2.png cannot be read: Permission denied") as caught:
        list(sources.frames(folder / "b2.png"))
    assert "permissions" in caught.value.hint


@pytest.mark.parametrize(
    ("pipeline", "live"),
    [
        ("filesrc location=clip.mp4 ! decodebin", False),
        ("multifilesrc location=%03d.jpg caps=image/jpeg,framerate=5/1 ! jpegdec", False),
        ("uridecodebin uri=file:///clip.mp4", False),
        ("multifilesrc location=clip.h264 loop=true ! h264parse ! avdec_h264", True),
        ("rtspsrc location=rtsp://10.0.0.5/main ! decodebin", True),
        ("v4l2src", True),
    ],
)
def test_a_pipeline_that_reads_files_is_no_camera(pipeline, live):
    assert sources.live(f"gst:{pipeline}") is live


def test_an_address_with_brackets_is_no_pattern():
    assert not sources.is_folder_or_pattern("rtsp://[::1]:8554/cam")
    assert not sources.is_folder_or_pattern("gst:rtspsrc location=rtsp://10.0.0.5/a*b ! decodebin")


def test_a_password_in_a_pipeline_is_not_shown():
    shown = naming.without_password('gst:rtspsrc location=rtsp://cam/1 user-id=me user-pw="a b" ! decodebin')
    assert shown == "gst:rtspsrc location=rtsp://cam/1 user-id=me user-pw=*** ! decodebin"


def test_a_password_with_an_at_sign_is_not_shown():
    assert naming.without_password("rtsp://me:p@ss@10.0.0.5/main?a=b@c") == "rtsp://10.0.0.5/main?a=b@c"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://cam/user=me_password=s3cret_channel=1.sdp?real", "rtsp://cam/user=me_password=***?real"),
        ("http://cam/video.cgi?user=me&pwd=s3cret&rate=5", "http://cam/video.cgi?user=me&pwd=***&rate=5"),
        ("http://cam/live.mjpg?access_token=s3cret", "http://cam/live.mjpg?access_token=***"),
        ("http://cam/pass/2?compass=3&token", "http://cam/pass/2?compass=3&token"),
    ],
)
def test_a_password_in_the_path_is_not_shown(address, shown):
    assert naming.without_password(address) == shown


@pytest.mark.parametrize("name", ["camera:front", "camera:", "camera:-1", "camera:²", "camera:" + "9" * 5000])
def test_a_camera_has_a_number(name):
    with pytest.raises(SourceError, match="is not a camera"):
        list(sources.frames(name))


def test_a_camera_that_is_not_there_says_so():
    with pytest.raises(SourceError, match="camera:97 is not there: no /dev/video97"):
        list(sources.frames("camera:97"))


def test_a_pipeline_needs_something_that_plays_it(monkeypatch):
    monkeypatch.setattr(gstreamer, "fault", lambda: "PyGObject is not here")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer:   NO")
    with pytest.raises(SourceError, match="needs PyGObject, or an OpenCV with GStreamer"):
        list(sources.frames("gst:videotestsrc ! appsink"))
