"""When the frames of a camera were captured, told from when they could be read.

OpenCV says that a frame is there, not how long it has been. While the network or this process stands still, frames
gather in buffers; then they are read one right after the other, oldest first, each as if it were of this moment. Where
they are decoded more slowly than they come, buffers fill without a pause; that only their own time stamps tell.
"""

from __future__ import annotations

from collections import deque

PAUSE_NS = 300_000_000  # buffers may have filled in a wait that is longer than this,
PAUSE = 3.0  # and than so many times the stream's pace
PRESENT = 0.8  # of the pace: waits are shorter while buffers are being emptied, so these tell that they are not:
CALM = 3  # so many in a row of that length,
STEADY = 8  # or so many whose mean it is
SHARE = 1 / 8  # of a wait in the pace
DRIFT = 1e-3  # how much slower than ours a camera's clock may go, also while it is set right


class Arrivals:
    """The frames of one connection, which was begun at `opened_ns` and says that it has `fps` frames a second.

    After a pause frames count as captured one frame's time apart, from the last one before it on, until they have come
    to the present, or come at the stream's pace again. So a frame is rather called older than it is than younger: a
    camera that paused itself, or was slow to open, begins with a few that count as late. Nor do they count as younger
    than their time stamps say, beside the one that came soonest after its stamp. `behind` says of the frame read last
    that it lay in a buffer, so that a newer one is to be expected at once.
    """

    def __init__(self, fps: float, opened_ns: int) -> None:
        self._pace_ns, self._read_ns = 1e9 / fps, opened_ns
        self._late_ns, self._paused, self.behind = 0.0, False, False
        self._waits: deque[int] = deque(maxlen=STEADY)
        self._stamp_ns, self._soonest_ns = 0, 0.0

    def captured_ns(self, read_ns: int, stamp_ns: int = 0) -> int:
        """When the frame was captured that was read at `read_ns`: not after that, nor before the frame before it.

        `stamp_ns` is when it was made by a clock of its own, 0 where nothing tells.
        """
        waited, self._read_ns = read_ns - self._read_ns, read_ns
        overdue_ns = self._overdue(read_ns, stamp_ns, waited)
        paused = waited > max(PAUSE_NS, PAUSE * self._pace_ns)
        if paused and self._paused:  # a second one is no pause, the stream has become slow
            self._pace_ns, self._late_ns, paused = float(waited), 0.0, False
        elif paused or self._late_ns:
            self._late_ns = max(0.0, self._late_ns + waited - self._pace_ns)
            self._settle(waited, paused=paused)
        elif overdue_ns < self._pace_ns:  # no buffer is being filled or emptied
            self._pace_ns += SHARE * (waited - self._pace_ns)
        self._paused = paused
        late_ns = max(self._late_ns, overdue_ns)
        self.behind = not paused and waited < self._pace_ns / 2 and late_ns > self._pace_ns
        return read_ns - round(late_ns)

    def _overdue(self, read_ns: int, stamp_ns: int, waited: int) -> float:
        """How much longer than the soonest this frame took from its stamp; a clock that was set back starts anew."""
        took_ns, last_ns, self._stamp_ns = float(read_ns - stamp_ns), self._stamp_ns, stamp_ns
        soonest_ns = self._soonest_ns + DRIFT * waited if stamp_ns > last_ns > 0 else took_ns
        self._soonest_ns = min(took_ns, soonest_ns)
        return took_ns - self._soonest_ns

    def _settle(self, waited: int, *, paused: bool) -> None:
        """Late no more, once frames come as they are made."""
        if paused:
            self._waits.clear()
            return
        self._waits.append(waited)
        present_ns = PRESENT * self._pace_ns
        calm = len(self._waits) >= CALM and min(list(self._waits)[-CALM:]) >= present_ns
        if calm or (len(self._waits) == STEADY and sum(self._waits) >= STEADY * present_ns):
            self._late_ns = 0.0
