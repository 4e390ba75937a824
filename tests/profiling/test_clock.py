"""Whether the clock of the machine was set, by clocks that are simulated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.profiling import clock

late = st.floats(0, 5)


class Clocks:
    """Both clocks; each reading takes so many seconds more as are left in `delays`."""

    def __init__(self, delays):
        self.now, self.offset, self.delays = 1000.0, 1.7e9, list(delays)

    def _read(self):
        self.now += self.delays.pop() if self.delays else 0.0
        return self.now

    def monotonic(self):
        return self._read()

    def time(self):
        return self._read() + self.offset


@pytest.fixture
def looks(monkeypatch):
    """What two looks make of clocks that were moved apart between them."""

    def two(delays, step):
        clocks = Clocks(delays)
        monkeypatch.setattr(clock, "time", clocks)
        wall = clock.WallClock()
        clocks.offset += step
        return [wall.was_set(), wall.was_set()]

    return two


@pytest.mark.parametrize("step", [-3600.0, -0.5, 0.5, 3600.0])
def test_a_step_is_told_once(looks, step):
    assert looks([], step) == [True, False]


@given(delays=st.lists(late, max_size=9), slew=st.floats(-0.04, 0.04))
def test_readings_far_apart_and_slewing_are_no_step(delays, slew):
    with pytest.MonkeyPatch.context() as patch:
        clocks = Clocks(delays)
        patch.setattr(clock, "time", clocks)
        wall = clock.WallClock()
        clocks.offset += slew
        assert not wall.was_set()
        assert not wall.was_set()
