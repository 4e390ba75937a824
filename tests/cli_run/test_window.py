"""`edgeinfer run --show`: windows, and where there are none."""

import types

import cv2
import numpy as np
import pytest

from edgeinfer import sources
from edgeinfer.cli import _window
from edgeinfer.results import Detections
from edgeinfer.spec import Size
from edgeinfer.streams import Freshness, Seen
from helpers import bundles
from helpers.running import run


def test_a_window_needs_a_display(detector, photos, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI: QT5")
    assert run(detector, photos, "--show") == 1
    assert capsys.readouterr().err == (
        "error: --show needs a display, and there is none here\nhint: save pictures instead: --save DIR\n"
    )


def test_a_headless_opencv_has_no_windows(detector, photos, monkeypatch, capsys):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                NONE")
    assert run(detector, photos, "--show") == 1
    assert "this one is headless" in capsys.readouterr().err


def test_a_display_that_ends_who_asks_for_a_window_is_an_error(detector, photos, monkeypatch, capsys):
    monkeypatch.setenv("DISPLAY", "nowhere:0")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI: QT5")
    monkeypatch.setattr(_window, "OPENING", "import os; os.abort()")
    assert run(detector, photos, "--show") == 1
    assert capsys.readouterr().err == (
        "error: --show needs a display, and the one here opens no window\nhint: save pictures instead: --save DIR\n"
    )


@pytest.fixture
def screen(monkeypatch):
    """What OpenCV is asked to show, in place of a display: sizes by title; the user presses `key`, or sees nothing."""
    opened = types.SimpleNamespace(sizes={}, shown=[], key=-1, visible=1.0)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(_window, "OPENING", "print([])")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI: QT5")
    monkeypatch.setattr(cv2, "namedWindow", lambda title, _: opened.sizes.setdefault(title, None))
    monkeypatch.setattr(cv2, "resizeWindow", lambda title, *size: opened.sizes.update({title: size}))
    monkeypatch.setattr(cv2, "imshow", lambda title, _: opened.shown.append(title))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: opened.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: opened.visible)
    return opened


@pytest.mark.parametrize("what", [{"key": ord("q")}, {"key": 27}, {"visible": 0.0}], ids=["q", "escape", "closed"])
def test_the_user_ends_the_run_in_the_window(detector, clip, screen, what, capsys):
    vars(screen).update(what)
    assert run(detector, clip, "--show") == 0
    assert "1 picture, 0 errors" in capsys.readouterr().out


def test_files_share_a_window_that_shows_large_pictures_whole(detector, photos, clip, screen, capsys):
    cv2.imwrite(str(photos / "a.png"), bundles.picture("green", 1000, 4000))
    assert run(detector, photos, clip, "--show") == 0
    assert screen.sizes == {_window.TITLE: (_window.SIDE, _window.SIDE // 4)}
    assert screen.shown == [_window.TITLE] * 6


def test_a_window_that_is_closed_while_another_camera_has_its_turn_ends_the_run(screen, monkeypatch):
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, int), (), Size(48, 64))
    gone = []
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, _: float(title not in gone))
    with _window.window() as opened:
        for source in ("camera:0", "camera:1"):
            frame = sources.Frame(bundles.picture(height=48, width=64), source, 0, 0, 10.0)
            assert not opened.closed
            gone += [title for title in screen.sizes if source not in title]  # while the other one is shown
            opened.add(Seen(frame, nothing, Freshness(0, 0, 0, 0, 0), live=True))
        assert opened.closed


def test_each_camera_has_a_window_of_its_own(screen):
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, int), (), Size(48, 64))
    with _window.window() as opened:
        for source in ("camera:0", "camera:1", "camera:0"):
            frame = sources.Frame(bundles.picture(height=48, width=64), source, 0, 0, 10.0)
            opened.add(Seen(frame, nothing, Freshness(0, 0, 0, 0, 0), live=True))
    assert screen.sizes == {f"camera:{number} - {_window.TITLE}": (64, 48) for number in (0, 1)}
    assert screen.shown == [f"camera:{number} - {_window.TITLE}" for number in (0, 1, 0)]
