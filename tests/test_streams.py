"""Streams: freshness, order, fairness, health, closing, and what happens when sources misbehave."""

import dataclasses
import gc
import itertools
import re
import threading
import time
import types
import weakref

import cv2
import numpy as np
import pytest

import edgeinfer
from edgeinfer import naming, sources
from edgeinfer.errors import SourceError, UsageError
from edgeinfer.streams import Stream, stream
from edgeinfer.streams.capture import STOP_S, Capture
from edgeinfer.streams.inbox import Inbox
from helpers import bundles
from helpers.camera import camera, frame
from helpers.patience import LONG_S, until


@pytest.fixture
def clip(tmp_path):
    """A video of forty frames that get brighter."""
    return bundles.video(tmp_path / "clip.avi", [np.full((48, 64, 3), place * 6, np.uint8) for place in range(40)])


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
            until(lambda came=came: vitals.pictures >= came + 10)
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
        until(lambda: seen.health()[opened.address].color == "green")
        opened.mode = "frozen"

        def thaw():
            until(lambda: not seen.health()[opened.address].well)
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
        until(lambda: seen.health()[opened.address].well)
        opened.mode = mode
        # what comes to a machine that stands still for a while is silence at first
        until(lambda: re.match(reason, seen.health()[opened.address].reason))
        assert not seen.health()[opened.address].well
        opened.mode = "moving"
        until(lambda: seen.health()[opened.address].well)
        seen.close()
        reader.join()


def test_black_pictures_say_so(model):
    with camera() as opened:
        opened.mode = "black"
        with stream(opened.address, model) as seen:
            assert next(iter(seen)).freshness.fault == "black"


def test_a_picture_above_the_limit_is_refused(model, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((10, 11, 3), np.uint8))
    with Stream([tmp_path / "wide.png"], model, max_pixels=110) as seen:
        assert len(list(seen)) == 1
    with (
        Stream([tmp_path / "wide.png"], model, max_pixels=109) as seen,
        pytest.raises(SourceError, match="has 11x10 pixels, more than the"),
    ):
        list(seen)


def test_a_signals_handler_may_close_the_stream_whatever_it_interrupts(monkeypatch):
    began, goes_on = threading.Event(), threading.Event()

    class Model:
        group = contexts = 1

        def batch(self, images, **_):
            began.set()
            assert goes_on.wait(LONG_S)
            return [types.SimpleNamespace(timings_ms={})] * len(images)

    def interrupted(inbox, most, enough):
        def handled():
            if seen._running:  # the inbox is locked, and a call runs that has yet to tell it of its end
                assert began.wait(LONG_S)
                goes_on.set()
                seen.close()
            return enough()

        return take(inbox, most, handled)

    def frames(*_, **__):
        yield frame()
        assert goes_on.wait(LONG_S)

    take = Inbox.take
    monkeypatch.setattr(Inbox, "take", interrupted)
    monkeypatch.setattr(sources, "frames", frames)
    seen = Stream(["clip.avi"], Model())
    reader = threading.Thread(target=lambda: list(seen), daemon=True)
    reader.start()
    reader.join(LONG_S)
    assert not reader.is_alive()
    seen.close()


def test_closing_from_another_thread_ends_the_iteration(model):
    with camera() as opened, stream(opened.address, model) as seen:
        threading.Timer(0.3, seen.close).start()
        assert all(one.live for one in seen)


def test_closing_waits_for_many_sources_no_longer_than_for_one(model, monkeypatch):
    waited = []
    opened = Stream(["camera:97"] * 4, model)
    monkeypatch.setattr("edgeinfer.streams.capture.time", types.SimpleNamespace(monotonic=lambda: sum(waited)))
    monkeypatch.setattr(Capture, "join", lambda _, timeout: waited.append(timeout))
    opened.close()
    assert waited == [STOP_S, 0, 0, 0]


def test_closing_what_was_stopped_waits_for_the_rest_of_its_time_alone(model, monkeypatch):
    now, waited = [0.0], []
    opened = Stream(["camera:97"], model)
    monkeypatch.setattr("edgeinfer.streams.capture.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Capture, "join", lambda _, timeout: waited.append(timeout))
    opened.stop()
    now[0] = STOP_S - 1
    opened.close()
    assert waited == [1]


def test_two_cameras_get_equal_turns(model, monkeypatch):
    batch = type(model).batch

    def busy(*given, **how):
        """Until both cameras have pictures that wait: one that was seen after another came after that was put in."""
        came = [one.pictures for one in vitals]
        until(lambda: all(one.pictures >= before + 2 for one, before in zip(vitals, came, strict=True)))
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
        until(lambda: next(sights).freshness.fault and not all(one.well for one in seen.health().values()))
        shown = {one.frame.source for one in itertools.islice(sights, 40)}
        assert [*seen.health()] == [address, f"{address} (2)"]
        until(lambda: sorted(one.well for one in seen.health().values()) == [False, True])
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
        until(lambda: "does not exist" in seen.health()[str(tmp_path / "no.png")].reason)


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


def captures():
    return [thread for thread in threading.enumerate() if thread.name.startswith("capture")]


@pytest.mark.parametrize("kind", ["video", "camera"])
def test_a_stream_that_is_left_in_the_middle_and_forgotten_lets_go_of_its_source(model, clip, kind):
    until(lambda: not captures())  # of tests before
    with camera(fps=100) as shown:
        for _ in stream(clip if kind == "video" else shown.address, model):
            break
        until(lambda: not captures())


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "forgotten"])
def test_of_a_stream_that_ended_in_its_sources_error_nothing_is_left(model, tmp_path, closed):
    """Whoever tries again and again would hold them all, and what their errors' frames hold: pictures, models."""

    def tried():
        left = stream(str(tmp_path / "none.avi"), model)
        with pytest.raises(SourceError):
            list(left)
        if closed:
            left.close()
        return weakref.ref(left), *map(weakref.ref, [*left._captures, *left._workers])

    def gone():
        gc.collect()
        return not any(one() for one in left)

    left = tried()
    until(gone)  # a thread is there until it has ended
