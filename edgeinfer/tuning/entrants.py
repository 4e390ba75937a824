"""A candidate in a process of its own, which may crash or hang without harm."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeinfer.errors import EngineError
from edgeinfer.profiling.samples import Samples
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from edgeinfer.bundle import Bundle
    from edgeinfer.plans import Choice
    from edgeinfer.results import Result

# seconds: to load and warm up (engines may be optimised then), and of silence beyond what was asked for
LOADING_S, SILENCE_S = 180.0, 60.0


class Failed(EngineError):
    """A candidate that crashed, hung, or said why it cannot run."""


class Turn(NamedTuple):
    """What a candidate did in one go; `memory_mb` is the most its process ever had."""

    samples: Samples
    memory_mb: float | None


class Entrant:
    """A process that runs one choice. Raises Failed for whatever goes wrong with it."""

    def __init__(self, bundle: Bundle, choice: Choice, work: str, device: str = "auto", **asked: Any) -> None:
        self.choice = choice
        self.turns: list[Turn] = []
        told = {"bundle": str(bundle.path), "choice": asdict(choice), "work": work, "device": device, **asked}
        command = [sys.executable, "-m", "edgeinfer.tuning._entrant", json.dumps(told)]
        # its own session, so that Ctrl-C does not reach it
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._lines: queue.Queue[str] = queue.Queue()
        assert self._process.stdout
        threading.Thread(target=_listen, args=(self._process.stdout, self._lines), daemon=True).start()

    def wait_ready(self) -> dict[str, Any]:
        """Once it has loaded and is warm: what it says about itself."""
        facts: dict[str, Any] = self._heard(LOADING_S)["ready"]
        return facts

    def turn(self, seconds: float) -> Turn:
        """Let it work for so long."""
        assert self._process.stdin
        try:
            print(seconds, file=self._process.stdin, flush=True)
        except OSError:
            raise self._ended() from None
        said = self._heard(seconds + SILENCE_S)
        self.turns.append(Turn(Samples(**said["samples"]), said["memory_mb"]))
        return self.turns[-1]

    def answers(self, bundle: Bundle, seconds: float) -> list[Result | None]:
        """What it found in each picture; it may take so long."""
        return [_result(record, bundle) for record in self._heard(seconds)["answers"]]

    def files(self, seconds: float) -> list[str]:
        """What it wrote; it may take so long."""
        return [str(name) for name in self._heard(seconds)["files"]]

    def _heard(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise Failed(f"hung: not a word in {seconds:.0f} s") from None
        if not line:
            raise self._ended()
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise Failed(said["error"], hint=said["hint"])
        return said

    def _ended(self) -> Failed:
        code = self._process.wait()
        return Failed(f"crashed: {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):  # what it never read
                self._process.stdin.close()


def _listen(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Each line as it comes, and an empty one at the end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


def _result(record: dict[str, Any] | None, bundle: Bundle) -> Result | None:
    if record is None:
        return None
    labels, source = bundle.spec.labels, Size(*record["source"])
    scores, class_ids = np.array(record["scores"], np.float32), np.array(record["class_ids"], np.int32)
    if "boxes" not in record:
        return Classification(class_ids, scores, labels, source)
    return Detections(np.array(record["boxes"], np.float32).reshape(-1, 4), scores, class_ids, labels, source)


@contextlib.contextmanager
def entered(
    bundle: Bundle, choice: Choice, work: str, pictures: Sequence[Path], device: str = "auto", **asked: Any
) -> Iterator[Entrant]:
    """An entrant on these pictures while the block lasts; what else it is `asked` stands in `_entrant`."""
    names = [str(path.absolute()) for path in pictures]
    entrant = Entrant(bundle, choice, work, device=device, pictures=names, **asked)
    try:
        yield entrant
    finally:
        entrant.close()
