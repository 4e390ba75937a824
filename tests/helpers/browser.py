"""Chromium without a window: pictures of pages, and their text once they are drawn."""

from __future__ import annotations

import shutil
import subprocess

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Browser:
    """Each call is a process with a profile of its own below `folder`."""

    def __init__(self, program, folder):
        self._program, self._folder = program, folder

    def _run(self, url, *flags):
        profile = self._folder / "profile"
        command = [self._program, *FLAGS, f"--user-data-dir={profile}", *flags, str(url)]
        return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout

    def screenshot(self, url, width=390, height=844, *, dark=False):
        """The page as it is seen: the path of a PNG of this size in pixels."""
        target = self._folder / f"page-{width}{'-dark' if dark else ''}.png"
        flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
        self._run(url, f"--window-size={width},{height}", f"--screenshot={target}", *flags)
        return target

    def html(self, url):
        """The document after its scripts have run."""
        return self._run(url, "--dump-dom").decode()


def find(folder):
    """A browser, or the test is skipped by name."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not program:
        pytest.skip(f"no browser here: {', '.join(PROGRAMS)} (apt-get install chromium)")
    return Browser(program, folder)
