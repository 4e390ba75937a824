"""Cameras that are lost, late, changed or not there yet: opened again, as often as it takes."""

import itertools
import time

import numpy as np
import pytest

from edgeinfer import sources
from edgeinfer.errors import SourceError
from edgeinfer.sources import answers, opencv
from edgeinfer.streams import stream
from helpers.camera import camera, frame
from helpers.patience import until


@pytest.fixture
def _patient_reading(monkeypatch):
    """A machine that is slow, or stands still for a while, loses no connection by it."""
    monkeypatch.setattr(opencv, "READ_MS", 60_000)
    monkeypatch.setattr(opencv, "OPEN_MS", 60_000)


@pytest.mark.usefixtures("_patient_reading")
def test_a_camera_that_comes_back_goes_on_with_rising_numbers(model):
    with camera() as opened, stream(opened.address, model) as seen:
        sights = iter(seen)
        before = [one.freshness.sequence for one in itertools.islice(sights, 3)]
        opened.stop()
        until(lambda: "trying again" in seen.health()[opened.address].reason)
        opened.start()
        after = [one.freshness.sequence for one in itertools.islice(sights, 3)]
        assert before + after == sorted({*before, *after})
        assert opened.connections == 2


class Cut:
    """An OpenCV capture whose network goes away after two pictures, while its decoder still holds two."""

    def __init__(self):
        self.now_ns, self.waits = 0, iter([33, 33, opencv.READ_MS, opencv.READ_MS])

    def monotonic_ns(self):
        return self.now_ns

    def grab(self):
        self.now_ns += 1_000_000 * next(self.waits)
        return True

    def get(self, _):
        return 0.0

    def retrieve(self):
        return True, np.zeros((48, 64, 3), np.uint8)


def test_what_a_decoder_kept_is_not_given_once_the_network_gave_nothing_in_time(monkeypatch):
    capture = Cut()
    monkeypatch.setattr(opencv, "time", capture)
    assert len(list(opencv.taken(capture, "a camera", 10_000, patience_ms=opencv.READ_MS))) == 2
    capture.waits = iter([opencv.READ_MS + 1])
    given = opencv.taken(capture, "a device", 10_000)  # it has no such limit
    assert next(given).read_ns == capture.now_ns


def test_a_lost_camera_that_cannot_be_connected_to_is_not_waited_for(model, monkeypatch):
    with camera() as opened, stream(opened.address, model) as seen:
        next(iter(seen))
        monkeypatch.setattr(opencv, "opened", None)  # would wait for it as long as FFmpeg does
        opened.stop()
        until(lambda: "cannot be reached" in seen.health()[opened.address].reason)


@pytest.mark.parametrize("source", ["camera:0", "gst:videotestsrc", "street.mp4"])
def test_only_what_has_a_server_is_asked_whether_it_is_there(source):
    answers.check(source, source)


def test_a_server_that_is_not_there_is_told_with_its_reason():
    with pytest.raises(SourceError, match=r"the gate cannot be reached: 127\.0\.0\.1:9: Connection refused"):
        answers.check("rtsp://127.0.0.1:9/camera", "the gate")


def test_a_camera_that_is_read_far_too_late_is_opened_again(model, monkeypatch):
    monkeypatch.setattr("edgeinfer.streams.capture.LATEST_S", 1e5)  # a machine may stand still for a while
    opened = []

    def frames(*_, **__):
        opened.append(len(opened))
        for place in range(20):
            late_ns = 10**15 if len(opened) == 1 else 0
            image = np.full((48, 64, 3), 10 * len(opened) + place, np.uint8)
            yield sources.Frame(image, "camera:0", place, time.monotonic_ns() - late_ns, 30.0)

    monkeypatch.setattr(sources, "frames", frames)
    with stream("camera:0", model) as seen:
        assert [one.freshness.sequence for one in seen][-1] < 32
        assert seen.vitals()["camera:0"].reconnects == 1


def test_a_camera_is_tried_again_and_again_however_long_it_is_away(model, monkeypatch):
    class Waits:
        def __len__(self):
            return 4

        def __getitem__(self, place):
            asked.append(place)
            return 0.0

    def frames(*_, **__):
        if len(asked) < 8:
            raise SourceError("it is away")
        yield sources.Frame(np.full((48, 64, 3), 90, np.uint8), "camera:0", 0, time.monotonic_ns(), 30.0)

    asked = []
    monkeypatch.setattr("edgeinfer.streams.capture.BACK_OFF_S", Waits())
    monkeypatch.setattr(sources, "frames", frames)
    with stream("camera:0", model, patient=True) as seen:
        assert next(iter(seen)).freshness.sequence == 0
    assert asked[:8] == [1, 2, 3, 3, 3, 3, 3, 3]


def test_a_camera_that_is_not_there_is_an_error(model):
    with stream("camera:97", model) as seen, pytest.raises(SourceError, match="/dev/video97"):
        list(seen)


def test_a_patient_stream_waits_for_a_camera(model):
    with camera() as opened:
        opened.stop()
        with stream(opened.address, model, patient=True) as seen:
            until(lambda: "trying again" in seen.health()[opened.address].reason)
            opened.start()
            assert next(iter(seen)).live


def test_a_camera_may_change_its_size(model):
    with camera(height=96, width=128) as opened, stream(opened.address, model) as seen:
        sights = iter(seen)
        assert next(sights).frame.image.shape == (96, 128, 3)
        opened.stop()
        opened.height, opened.width = 48, 64
        opened.start()
        assert next(sight for sight in itertools.islice(sights, 100) if sight.result.source.width == 64)


@pytest.mark.usefixtures("_patient_reading")
def test_a_camera_may_change_its_size_within_a_connection(model):
    with camera(height=96, width=128) as opened, stream(opened.address, model) as seen:
        sights = iter(seen)
        next(sights)
        opened.height, opened.width = 48, 64
        assert len(list(itertools.islice(sights, 20))) == 20
        assert opened.connections == 1


def test_a_stream_that_is_closed_is_not_called_lost(model, monkeypatch):
    def frames(*_, **__):
        for place in itertools.count():
            time.sleep(0.01)
            yield frame(place % 250)

    monkeypatch.setattr(sources, "frames", frames)
    with stream("camera:0", model, patient=True) as seen:
        next(iter(seen))
    until(lambda: seen.health()["camera:0"].well)


def test_a_patient_stream_opens_a_source_again_that_came_to_its_end(model, monkeypatch):
    opened = []

    def frames(*_, **__):
        opened.append(len(opened))
        yield from (frame(10 * len(opened) + place) for place in range(2))

    monkeypatch.setattr(sources, "frames", frames)
    with stream("gst:fakesrc", model) as seen:
        assert [one.freshness.sequence for one in seen][-1] == 1
        assert seen.health()["gst:fakesrc"].well
    opened.clear()
    with stream("gst:fakesrc", model, patient=True) as seen:
        sequences = [
            one.freshness.sequence for one in itertools.takewhile(lambda one: one.freshness.sequence < 6, seen)
        ]
        assert seen.vitals()["gst:fakesrc"].reconnects >= 2
    assert sequences == sorted(set(sequences))
