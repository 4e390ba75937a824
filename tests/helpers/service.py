"""A real service in a process of its own, on free ports of loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

from helpers.patience import LONG_S

# a service whose engines are at work for as long as a file stands: its words are the file and serve's own
HELD = """\
import sys, time
from pathlib import Path
from edgeinfer.backends import ort
from edgeinfer.cli import main
gate, run = Path(sys.argv[1]), ort.Engine.run
def held(engine, inputs):
    while gate.exists():
        time.sleep(0.01)
    return run(engine, inputs)
ort.Engine.run = held
sys.exit(main(["serve", *sys.argv[2:]]))
"""

# a service whose engines give NaN for as long as a file stands
SPOILED = """\
import sys
from pathlib import Path
import numpy as np
from edgeinfer.backends import ort
from edgeinfer.cli import main
gate, run = Path(sys.argv[1]), ort.Engine.run
def spoiled(engine, inputs):
    outputs = run(engine, inputs)
    return {name: np.full_like(one, np.nan) for name, one in outputs.items()} if gate.exists() else outputs
ort.Engine.run = spoiled
sys.exit(main(["serve", *sys.argv[2:]]))
"""


class Service:
    """Addresses of a running service, and its log so far; whoever holds `reading` keeps the log from being read."""

    def __init__(self, process):
        self.process, self.lines, self.reading = process, [], threading.Lock()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.told = process.stdout.readline()
        found = re.search(r"(https?://[^ ,\n]+)(?:, gRPC on (\S+))?", self.told)
        assert found, self.log()
        self.url, self.grpc = found.groups()
        self.address = self.url.partition("//")[2]

    def _read(self):
        for line in self.process.stderr:
            with self.reading:
                self.lines.append(line)

    def log(self):
        """What it has logged."""
        return "".join(self.lines)

    def send(self, name):
        """A signal."""
        self.process.send_signal(getattr(signal, name))

    def request(self, path, body=None, headers=None, method=None):
        """(status, headers, body) of one HTTP request; errors too."""
        asked = urllib.request.Request(self.url + path, body, headers or {}, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=LONG_S) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def gauge(self, name, model):
        """What /metrics says of a model at this moment."""
        lines = self.request("/metrics")[2].decode().splitlines()
        return next(float(one.split()[-1]) for one in lines if one.startswith(f'edgeinfer_{name}{{model="{model}"}}'))


def connected(address):
    """A connection to "host:port" that has said nothing yet."""
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=LONG_S)


@contextlib.contextmanager
def service(*words, env=None, gate=None, start=("-m", "edgeinfer", "serve")):
    """`edgeinfer serve` with these words, ended when the block is; it must end well.

    While the file `gate` stands, whatever its engines run takes until the file is gone. `start` are Python's own words.
    """
    start = ["-c", HELD, str(gate)] if gate else start
    line = [sys.executable, *start, "--port", "0", "--grpc-port", "0", *map(str, words)]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    guard = threading.Timer(LONG_S, process.kill)
    guard.start()
    started = None
    try:
        started = Service(process)
        guard.cancel()
        yield started
        process.terminate()
        assert process.wait(LONG_S) == 0, started.log()
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        if started:
            started.reader.join(LONG_S)
        process.stderr.close()
