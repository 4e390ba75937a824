"""A process of our own, which may crash or hang without harm, heard from its parent's side; `voice` is the child's."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
from typing import Any

from edgeinfer import interpreter
from edgeinfer.errors import EngineError

# seconds: to load and warm up (engines may be optimised then), and of silence beyond what was asked for
LOADING_S, SILENCE_S = 180.0, 60.0


class Failed(EngineError):
    """A child that crashed, hung, or said why it cannot go on."""


class Child:
    """Runs this module with what it is `told` as JSON, on its stdin. Raises Failed for whatever goes wrong with it.

    It has a session of its own, so that Ctrl-C does not reach it. What it says on stderr is lost if it is `quiet`.
    `name` is what its end is told under.
    """

    def __init__(self, module: str, told: dict[str, Any], *, name: str = "", quiet: bool = False) -> None:
        self._name = f"{name} " if name else ""
        self._process = subprocess.Popen(
            interpreter.module(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_talk, args=(self._process, json.dumps(told), self._lines), daemon=True).start()

    def say(self, words: object) -> None:
        """A line for it to read."""
        try:
            print(words, file=self._process.stdin, flush=True)
        except OSError:
            raise self._ended() from None

    def heard(self, seconds: float) -> dict[str, Any]:
        """The next it says, which may take so long."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise Failed(f"{self._name}hung: not a word in {seconds:.0f} s") from None
        if not line.endswith("\n"):  # the end, be it within a line
            raise self._ended()
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise Failed(said["error"], hint=said["hint"])
        return said

    def _ended(self) -> Failed:
        try:
            code = self._process.wait(SILENCE_S)
        except subprocess.TimeoutExpired:
            return Failed(f"{self._name}hung: it is not heard any more, and does not end")
        how = f"crashed: {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return Failed(self._name + how)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):  # what it never read
                self._process.stdin.close()


def _talk(process: subprocess.Popen[str], told: str, lines: queue.Queue[str]) -> None:
    """What it is told, however long; then each line it says as it comes, and an empty one at the end."""
    assert process.stdin
    assert process.stdout
    with contextlib.suppress(OSError, ValueError):  # it has ended, or was closed: then it says no more either
        print(told, file=process.stdin, flush=True)
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put("")
