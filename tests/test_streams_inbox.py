"""The inbox: the newest frame of each camera, every one of each file, in turns."""

import contextlib
import sys
import threading

from edgeinfer.streams.inbox import READ_AHEAD, Captured, Inbox
from helpers.camera import frame
from helpers.patience import LONG_S, until


def captured(cam, sequence, *, live=True):
    return Captured(cam, frame(sequence), sequence, "", live)


def test_an_inbox_is_drained_once_no_frame_waits_and_none_will_come():
    inbox, told = Inbox(2), []
    inbox.put(captured(1, 0, live=False))
    for step in (lambda: inbox.end(0), lambda: inbox.end(1), lambda: inbox.take(1, lambda: False)):
        told.append(inbox.drained)
        step()
    assert [*told, inbox.drained] == [False, False, False, True]


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

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    until(lambda: len(put) == READ_AHEAD)
    assert [one.sequence for one in inbox.take(1, lambda: False)] == [0]
    until(lambda: len(put) == READ_AHEAD + 1)
    inbox.close()
    thread.join(LONG_S)
    assert put == [True] * (READ_AHEAD + 1) + [False] * (9 - READ_AHEAD - 1)
    assert inbox.take(9, lambda: False) == []
