"""Vitals: repeated, frozen and black pictures, silence, and how long it is waited for the next."""

import types

import cv2
import numpy as np
import pytest

from edgeinfer.streams.vitals import Vitals
from helpers.camera import frame


def test_a_frozen_picture_is_known_again_although_its_first_reader_drew_on_it():
    vitals, image = Vitals(), np.full((48, 64, 3), 90, np.uint8)
    assert vitals.saw(image, 1.0) == ""
    frozen = image.copy()
    cv2.rectangle(image, (8, 8), (24, 24), (0, 0, 255), 2)
    assert vitals.saw(frozen, 2.0) == "repeated"


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
