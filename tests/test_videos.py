"""Videos, cameras and pipelines: their frames, when each was captured, their ends, and what is refused of them."""

import contextlib
import itertools
import time
import types

import cv2
import numpy as np
import pytest

from edgeinfer import pictures, sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import gstreamer, opencv, videos
from helpers import bundles

IMAGE = bundles.picture("green", 48, 64)


def test_a_raw_video_of_jpegs_is_no_picture_although_it_begins_as_one(tmp_path):
    tmp_path.joinpath("raw.mjpeg").write_bytes(pictures.encode(IMAGE, ".jpg") * 7)
    found = list(sources.frames(tmp_path / "raw.mjpeg"))
    assert [frame.index for frame in found] == list(range(7))
    assert all(frame.fps for frame in found)


@pytest.fixture
def video(tmp_path):
    return bundles.video(tmp_path / "clip.avi", [IMAGE] * 4, 12.5)


def test_a_video_gives_its_frames_and_rate(video):
    frames = list(sources.frames(video))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert {frame.fps for frame in frames} == {12.5}
    assert [frame.shown_ns for frame in frames] == [0, 80_000_000, 160_000_000, 240_000_000]
    assert frames[0].image.shape == (48, 64, 3)


class Capture:
    """A double for cv2.VideoCapture: `count` black frames, and it knows whether it was released."""

    def __init__(self, count):
        self.left, self.released = count, False

    def __call__(self, *_):
        return self

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        return True, np.zeros((2, 2, 3), np.uint8)

    def release(self):
        self.released = True


def capture(monkeypatch, count):
    double = Capture(count)
    monkeypatch.setattr(cv2, "VideoCapture", double)
    return double


def read_at(monkeypatch, double, moments_ns):
    """The clock stands still but while a frame is waited for, until the next of these moments."""
    now_ns, moments, grab = [0], iter(moments_ns), double.grab

    def waiting():
        now_ns[:] = [next(moments)]
        return grab()

    double.grab = waiting
    for module in (videos, opencv):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic_ns=lambda: now_ns[0]))


def test_closing_the_iterator_releases_the_video(video, monkeypatch):
    double = capture(monkeypatch, 5)
    frames = sources.frames(video)
    next(frames)
    frames.close()
    assert double.released


def test_a_video_of_unknown_rate_gets_the_usual_one(video, monkeypatch):
    capture(monkeypatch, 1)
    assert [frame.fps for frame in sources.frames(video)] == [30.0]


def test_a_video_without_frames_is_an_error(video, monkeypatch):
    double = capture(monkeypatch, 0)
    with pytest.raises(SourceError, match=r"clip.avi has no frames that OpenCV can decode"):
        list(sources.frames(video))
    assert double.released


def test_a_video_above_the_limit_on_pixels_is_refused(video):
    with pytest.raises(SourceError, match=r"clip.avi has 64x48 pixels, more than the 0.001 million allowed"):
        list(sources.frames(video, max_pixels=1000))


def test_a_stream_that_grows_above_the_limit_on_pixels_is_refused(monkeypatch):
    double = capture(monkeypatch, 5)  # which tells of no size when it is opened
    with pytest.raises(SourceError, match=r"cam/1 has 2x2 pixels, more than the 3e-06 million allowed"):
        list(sources.frames("rtsp://cam/1", max_pixels=3))
    assert double.released


@pytest.mark.parametrize(("pixels", "rows"), [("bgr", 48), ("nv12", 72)])
def test_the_limit_on_pixels_and_a_plausible_rate_hold_for_pipelines(monkeypatch, pixels, rows):
    @contextlib.contextmanager
    def playing(*_):
        image = np.zeros((rows, 64, 3)[: 3 if pixels == "bgr" else 2], np.uint8)
        told = {"frames": lambda _: iter([(image, pixels, 1, 0)]), "rate": lambda: 90_000.0, "live": False}
        yield types.SimpleNamespace(**told)

    monkeypatch.setattr(gstreamer, "available", lambda: True)
    monkeypatch.setattr(gstreamer, "playing", playing)
    assert [frame.fps for frame in sources.frames("gst:it", max_pixels=48 * 64)] == [30.0]
    with pytest.raises(SourceError, match=r"gst:it has 64x48 pixels, more than"):
        list(sources.frames("gst:it", max_pixels=48 * 64 - 1))


@pytest.mark.parametrize(
    ("told", "meant"), [(25.0, 25.0), (240.0, 240.0), (1000.0, 30.0), (90_000.0, 30.0), (0.0, 30.0), (-1.0, 30.0)]
)
def test_the_ticks_of_a_clock_are_not_taken_for_a_rate(told, meant):
    assert opencv.plausible(told) == meant


def test_a_stream_that_stops_is_an_error_and_its_password_stays_secret(monkeypatch):
    capture(monkeypatch, 2)
    with pytest.raises(SourceError) as caught:
        list(sources.frames("rtsp://me:secret@cam/1"))
    assert str(caught.value) == "rtsp://cam/1 stopped after 2 frames"


def test_frames_of_a_stream_that_lay_in_a_buffer_are_not_called_new_and_those_of_a_file_are(video, monkeypatch):
    reads_ns = [*(place * 33_000_000 for place in range(1, 11)), 1_900_000_000, 1_901_000_000]

    def captured_ns(source):
        read_at(monkeypatch, capture(monkeypatch, len(reads_ns)), [*reads_ns, 0])
        with contextlib.suppress(SourceError):  # of a stream that has ended
            for frame in sources.frames(source):
                yield frame.captured_ns

    assert list(captured_ns(video)) == reads_ns
    found = list(captured_ns("rtsp://cam/1"))
    assert found[:10] == reads_ns[:10]
    # as if they had come in time after the tenth
    assert [round((late - found[9]) / 33e6) for late in found[10:]] == [1, 2]


@pytest.mark.parametrize("live", [True, False])
def test_what_gathered_while_the_network_of_a_pipeline_stood_still_is_not_called_new(monkeypatch, live):
    told_ms = [*range(33, 330, 33), 1830, 1831, 1832]

    @contextlib.contextmanager
    def playing(*_):
        found = [(np.zeros((48, 64, 3), np.uint8), "bgr", moment * 1_000_000, 0) for moment in told_ms]
        yield types.SimpleNamespace(frames=lambda _: iter(found), rate=lambda: 30.0, live=live)

    monkeypatch.setattr(gstreamer, "available", lambda: True)
    monkeypatch.setattr(gstreamer, "playing", playing)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    late_ms = [
        told - frame.captured_ns / 1e6
        for told, frame in zip(told_ms, sources.frames("gst:it num-buffers=12"), strict=True)
    ]
    assert late_ms[:9] == [0] * 9
    assert [late > 1300 for late in late_ms[9:]] == [live] * 3


@pytest.mark.parametrize(("source", "apart_ms"), [("rtsp://cam/1", 33), ("http://cam/1.mjpg", 50)])
def test_a_stream_that_is_read_more_slowly_than_it_comes_is_as_old_as_it_says(monkeypatch, source, apart_ms):
    """Of motion JPEG the frames are numbered, which says nothing."""
    made_ms, double = itertools.count(1000, 33), capture(monkeypatch, 30)
    read_at(monkeypatch, double, itertools.count(50_000_000, 50_000_000))
    double.get = lambda what: next(made_ms) if what == cv2.CAP_PROP_POS_MSEC else 0.0
    captured = []
    with pytest.raises(SourceError, match="stopped after 30 frames"):
        captured.extend(frame.captured_ns for frame in sources.frames(source))
    assert captured[-1] - captured[0] == pytest.approx(29e6 * apart_ms, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "own", "threads"), [("stream", None, 1), ("stream", "4", None), ("video", None, None)]
)
def test_one_thread_decodes_a_stream_for_each_more_would_keep_a_picture_back(monkeypatch, kind, own, threads):
    double, asked = Capture(3), []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *how: asked.append(how) or double)
    monkeypatch.setattr(sources, "on_web", lambda _: kind)
    monkeypatch.setenv(opencv.THREADS, own or "")
    if not own:
        monkeypatch.delenv(opencv.THREADS)
    with contextlib.suppress(SourceError):  # of a stream that has ended
        list(sources.frames("http://cam/1"))
    ((_, _, how),) = asked
    assert dict(zip(how[::2], how[1::2], strict=True)).get(cv2.CAP_PROP_N_THREADS) == threads


def test_a_file_that_opencvs_gstreamer_reads_comes_to_its_end(monkeypatch):
    monkeypatch.setattr(gstreamer, "fault", lambda: "PyGObject is not here")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GStreamer: YES")
    capture(monkeypatch, 3)
    assert [frame.index for frame in sources.frames("gst:filesrc location=clip.mp4 ! decodebin ! appsink")] == [0, 1, 2]


def test_a_video_that_was_cut_short_is_told(video, caplog):
    list(sources.frames(video))
    assert caplog.text == ""
    data = video.read_bytes()
    video.write_bytes(data[: data.rindex(b"00dc", 0, data.index(b"idx1"))])
    assert 1 <= len(list(sources.frames(video))) < 4
    assert f"{video} ends after 3 of the 4 frames it tells of: it may be cut short" in caplog.text


@pytest.mark.parametrize(("changes", "told"), [(False, "shows the same picture 30 times"), (True, "")])
def test_a_video_whose_pictures_are_all_the_same_is_told(tmp_path, caplog, changes, told):
    """As OpenCV gives interlaced ones from 4.13 on."""
    shown = [IMAGE] * 29 + [255 - IMAGE if changes else IMAGE]
    assert len(list(sources.frames(bundles.video(tmp_path / "clip.avi", shown, 25)))) == 30
    assert (told in caplog.text) if told else not caplog.text


def test_a_video_whose_frames_have_no_rate_of_their_own_is_not_called_cut_short(video, monkeypatch, caplog):
    double = capture(monkeypatch, 10)
    told = {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: 300.0}
    double.get = lambda what: 1000.0 * (9 - double.left) if what == cv2.CAP_PROP_POS_MSEC else told.get(what, 0.0)
    assert [frame.shown_ns // 10**9 for frame in sources.frames(video)] == list(range(10))
    assert "cut short" in caplog.text
    caplog.clear()
    told[cv2.CAP_PROP_FPS] = 32.0  # nine seconds are more than 0.95 of what it tells of now
    double.left = 10
    assert len(list(sources.frames(video))) == 10
    assert caplog.text == ""


def test_a_pipeline_that_fails_while_it_is_asked_for_its_end_has_failed():
    """As an element does: it says so on the bus, and ends its stream."""
    said = []

    def ended(_):
        error = types.SimpleNamespace(message="it broke")
        said.append(
            types.SimpleNamespace(parse_error=lambda: (error, ""), src=types.SimpleNamespace(get_name=lambda: "src"))
        )
        return True

    playing = object.__new__(gstreamer.Playing)
    playing._shown, playing._gst = "gst:x", types.SimpleNamespace(MessageType=types.SimpleNamespace(ERROR=2))
    playing._sink = types.SimpleNamespace(emit=lambda *_: None, get_property=ended)
    playing._bus = types.SimpleNamespace(pop_filtered=lambda _: said.pop() if said else None)
    with pytest.raises(SourceError, match="src: it broke"):
        list(playing.frames(100_000))
