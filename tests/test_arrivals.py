"""When a camera's frames were captured, told from when they could be read."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.sources.arrivals import CALM, STEADY, Arrivals

TOLD_FPS = 25.0  # what FFmpeg says of motion JPEG, whatever comes


def captured(reads_s, fps=TOLD_FPS, opened_s=0.0, stamps_s=None):
    """When each of the frames read at these moments counts as captured, in seconds."""
    arrivals = Arrivals(fps, round(opened_s * 1e9))
    stamped = zip(reads_s, np.zeros(len(reads_s)) if stamps_s is None else stamps_s, strict=True)
    return (
        np.array([arrivals.captured_ns(round(read_s * 1e9), round(stamp_s * 1e9)) for read_s, stamp_s in stamped]) / 1e9
    )


def test_one_long_wait_changes_the_pace_by_an_eighth_of_it():
    arrivals = Arrivals(10, 0)
    assert arrivals.captured_ns(250_000_000) == 250_000_000  # no pause; the pace is 0.11875 s now
    assert arrivals.captured_ns(650_000_000) == 650_000_000 - (400_000_000 - 118_750_000)


def test_frames_that_are_waited_for_are_of_the_moment():
    reads = 0.1 + np.arange(100) / 30
    np.testing.assert_allclose(captured(reads), reads, atol=1e-6)


@pytest.mark.parametrize("stall_s", [1.0, 1.9, 30.0])
@pytest.mark.parametrize("fps", [10, 15, 30, 60])
def test_what_a_stall_kept_back_is_not_called_new(fps, stall_s):
    made = 0.1 + np.arange(60 * fps) / fps
    begin, end = 20.001, 20.001 + stall_s
    kept = (made > begin) & (made <= end)
    # what came meanwhile waits until the buffer is empty
    reads = np.maximum.accumulate(np.where(kept, end + 0.001 * np.cumsum(kept), made))
    found = captured(reads)
    assert (found[kept] - made[kept]).max() < 0.2
    # and all is as it was soon afterwards
    later = made > end + 3
    np.testing.assert_allclose(found[later], reads[later], atol=1e-6)


def test_a_stutter_while_the_buffer_is_emptied_makes_nothing_new():
    made = 0.1 + np.arange(200) / 30
    end = made[99] + 1.5
    reads = np.maximum(made, np.where(np.arange(200) < 100, 0, end + 0.005 * np.arange(-100, 100)))
    reads[110:] = np.maximum(reads[110:], reads[109] + 0.1 + 0.005 * np.arange(90))
    reads[120:] = np.maximum(reads[120:], reads[119] + 0.4 + 0.005 * np.arange(80))
    # from the stall until the buffer is empty
    kept = (np.arange(200) >= 100) & (reads > made + 0.04)
    assert kept.sum() > 40
    assert (captured(reads, 30) - made)[kept].max() < 0.05


def test_a_camera_that_paused_itself_is_called_late_for_a_few_frames():
    reads = 0.1 + np.concatenate([np.arange(100) / 30, 5 + np.arange(100) / 30])
    late = reads - captured(reads)
    assert late[100] > 1
    assert np.delete(late, range(100, 100 + STEADY)).max() < 1e-6


def test_a_slow_camera_is_not_called_late_for_ever():
    reads = np.arange(1, 20) * 1.0
    late = reads - captured(reads)
    assert late[1:].max() < 1e-6


def test_what_gathered_while_the_stream_was_opened_is_not_called_new():
    reads = 2 + np.concatenate([np.arange(40) * 0.001, 0.06 + np.arange(20) / 30])
    late = reads - captured(reads, fps=30)
    assert late[0] > 1.9
    assert (np.diff(late[:40]) < 0).all()
    assert late[-19 + STEADY :].max() < 1e-6


def test_frames_of_a_buffer_are_behind_and_those_waited_for_are_not():
    arrivals, behind = Arrivals(30, 0), []
    reads = 2 + np.concatenate([np.arange(40) * 0.001, 0.07 + np.arange(20) / 30])
    for read_s in reads:
        arrivals.captured_ns(round(read_s * 1e9))
        behind.append(arrivals.behind)
    # the first one is all there is at that moment
    assert behind == [False] + [True] * 39 + [False] * 20


def test_a_camera_that_sends_a_second_at_a_time_shows_the_newest_of_it():
    arrivals, behind = Arrivals(30, 0), []
    for second in range(1, 10):
        for place in range(30):
            arrivals.captured_ns(round((second + 0.001 * place) * 1e9))
            behind.append(arrivals.behind)
        assert not behind[-1]
    assert sum(behind) > 200


def test_frames_as_they_are_made_are_soon_of_the_moment_again():
    for jitter_s, few in ((0.002, CALM), (0.015, STEADY)):
        made = np.arange(30) / 30 + jitter_s * np.tile([0, 1], 15)
        reads = np.concatenate([[2.0], 2.05 + made])
        late = reads - captured(reads, fps=30)
        assert late[0] > 1.9
        assert late[1 + few :].max() < 1e-6


def test_a_stream_that_is_decoded_more_slowly_than_it_comes_is_as_late_as_its_time_stamps_say():
    made = 100 + np.arange(300) / 30
    reads = 0.1 + np.arange(300) * 0.05
    late = reads - captured(reads, 30, stamps_s=made)
    np.testing.assert_allclose(late, np.arange(300) * (0.05 - 1 / 30), rtol=0.03)


def test_what_gathered_meanwhile_is_behind_until_it_is_read():
    arrivals, read_s, behind = Arrivals(30, 0), 0.0, []
    for made_s, decoding_s in zip(np.arange(400) / 30, np.repeat([0.01, 0.05, 0.01, 0.01], 100), strict=True):
        read_s = max(made_s, read_s + decoding_s)
        late_s = read_s - arrivals.captured_ns(round(read_s * 1e9), round((1 + made_s) * 1e9)) / 1e9
        assert late_s == pytest.approx(read_s - made_s, abs=0.02)
        behind.append(arrivals.behind)
    assert behind == [False] * 200 + [True] * sum(behind) + [False] * (200 - sum(behind))
    assert sum(behind) > 60


@pytest.mark.parametrize("pace", [0.9995, 1.0005, 1.2])
def test_a_camera_whose_clock_goes_wrong_is_not_late(pace):
    made = np.arange(1, 20_000) / 30
    late = made - captured(made, 30, stamps_s=pace * made)
    assert late[1:].max() < 1e-6


def test_a_clock_that_is_set_makes_no_frame_old():
    made = np.arange(1, 400) / 30
    stamps = 1000 + made + np.repeat([0, -20, 300], 133)
    late = made - captured(made, 30, stamps_s=stamps)
    assert late[1:].max() < 1e-6


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100)), min_size=1, max_size=60), st.floats(0.1, 1000))
def test_no_frame_is_captured_after_it_was_read_or_before_the_one_before(frames, fps):
    reads = list(itertools.accumulate(waited for waited, _ in frames))
    found = captured(reads, fps, stamps_s=[stamp for _, stamp in frames])
    assert (found <= np.array(reads) + 1e-6).all()
    assert (np.diff(found) >= -1e-6).all()
