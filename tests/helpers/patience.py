"""Waiting for facts, on machines of any speed: only what never comes is a failure."""

import os
import time
from pathlib import Path

LONG_S = 120  # for what takes moments; a machine may be slow, or busy with other things


def until(fact):
    """What `fact()` gives, once that is true."""
    end = time.monotonic() + LONG_S
    while not (found := fact()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


def gone(pid):
    """Whether there is no such process, or it is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between open and read
        return True


def said(terminal):
    """All that programs wrote to a pseudo-terminal, whose other end they have; this is its only reader."""
    parts = []
    try:
        while part := os.read(terminal, 10_000):
            parts.append(part)
    except OSError:  # nobody has the other end any more
        pass
    return b"".join(parts).decode()
