"""Pictures and videos on web servers: told from cameras, read once, within limits, and without their passwords."""

import base64
import json
import threading

import cv2
import numpy as np
import pytest

import edgeinfer
from edgeinfer import cli, sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import opencv, remote
from edgeinfer.streams import Stream
from helpers import bundles
from helpers.camera import camera
from helpers.patience import LONG_S, until
from helpers.webfiles import site

JPEG = cv2.imencode(".jpg", bundles.picture("green", 48, 64))[1].tobytes()


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """However slow the machine is, the server's answer is waited for; and a port may have had another server."""
    monkeypatch.setattr(remote, "PATIENCE_S", LONG_S)
    monkeypatch.setattr(opencv, "OPEN_MS", 1000 * LONG_S)
    monkeypatch.setattr(opencv, "READ_MS", 1000 * LONG_S)
    remote._told.cache_clear()
    yield
    remote._told.cache_clear()


@pytest.fixture
def web():
    with site() as opened:
        yield opened


@pytest.fixture
def clip(tmp_path):
    """A video of five frames."""
    return bundles.video(tmp_path / "clip.avi", [bundles.picture("green", 48, 64)] * 5).read_bytes()


@pytest.mark.parametrize(
    ("path", "told", "length", "kind"),
    [
        ("/snapshot?id=7", "image/jpeg", "10", "picture"),
        ("/snapshot", "image/png", None, "picture"),
        ("/a.JPG", None, "10", "picture"),
        ("/a.png?v=2", "application/octet-stream", None, "picture"),
        ("/a.mp4", "application/octet-stream", "10", "video"),
        ("/get/3", "video/mp4", "10", "video"),
        ("/live", "video/mp2t", None, "stream"),
        ("/a.mp4", None, None, "stream"),
        ("/a.jpg", "video/x-motion-jpeg", None, "stream"),
        ("/a.jpg", "multipart/x-mixed-replace; boundary=x", None, "stream"),
        ("/axis/video.cgi", "multipart/x-mixed-replace;boundary=--x", "10", "stream"),
        ("/list", "application/vnd.apple.mpegurl", "10", "stream"),
        ("/", "text/html", "10", "stream"),
    ],
)
def test_the_server_or_the_path_tells_pictures_and_videos_from_streams(web, path, told, length, kind):
    assert remote.kind(web.put(path, b"x" * 10, content_type=told, content_length=length)) == kind


@pytest.mark.parametrize("path", ["/stream.mjpg", "/list.m3u8?token=1", "/no.jpg"])
def test_a_stream_by_its_name_and_what_is_not_there_are_no_files(web, path):
    assert remote.kind(f"http://{web.host}{path}") == "stream"
    assert len(web.asked) == (path == "/no.jpg")


@pytest.mark.parametrize(
    "address", ["http://[::1/x.jpg", "http://127.0.0.1:99999/x.jpg", "http:///x.jpg", "http://a b/"]
)
def test_an_address_that_is_none_is_no_file(address):
    assert remote.kind(address) == "stream"


def test_a_picture_is_one_frame_under_its_address_without_the_password(web):
    address = web.put("/a.jpg", JPEG, content_type="image/jpeg")
    (frame,) = sources.frames(address.replace("//", "//me:p%40ss@"))
    assert (frame.source, frame.index, frame.fps, frame.image.shape) == (address, 0, 0.0, (48, 64, 3))
    told = f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert web.asked == [("/a.jpg", told)] * 2


def test_a_password_goes_to_no_other_host(web):
    with site() as other:
        there = other.put("/b.jpg", JPEG, content_type="image/jpeg")
        address = web.put("/a.jpg", b"", location=there).replace("//", "//me:secret@")
        assert len(list(sources.frames(address))) == 1
        assert [told for _, told in web.asked] == [f"Basic {base64.b64encode(b'me:secret').decode()}"] * 2
        assert other.asked == [("/b.jpg", None)] * 2


def test_a_run_of_web_addresses_ends_and_keeps_what_it_saw(detector, web, clip, tmp_path, capsys):
    picture = web.put("/street.jpg?size=2", JPEG, content_type="image/jpeg")
    film = web.put("/clip.avi", clip, content_type="video/x-msvideo")
    words = [detector, picture, film, "--save", tmp_path / "out", "--json", tmp_path / "r.jsonl", "--conf", 0.1]
    assert cli.main(["run", *map(str, words)]) == 0
    assert "6 pictures, 0 errors" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [(one["source"], one["index"]) for one in records] == [(picture, 0), *((film, index) for index in range(5))]
    assert [one for one in records if "freshness" in one] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.mp4", "street.jpg"]
    assert len(list(sources.frames(tmp_path / "out/clip.mp4"))) == 5


def test_a_file_beside_a_camera_comes_to_its_end(detector, web):
    address = web.put("/a.jpg", JPEG, content_type="image/jpeg")
    with camera() as opened, edgeinfer.load(detector) as model, Stream([opened.address, address], model) as seen:
        found = iter(seen)
        first = until(lambda: (one := next(found)).frame.source == address and one)
        assert (first.live, seen.live) == (False, True)
        assert until(lambda: seen.vitals()[address].health().well)
        assert len([path for path, _ in web.asked if path == "/a.jpg"]) == 2


def test_a_stream_is_there_before_the_web_server_has_answered_and_knows_then_that_it_is_a_file(detector, web, clip):
    answer = threading.Event()

    class Late(dict):
        def get(self, *args):
            answer.wait(LONG_S)
            return super().get(*args)

    web.pages = Late()
    address = web.put("/clip", clip, content_type="video/x-msvideo")
    with edgeinfer.load(detector) as model, Stream([address], model) as seen:
        assert seen.live
        answer.set()
        assert [one.live for one in seen] == [False] * 5
        assert not seen.live


def test_whoever_waits_for_cameras_is_told_of_a_file(detector, web):
    address = web.put("/a.jpg", JPEG, content_type="image/jpeg")
    given = address.replace("//", "//me:secret@")
    with edgeinfer.load(detector) as model, Stream([given], model, patient=True) as seen:
        told = until(lambda: (health := seen.health()[given]).reason.startswith("http") and health.reason)
    assert told == f"{address} is a picture, no camera or stream; trying again"
    assert {path for path, _ in web.asked} == {"/a.jpg"}


def test_a_camera_that_shows_a_picture_while_it_starts_is_followed_later(detector, web):
    with camera() as opened, edgeinfer.load(detector) as model:
        address = web.put("/live", JPEG, content_type="image/jpeg")
        with Stream([address], model, patient=True) as seen:
            assert until(lambda: "is a picture" in seen.health()[address].reason)
            web.put("/live", b"", location=opened.address)
            assert next(iter(seen)).live


@pytest.mark.parametrize(
    ("page", "limits", "told"),
    [
        ({"body": JPEG}, {"MOST": 100}, "is more than 0 MiB, or takes more than 60 s"),
        ({"body": JPEG}, {"FETCH_S": -1}, "is more than 128 MiB, or takes more than -1 s"),
        ({"body": JPEG, "content_length": str(len(JPEG) + 1)}, {}, f"broke off after {len(JPEG)} bytes"),
        ({"body": b"<html>", "content_type": "text/html"}, {}, "is not a picture"),
        ({"body": JPEG[:-9]}, {}, "is truncated: its end is missing"),
        ({"body": b""}, {}, "is empty"),
    ],
)
def test_a_picture_that_cannot_be_had_within_the_limits_is_refused(web, monkeypatch, page, limits, told):
    for name, value in limits.items():
        monkeypatch.setattr(remote, name, value)
    address = web.put("/a.jpg", **page)
    with pytest.raises(SourceError) as caught:
        list(sources.frames(address.replace("//", "//me:secret@")))
    assert str(caught.value) == f"{address} {told}"


@pytest.mark.parametrize("film", [False, True])
def test_the_limit_of_pixels_holds_on_the_web(web, clip, film):
    kind = "video/x-msvideo" if film else "image/jpeg"
    address = web.put("/a", clip if film else JPEG, content_type=kind)
    with pytest.raises(SourceError, match=r"has 64x48 pixels, more than the 0\.003 million allowed"):
        list(sources.frames(address, max_pixels=3000))


def test_a_picture_that_is_taken_away_is_told(web):
    address = web.put("/a.jpg", JPEG, content_type="image/jpeg")
    assert sources.on_web(address) == "picture"
    web.pages.clear()
    with pytest.raises(SourceError, match=r"/a\.jpg cannot be read: the server says 404"):
        list(sources.frames(address))


def test_a_picture_of_the_web_is_the_one_that_was_put_there(web):
    address = web.put("/a.png", bundles.png("blue"), content_type="image/png")
    (frame,) = sources.frames(address)
    assert np.array_equal(frame.image, bundles.picture("blue"))
