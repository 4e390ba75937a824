"""Chromium without a window: pictures of pages, and their text once they are drawn."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time

import pytest

from helpers.patience import LONG_S

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

    def open(self, url, width=1200, height=900):
        """A page that stays open and can be acted on; close it in the end."""
        return Page(self._program, self._folder / f"live-{width}", url, width, height)

    def __init__(self, program, folder):
        self._program, self._folder = program, folder

    def _run(self, url, *flags):
        profile = self._folder / "profile"
        command = [self._program, *FLAGS, f"--user-data-dir={profile}", *flags, str(url)]
        return subprocess.run(command, capture_output=True, timeout=LONG_S, check=True).stdout

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


class Page:
    """A page that can be acted on, over Chromium's debugging pipe: JSON ended by a NUL on descriptors 3 and 4."""

    def __init__(self, program, folder, url, width=1200, height=900):
        (asking, out), (back, answering) = os.pipe(), os.pipe()
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        shell = f'exec "$0" "$@" 3<&{asking} 4>&{answering}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, program, *flags, "about:blank"],
            pass_fds=(asking, answering),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(asking)
        os.close(answering)
        self._out, self._back = os.fdopen(out, "wb", buffering=0), os.fdopen(back, "rb")
        self._number, self._session, self._rest = 0, None, b""
        self._guard = threading.Timer(5 * LONG_S, self._process.kill)
        self._guard.start()
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.call("Emulation.setDeviceMetricsOverride", **size)
            self.call("Page.navigate", url=url)
        except BaseException:
            self.close()
            raise

    def call(self, method, **parameters):
        """One command of the DevTools protocol, and its result."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        self._out.write(json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        while b"\0" not in self._rest:
            part = self._back.read1(1 << 16)
            assert part, "the browser has gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def evaluate(self, script):
        """What this JavaScript gives."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get(
            "value"
        )

    def until(self, script):
        """Wait until this JavaScript gives something true."""
        end = time.monotonic() + LONG_S
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return value

    def choose(self, selector, *files):
        """Put files into a file input, as a person does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=node)

    def screenshot(self, target):
        """The page as it is seen, as a PNG."""
        target.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        self._guard.cancel()
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._back.close()
