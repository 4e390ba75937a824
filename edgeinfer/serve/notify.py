"""Words to systemd: ready, reloading, stopping, and the watchdog's sign of life (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def say(words: str) -> bool:
    """Send `READY=1` and the like to the socket that systemd named; False where there is none, or it takes no more."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # whoever should hear it may stand still
            sender.sendto(words.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        return False
    return True


def watchdog_s() -> float:
    """How often a sign of life is due, in seconds: half of what systemd allows; 0 where it does not ask."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(allowed_us) / 2e6 if allowed_us.isdecimal() and mine else 0.0
