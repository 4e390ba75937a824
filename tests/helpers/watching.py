"""What a service says of its cameras, and its live pictures."""

import contextlib
import json
import re
import socket

from helpers.patience import LONG_S


def asked(running, path):
    status, _, body = running.request(path)
    return status, json.loads(body)


def state(running, name="door"):
    return asked(running, f"/v1/cameras/{name}")[1]


def color(running, name="door"):
    return state(running, name)["health"]["color"]


def metric(running, name, **labels):
    """A sample's value; labels are written in the order of their names."""
    shown = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    text = running.request("/metrics")[2].decode()
    return float(re.search(rf"^{name}\{{{shown}\}} (\S+)$", text, re.MULTILINE)[1])


@contextlib.contextmanager
def watched(running, name="door", size=0):
    """A connection that asked for motion JPEG; `size` is that of its receive buffer."""
    host, port = running.address.split(":")
    with socket.socket() as opened:
        if size:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        opened.settimeout(LONG_S)
        opened.connect((host, int(port)))
        opened.sendall(f"GET /v1/cameras/{name}/live HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield opened


def parts(opened, count):
    """The headers of so many parts, in lower case."""
    data, found = b"", []
    while len(found) < count:
        came = opened.recv(1 << 16)
        assert came, data[-300:]
        data += came
        found = re.findall(rb"--edgeinfer\r\n(.*?)\r\n\r\n", data, re.DOTALL)
    return [dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")) for head in found[:count]]
