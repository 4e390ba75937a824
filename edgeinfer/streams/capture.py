"""One thread a source: reads it as fast as it gives, and a camera again when it is lost."""

from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from edgeinfer import lifetime, naming, sources
from edgeinfer.errors import EdgeInferError, SourceError
from edgeinfer.pictures import MAX_PIXELS
from edgeinfer.sources import answers, opencv
from edgeinfer.sources.arrivals import STEADY
from edgeinfer.streams.inbox import Captured
from edgeinfer.streams.vitals import Vitals

if TYPE_CHECKING:
    from edgeinfer.sources import OnError
    from edgeinfer.streams.inbox import Inbox

BACK_OFF_S = (0.1, 0.25, 0.5, 1.0)  # the waits before trying again; the last one goes on
STOP_S = 3.0  # how long a thread whose read is under way is waited for, from when it was to stop
LATEST_S = 5.0  # a picture that is read so late comes sooner over a new connection


class Capture(threading.Thread, lifetime.Guest):
    """Puts one source's frames into the inbox until the source ends, fails for good, or the inbox closes.

    A camera or stream, which is `live`, is opened again and again when it was lost, or when its pictures are read far
    too late. One that cannot be opened the first time is an error, and one that comes to its own end is over, unless
    `patient`. A picture that came before is not put in again. What may be a file on a web server counts as live until
    that has answered; who is patient waits for nothing but cameras. Frames of what is live are called `shown`.
    """

    def __init__(
        self,
        camera: int,
        source: str,
        shown: str,
        inbox: Inbox,
        *,
        patient: bool = False,
        max_pixels: int = MAX_PIXELS,
        on_error: OnError = sources.refuse,
    ) -> None:
        super().__init__(name=f"capture {camera}", daemon=True)
        self.source, self.shown, self.vitals = source, shown, Vitals()
        self.live = naming.is_address(source)
        self.error: EdgeInferError | None = None
        self._camera, self._inbox = camera, inbox
        self._patient = patient
        self._max_pixels, self._on_error = max_pixels, on_error
        self._sequence = 0
        self._stopped, self._ends_s = threading.Event(), 0.0
        lifetime.watch(self)

    def run(self) -> None:
        """The thread's work."""
        try:
            self.live = self.live and (self._patient or sources.live(self.source))
            if self.live:
                self._follow()
            else:
                self.vitals.nothing_due()
                self._read()
        except SourceError as error:
            self.vitals.lost(str(error))
            self._tell(error)
        finally:
            self._inbox.end(self._camera)

    def _tell(self, error: SourceError) -> None:
        """Keep it for whoever iterates, unless it is taken care of now."""
        try:
            self._on_error(error)
        except EdgeInferError as kept:
            self.error = kept

    def stop(self) -> None:
        """Read no more; a read that is under way runs into its own time limit."""
        if not self._stopped.is_set():
            self._ends_s = time.monotonic() + STOP_S
        self._stopped.set()

    def halt(self) -> None:
        """Read no more, and hand nothing over."""
        self.stop()
        self._inbox.close()

    def settle(self) -> None:
        """Wait for a read that is under way, but not long after it was to stop."""
        if self.ident is not None:
            self.join(max(0.0, self._ends_s - time.monotonic()))

    def _follow(self) -> None:
        """Read a camera, and open it again whenever it is lost."""
        tries = 0
        while not self._stopped.is_set():
            before = self._sequence
            try:
                if before:
                    answers.check(self.source, self.shown)
                self._read()
            except SourceError as error:
                if not (self._sequence or self._patient):
                    raise
                told = str(error)
            else:
                if self._stopped.is_set() or not self._patient:
                    self.vitals.nothing_due()
                    return
                told = "it came to its end"
            tries = tries + 1 if self._sequence == before else 0
            self.vitals.lost(f"{told}; trying again")
            self._stopped.wait(BACK_OFF_S[min(tries, len(BACK_OFF_S) - 1)])

    def _read(self) -> None:
        try:
            self._put_all()
        except SourceError:
            raise
        except Exception as error:  # of a library, or that one is missing
            told, hint = f"{type(error).__name__}: {error}", getattr(error, "hint", "")
            raise SourceError(f"{self.shown}: reading it failed: {told}", hint=hint) from error

    def _put_all(self) -> None:
        kind = sources.on_web(self.source) if self.live else ""
        if kind in ("picture", "video"):
            from edgeinfer.sources import remote

            remote.ask_again()
            raise SourceError(f"{self.shown} is a {kind}, no camera or stream")
        found = sources.frames(self.source, max_pixels=self._max_pixels, on_error=self._on_error)
        with closing(found):
            for frame in found:
                self.vitals.connected(frame.fps)
                fault = self.vitals.saw(frame.image, frame.captured_ns / 1e9, frame.pixels) if self.live else ""
                if self._stopped.is_set() or not self._offer(frame, fault):
                    return
                if self.live:
                    self._check_late(frame)

    def _check_late(self, frame: sources.Frame) -> None:
        """SourceError for a frame so late that what lies in the buffer after it is not worth reading."""
        late_s = time.monotonic() - frame.captured_ns / 1e9
        # the first ones count from when the connection was begun
        if late_s > LATEST_S and frame.index > STEADY and not frame.behind:
            why = f"it is decoded more slowly than it comes (more threads: {opencv.THREADS}=4), or its clock is slow"
            raise SourceError(f"{self.shown} is read {late_s:.0f} s late: {why}")

    def _offer(self, frame: sources.Frame, fault: str) -> bool:
        if fault == "repeated":
            return True
        if self.live:
            frame = dataclasses.replace(frame, source=self.shown, index=self._sequence)
        captured = Captured(self._camera, frame, self._sequence, fault, self.live)
        self._sequence += 1
        return self._inbox.put(captured)
