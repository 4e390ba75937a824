"""GStreamer by way of the system's PyGObject, which only processes of our own see."""

import os
import subprocess
import sys

import pytest

SYSTEM = "/usr/lib/python3/dist-packages"  # where Debian and Ubuntu keep it


def environment(**variables):
    """That of such a process, which has our modules too."""
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([*sys.path, SYSTEM])}


def needed():
    """Skip the test where there is none."""
    code = "from edgeinfer.sources import gstreamer; raise SystemExit(not gstreamer.available())"
    line = [sys.executable, "-c", code]
    if subprocess.run(line, env=environment(), check=False, capture_output=True).returncode:
        pytest.skip("no PyGObject or GStreamer here: apt install python3-gi gstreamer1.0-plugins-base")
