"""Streams: freshness, order, fairness, health, and what happens when cameras misbehave."""

import contextlib
import dataclasses
import itertools
import re
import sys
import threading
import time
import types

import cv2
import numpy as np
import pytest

import edgeinfer
from edgeinfer import naming, sources
from edgeinfer.errors import SourceError, UsageError
from edgeinfer.sources import answers, opencv
from edgeinfer.streams import Stream, stream
from edgeinfer.streams.capture import STOP_S, Capture
from edgeinfer.streams.inbox import READ_AHEAD, Captured, Inbox
from edgeinfer.streams.vitals import Vitals
from helpers import bundles
from helpers.camera import camera

SOON_S = 60.0  # the longest a test waits for something that takes far less


@pytest.fixture
def model(detector):
    with edgeinfer.load(detector) as loaded:
        yield loaded


@pytest.fixture
def clip(tmp_path):
    """A video of forty frames that get brighter."""
    return bundles.video(tmp_path / "clip.avi", [np.full((48, 64, 3), place * 6, np.uint8) for place in range(40)])


def eventually(fact):
    """Whether it comes true before long."""
    end = time.monotonic() + SOON_S
    while time.monotonic() < end:
        if fact():
            return True
        time.sleep(0.01)
    return False


def frame(value=0, index=0, size=(48, 64)):
    return sources.Frame(np.full((*size, 3), value, np.uint8), "camera:0", index, time.monotonic_ns(), 30.0)


def captured(cam, sequence, *, live=True):
    return Captured(cam, frame(sequence), sequence, "", live)


@pytest.mark.parametrize("contexts", [1, 3])
def test_a_file_gives_every_frame_in_order(detector, clip, contexts):
    with edgeinfer.load(detector, contexts=contexts) as model, stream(clip, model) as seen:
        found = list(seen)
    assert [one.frame.index for one in found] == list(range(40))
    assert [round(one.frame.image.mean() / 6) for one in found] == list(range(40))
    assert [one.freshness.dropped for one in found] == [0] * 40


@pytest.mark.parametrize("contexts", [1, 3])
def test_whoever_leaves_a_file_and_comes_back_goes_on_where_he_was(detector, clip, contexts):
    with edgeinfer.load(detector, contexts=contexts) as model, stream(clip, model) as seen:
        found = [next(iter(seen)) for _ in range(12)] + list(itertools.islice(seen, 5)) + list(seen)
    assert [one.frame.index for one in found] == list(range(40))


def test_a_slow_reader_of_a_camera_gets_the_newest_frame_and_the_count_of_those_left(model):
    with camera(fps=50) as opened, stream(opened.address, model) as seen:
        vitals, found = seen.vitals()[opened.address], []
        for one in itertools.islice(seen, 6):
            found.append(one.freshness)
            # busy until so many more came; the next may have been under way by now, those between are left
            came = vitals.pictures
            assert eventually(lambda came=came: vitals.pictures >= came + 10)
    assert all(fresh.dropped >= 3 for fresh in found[2:])
    steps = [later.sequence - sooner.sequence for sooner, later in itertools.pairwise(found)]
    assert steps == [fresh.dropped + 1 for fresh in found[1:]]
    assert sorted(fresh.captured_ns for fresh in found) == [fresh.captured_ns for fresh in found]


def test_frames_that_lay_in_a_buffer_before_newer_ones_are_counted_and_left(model, monkeypatch):
    def frames(*_, **__):
        for place in range(30):
            yield dataclasses.replace(frame(8 * place), behind=0 < place < 29)
            time.sleep(0.005)  # in which the model could take it

    monkeypatch.setattr(sources, "frames", frames)
    with stream("camera:0", model) as seen:
        found = [one.freshness for one in seen]
    # the first one may have been replaced while it waited
    assert [fresh.sequence for fresh in found] in ([0, 29], [29])
    assert sum(fresh.dropped for fresh in found) == 30 - len(found)


def test_a_result_older_than_the_limit_is_not_given(detector, model, monkeypatch):
    batch = type(model).batch
    monkeypatch.setattr(type(model), "batch", lambda *args, **how: (time.sleep(0.15), batch(*args, **how))[1])
    with camera() as opened, stream(opened.address, model, max_age_ms=100) as seen:
        threading.Timer(1.0, seen.close).start()
        assert list(seen) == []
    with camera() as opened, stream(opened.address, model, max_age_ms=2000) as seen:
        assert next(iter(seen)).freshness.age_ms >= 150


def test_that_no_result_is_young_enough_is_told_once(model, monkeypatch, caplog):
    def frames(*_, **__):
        for place in range(250):
            old = dataclasses.replace(frame(place), captured_ns=time.monotonic_ns() - 2_000_000_000)
            yield dataclasses.replace(old, index=0)

    monkeypatch.setattr(sources, "frames", frames)
    with stream("camera:0", model, max_age_ms=1000) as seen:
        assert list(seen) == []
    (told,) = caplog.messages
    assert re.fullmatch(
        r"camera:0: no result of the last 100 pictures was younger than 1000 ms: this is \d+ ms old", told
    )


def test_frozen_pictures_are_never_given_again_and_turn_health_red(model):
    with camera() as opened, stream(opened.address, model) as seen:
        sights = iter(seen)
        next(sights)
        assert eventually(lambda: seen.health()[opened.address].color == "green")
        opened.mode = "frozen"

        def thaw():
            assert eventually(lambda: not seen.health()[opened.address].well)
            opened.mode = "moving"

        threading.Thread(target=thaw).start()
        # nothing moves in the frozen picture: it is given once, when it is new
        still = [one.frame.image.max() < 100 for one in itertools.islice(sights, 60)]
        assert sum(still) <= 1


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("frozen", "the same picture"), ("black", "black pictures"), ("silent", "no picture|.*trying again")],
)
def test_an_ill_camera_turns_red_and_green_again(model, mode, reason):
    with camera() as opened, stream(opened.address, model) as seen:
        reader = threading.Thread(target=lambda: [None for _ in seen])
        reader.start()
        assert eventually(lambda: seen.health()[opened.address].well)
        opened.mode = mode
        # what comes to a machine that stands still for a while is silence at first
        assert eventually(lambda: re.match(reason, seen.health()[opened.address].reason))
        assert not seen.health()[opened.address].well
        opened.mode = "moving"
        assert eventually(lambda: seen.health()[opened.address].well)
        seen.close()
        reader.join()


def test_a_frozen_picture_is_known_again_although_its_first_reader_drew_on_it():
    vitals, image = Vitals(), np.full((48, 64, 3), 90, np.uint8)
    assert vitals.saw(image, 1.0) == ""
    frozen = image.copy()
    cv2.rectangle(image, (8, 8), (24, 24), (0, 0, 255), 2)
    assert vitals.saw(frozen, 2.0) == "repeated"


def test_black_pictures_say_so(model):
    with camera() as opened:
        opened.mode = "black"
        with stream(opened.address, model) as seen:
            assert next(iter(seen)).freshness.fault == "black"


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
        assert eventually(lambda: "trying again" in seen.health()[opened.address].reason)
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
        assert eventually(lambda: "cannot be reached" in seen.health()[opened.address].reason)


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


def test_a_picture_above_the_limit_is_refused(model, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((10, 11, 3), np.uint8))
    with Stream([tmp_path / "wide.png"], model, max_pixels=110) as seen:
        assert len(list(seen)) == 1
    with (
        Stream([tmp_path / "wide.png"], model, max_pixels=109) as seen,
        pytest.raises(SourceError, match="has 11x10 pixels, more than the"),
    ):
        list(seen)


def test_a_camera_that_is_not_there_is_an_error(model):
    with stream("camera:97", model) as seen, pytest.raises(SourceError, match="/dev/video97"):
        list(seen)


def test_a_patient_stream_waits_for_a_camera(model):
    with camera() as opened:
        opened.stop()
        with stream(opened.address, model, patient=True) as seen:
            assert eventually(lambda: "trying again" in seen.health()[opened.address].reason)
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


def test_the_exception_of_a_signal_has_no_place_to_come_that_leaves_the_inbox_locked():
    def tracer(frame, event, _):
        if event == "return" and frame.f_code is threading.Condition.__enter__.__code__:
            raise KeyboardInterrupt
        return tracer

    inbox, before = Inbox(1), sys.gettrace()
    sys.settrace(tracer)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            inbox.take(1, lambda: True)
    finally:
        sys.settrace(before)
    assert not inbox._changed._is_owned()


def test_a_signals_handler_may_close_the_stream_whatever_it_interrupts(monkeypatch):
    began, goes_on = threading.Event(), threading.Event()

    class Model:
        group = contexts = 1

        def batch(self, images, **_):
            began.set()
            assert goes_on.wait(SOON_S)
            return [types.SimpleNamespace(timings_ms={})] * len(images)

    def interrupted(inbox, most, enough):
        def handled():
            if seen._running:  # the inbox is locked, and a call runs that has yet to tell it of its end
                assert began.wait(SOON_S)
                goes_on.set()
                seen.close()
            return enough()

        return take(inbox, most, handled)

    def frames(*_, **__):
        yield frame()
        assert goes_on.wait(SOON_S)

    take = Inbox.take
    monkeypatch.setattr(Inbox, "take", interrupted)
    monkeypatch.setattr(sources, "frames", frames)
    seen = Stream(["clip.avi"], Model())
    reader = threading.Thread(target=lambda: list(seen), daemon=True)
    reader.start()
    reader.join(SOON_S)
    assert not reader.is_alive()
    seen.close()


def test_closing_from_another_thread_ends_the_iteration(model):
    with camera() as opened, stream(opened.address, model) as seen:
        threading.Timer(0.3, seen.close).start()
        assert all(one.live for one in seen)


def test_a_stream_that_is_closed_is_not_called_lost(model, monkeypatch):
    def frames(*_, **__):
        for place in itertools.count():
            time.sleep(0.01)
            yield frame(place % 250)

    monkeypatch.setattr(sources, "frames", frames)
    with stream("camera:0", model, patient=True) as seen:
        next(iter(seen))
    assert eventually(lambda: seen.health()["camera:0"].well)


def test_closing_waits_for_many_sources_no_longer_than_for_one(model, monkeypatch):
    waited = []
    opened = Stream(["camera:97"] * 4, model)
    monkeypatch.setattr("edgeinfer.streams.time", types.SimpleNamespace(monotonic=lambda: sum(waited)))
    monkeypatch.setattr(Capture, "join", lambda _, timeout: waited.append(timeout))
    opened.close()
    assert waited == [STOP_S, 0, 0, 0]


def test_two_cameras_get_equal_turns(model, monkeypatch):
    batch = type(model).batch

    def busy(*given, **how):
        """Until both cameras have pictures that wait: one that was seen after another came after that was put in."""
        came = [one.pictures for one in vitals]
        assert eventually(lambda: all(one.pictures >= before + 2 for one, before in zip(vitals, came, strict=True)))
        return batch(*given, **how)

    with camera(fps=60) as one, camera(fps=60) as two, stream([one.address, two.address], model) as seen:
        vitals = [*seen.vitals().values()]
        monkeypatch.setattr(type(model), "batch", busy)
        next(sights := iter(seen))
        names = [sight.frame.source for sight in itertools.islice(sights, 1, 21)]
    assert names in ([one.address, two.address] * 10, [two.address, one.address] * 10)


def test_a_camera_that_is_given_twice_is_two_cameras(model, monkeypatch):
    black = itertools.cycle([True, False])

    def frames(name, **_):
        value = 0 if next(black) else 90
        while True:
            time.sleep(0.01)
            value ^= 1
            yield dataclasses.replace(frame(value), source=naming.without_password(name))

    monkeypatch.setattr(sources, "frames", frames)
    address = "rtsp://me:secret@10.0.0.1/door"
    with stream([address] * 2, model) as seen:
        sights = iter(seen)
        eventually(lambda: next(sights).freshness.fault and not all(one.well for one in seen.health().values()))
        shown = {one.frame.source for one in itertools.islice(sights, 40)}
        assert [*seen.health()] == [address, f"{address} (2)"]
        assert eventually(lambda: sorted(one.well for one in seen.health().values()) == [False, True])
    assert shown == {"rtsp://10.0.0.1/door", "rtsp://10.0.0.1/door (2)"}


def test_what_differs_in_its_password_alone_is_told_apart_without_it(model):
    users = [f"rtsp://{user}:secret@camera.invalid/main" for user in ("one", "two")]
    with stream([*users, "a.png", "a.png", "a.png (2)"], model) as seen:
        assert [*seen.health()] == [*users, "a.png", "a.png (2)", "a.png (2) (2)"]
        assert seen.names[:2] == ["rtsp://camera.invalid/main", "rtsp://camera.invalid/main (2)"]


def test_a_picture_and_a_folder_are_sources_too(model, tmp_path):
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), bundles.picture("red"))
    with stream([tmp_path / "a.png", tmp_path], model) as seen:
        assert sorted(one.frame.source for one in seen) == sorted(str(tmp_path / f"{n}.png") for n in ("a", "a", "b"))


def test_a_file_is_well_until_it_cannot_be_read(model, clip, tmp_path):
    with stream([clip, tmp_path / "no.png"], model) as seen:
        next(iter(seen))
        assert seen.health()[str(clip)].well
        assert eventually(lambda: "does not exist" in seen.health()[str(tmp_path / "no.png")].reason)


def test_a_stream_needs_a_source(model):
    with pytest.raises(UsageError, match="at least one source"):
        Stream([], model)


def test_a_library_that_fails_while_a_source_is_read_is_an_error_of_that_source(model, clip, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: 1 / 0)
    with (
        stream(clip, model) as seen,
        pytest.raises(SourceError, match="reading it failed: ZeroDivisionError") as caught,
    ):
        list(seen)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_error_of_the_model_reaches_the_caller(model, clip, monkeypatch):
    monkeypatch.setattr(type(model), "batch", lambda *_, **__: 1 / 0)
    with stream(clip, model) as seen, pytest.raises(ZeroDivisionError):
        list(seen)


def test_the_newest_frame_of_a_camera_replaces_the_one_that_waits():
    inbox = Inbox(1)
    for sequence in range(5):
        inbox.put(captured(0, sequence))
    (taken,) = inbox.take(8, lambda: False)
    assert (taken.sequence, taken.dropped) == (4, 4)


def test_whoever_was_served_longest_ago_comes_first():
    inbox, order = Inbox(3), []
    for sequence in range(6):
        for cam in range(3):
            inbox.put(captured(cam, sequence))
        order += [one.camera for one in inbox.take(2, lambda: False)]
    assert order == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_a_file_waits_for_room_and_is_let_go_on_close():
    inbox, put = Inbox(1), []

    def fill():
        for sequence in range(9):
            put.append(inbox.put(captured(0, sequence, live=False)))  # noqa: PERF401 - one at a time, to be counted

    thread = threading.Thread(target=fill)
    thread.start()
    assert eventually(lambda: len(put) == READ_AHEAD)
    assert [one.sequence for one in inbox.take(1, lambda: False)] == [0]
    assert eventually(lambda: len(put) == READ_AHEAD + 1)
    inbox.close()
    thread.join(SOON_S)
    assert put == [True] * (READ_AHEAD + 1) + [False] * (9 - READ_AHEAD - 1)
    assert inbox.take(9, lambda: False) == []


def test_a_picture_that_differs_in_one_value_is_not_repeated():
    vitals, image = Vitals(), np.full((33, 47, 3), 90, np.uint8)
    assert vitals.saw(image, 1.0) == ""
    assert vitals.saw(image.copy(), 2.0) == "repeated"
    other = image.copy()
    other[3, 5, 1] += 1
    assert vitals.saw(other, 3.0) == ""
    assert (vitals.pictures, vitals.repeated) == (3, 1)


def test_what_was_never_connected_does_not_reconnect():
    vitals, image = Vitals(), np.full((33, 47, 3), 90, np.uint8)
    vitals.lost("refused")
    vitals.saw(image, 1.0)
    assert vitals.reconnects == 0
    vitals.lost("cut")
    vitals.saw(image, 2.0)
    assert vitals.reconnects == 1


def test_a_dark_picture_with_a_light_in_it_is_not_black():
    image = np.zeros((480, 640, 3), np.uint8)
    assert Vitals().saw(image, 1.0) == "black"
    image[240:256, 320:336] = 255
    assert Vitals().saw(image, 1.0) == ""


@pytest.mark.parametrize(("value", "fault"), [(6, "black"), (7, "")])
def test_a_picture_that_is_a_little_lighter_everywhere_is_a_night(value, fault):
    assert Vitals().saw(np.full((48, 64, 3), value, np.uint8), 1.0) == fault


def test_darkness_is_told_whatever_the_pixels_are():
    packed = np.zeros((48, 64, 4), np.uint8)
    packed[..., 3] = 255  # no colour
    assert Vitals().saw(packed, 1.0) == "black"
    nv12 = np.full((72, 64), 128, np.uint8)  # no colour either
    nv12[:24], nv12[24:48] = 16, 0
    assert Vitals().saw(nv12, 1.0, "nv12") == "black"
    nv12[32:48, 8:24] = 90
    assert Vitals().saw(nv12, 1.0, "nv12") == ""


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


@pytest.fixture
def at(monkeypatch):
    """Sets the time that vitals are told of, in seconds."""

    def told(now):
        monkeypatch.setattr("edgeinfer.streams.vitals.time", types.SimpleNamespace(monotonic=lambda: now))

    told(0.0)
    return told


@pytest.mark.parametrize(
    ("later", "reason"),
    [(None, "no picture of the last 1.1 s"), (60, "the same picture for 1.1 s"), (0, "black pictures for 1.1 s")],
)
def test_a_second_without_a_new_picture_that_shows_something_is_ill(at, later, reason):
    vitals = Vitals()
    vitals.saw(frame(60).image, 10.0)
    if later is not None:
        vitals.saw(frame(later).image, 10.9)
    at(10.95)
    assert vitals.health().well
    at(11.1)
    assert vitals.health() == (False, reason)
    vitals.saw(frame(90).image, 11.2)
    at(11.2)
    assert vitals.health().well


def test_a_source_is_ill_until_it_has_shown_something(at):
    vitals = Vitals()
    at(0.5)
    assert vitals.health() == (False, "no picture yet, 0.5 s after the start")


def test_a_picture_that_comes_late_is_ill_as_soon_as_it_comes(at):
    vitals = Vitals()
    at(20.0)
    vitals.saw(frame(60).image, 18.5)
    assert vitals.health() == (False, "no picture of the last 1.5 s")
    vitals.saw(frame(70).image, 19.5)
    assert vitals.health().well


def test_a_camera_of_one_frame_a_second_has_more_patience(at):
    vitals = Vitals()
    vitals.connected(1.0)
    vitals.saw(frame(50).image, 10.0)
    at(12.4)
    assert vitals.health().well
    at(12.6)
    assert not vitals.health().well


def test_a_slow_camera_that_tells_a_quick_rate_has_more_patience_too(at):
    vitals = Vitals()
    vitals.connected(25.0)
    for second in range(10, 14):
        vitals.saw(frame(10 * second).image, float(second))
    at(15.4)
    assert vitals.health().well
    at(15.6)
    assert not vitals.health().well


def test_one_long_wait_gives_no_more_patience(at):
    vitals = Vitals()
    for place, second in enumerate([10.0, 10.1, 10.2, 10.3, 15.0, 15.1]):
        vitals.saw(frame(10 * place).image, second)
    at(16.2)
    assert not vitals.health().well


def captures():
    return [thread for thread in threading.enumerate() if thread.name.startswith("capture")]


@pytest.mark.parametrize("kind", ["video", "camera"])
def test_a_stream_that_is_left_in_the_middle_and_forgotten_lets_go_of_its_source(model, clip, kind):
    assert eventually(lambda: not captures())  # of tests before
    with camera(fps=100) as shown:
        for _ in stream(clip if kind == "video" else shown.address, model):
            break
        assert eventually(lambda: not captures())
