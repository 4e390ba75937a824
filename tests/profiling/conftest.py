import cv2
import pytest

from edgeinfer.profiling import loop, scenarios, server
from helpers import bundles


class Ticking:
    """An issuer whose clock goes on by a millisecond with every look: so many samples in a second on any machine."""

    NAME = loop.NAME
    now = 0.0

    def clock(self):
        self.now += 1e-3
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def issue(self, load, work):
        return loop.issue(load, work, clock=self.clock, sleep=self.sleep)


@pytest.fixture
def ticking(monkeypatch):
    """Every scenario is issued on a clock that does not know how fast the machine is; the work is real."""
    issuer = Ticking()
    monkeypatch.setattr(scenarios, "issuer_of", lambda _: issuer)


@pytest.fixture
def brief_warm_up(monkeypatch):
    """The model is hardly run before it counts, and two rates are tried."""
    monkeypatch.setattr(scenarios, "WARM_UP_S", 0.02)
    monkeypatch.setattr(server, "TRIALS", 2)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), bundles.picture("blue", 90, 120))
    return path
