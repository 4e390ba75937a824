"""What the service logs, as lines for people or as JSON. A thread writes them: no reader holds up the service."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeinfer.cli import _tables

if TYPE_CHECKING:
    from collections.abc import Iterator

STDERR = 2
MOST = 1000  # lines that wait for whoever reads
PATIENCE_S = 3.0  # that the end waits for them to be written


class Plain(logging.Formatter):
    """A line, whatever the names in it are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return _tables.line(super().formatMessage(record))


class Lines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Background(logging.Handler):
    """Writes to a file descriptor from a thread of its own: whoever logs never waits for whoever reads.

    What comes while MOST lines wait is dropped, and counted in a line that follows them. The thread may stand still for
    ever, so that it holds no lock meanwhile, as Python's own streams would.
    """

    def __init__(self, file: int = STDERR) -> None:
        super().__init__()
        self._file, self._encoding = file, sys.stderr.encoding
        self._waiting, self._dropped, self._over = list[str](), 0, False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._run, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - who logs is spared it, as by logging's own handlers
            line = self._own("a log message cannot be told: %s", error)
        with self._changed:
            if len(self._waiting) < MOST:
                self._waiting.append(line)
                self._changed.notify()
            else:
                self._dropped += 1

    def finish(self) -> None:
        """Wait a while for what is not written yet."""
        with self._changed:
            self._over = True
            self._changed.notify()
        self._writer.join(PATIENCE_S)

    def _run(self) -> None:
        while lines := self._take():
            for line in lines:
                self._write(f"{line}\n".encode(self._encoding, "backslashreplace"))

    def _take(self) -> list[str]:
        """What waits, once something does; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            lines, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
        return [*lines, self._own("%d log lines were dropped: nobody read stderr", dropped)] if dropped else lines

    def _own(self, words: str, *facts: object) -> str:
        told = {"name": "edgeinfer.serve", "levelname": "WARNING", "msg": words, "args": facts}
        return self.format(logging.makeLogRecord(told))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:  # the reader has gone, or the disk is full: there is nobody to tell
            return


def _news(record: logging.LogRecord) -> bool:
    """Not that a caller left at the moment of its answer, of which gRPC makes an error with a traceback."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


@contextmanager
def written(*, as_json: bool) -> Iterator[None]:
    """The service's log, and what its libraries say, goes to stderr, instead of the warning lines of other verbs."""
    handler = Background()
    handler.setFormatter(Lines() if as_json else Plain("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_news)
    root, own, uvicorn = map(logging.getLogger, (None, "edgeinfer", "uvicorn"))
    before = [(one, one.handlers[:], one.level, one.propagate) for one in (root, own, uvicorn)]
    root.handlers[:] = [handler]
    own.handlers.clear()
    own.setLevel(logging.INFO)
    own.propagate = True
    # bytes that are no request are the sender's fault, and no news: the sender is told
    uvicorn.setLevel(logging.ERROR)
    # gRPC's core would tell of them past this log, and wait for whoever reads
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.finish()
