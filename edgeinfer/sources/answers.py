"""Why a network stream cannot be opened, as its address answers: libraries that open streams do not say."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from edgeinfer.errors import SourceError

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
PATIENCE_S = 2.0  # for the connection, and for the answer
SOON_S = 1.5  # for a connection alone: a second packet has been sent by then
ASK = {"rtsp": "DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n", "http": "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"}


def why(address: str) -> str:
    """A few words about `rtsp://...` or `http://...`, without its password, which is not sent either."""
    try:
        host, port = _place(address)
    except (ValueError, KeyError):
        return "it is not an address"
    parts = urlsplit(address)
    try:
        with socket.create_connection((host, port), PATIENCE_S) as opened:
            if parts.scheme not in ASK:
                return f"{host} can be reached, but gives no video that can be decoded"
            netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            path = parts._replace(scheme="", netloc="").geturl() or "/"
            url = parts._replace(netloc=netloc).geturl()
            opened.sendall(ASK[parts.scheme].format(url=url, path=path, host=netloc).encode("utf-8", "replace"))
            return _told(opened.recv(200), host, password=parts.password is not None)
    except (OSError, UnicodeError) as error:
        return reason(error, address)


def check(address: str, shown: str) -> None:
    """SourceError if a network stream, called `shown`, cannot be connected to soon.

    Libraries that open streams wait for longer, and after the network has come back for as long as it was away.
    """
    try:
        socket.create_connection(_place(address), SOON_S).close()
    except KeyError:
        return  # it is no stream of a server
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown} cannot be reached: {reason(error, address)}") from error


def reason(error: Exception, address: str) -> str:
    """A few words about the error that a connection to a network stream ended in."""
    host, port = _place(address)
    if isinstance(error, socket.gaierror):
        return f"no host is called {host!r}"
    if isinstance(error, socket.timeout):
        return f"{host} does not answer"
    return f"{host}:{port}: {getattr(error, 'strerror', None) or error}"


def _place(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def _told(answer: bytes, host: str, *, password: bool) -> str:
    """What the first line of an answer means."""
    match = re.match(rb"(?:RTSP|HTTP)/\d\.\d (\d{3})[ ]?([ -~]*)", answer)
    if not match:
        return f"{host} hangs up" if not answer else f"{host} speaks another protocol"
    status = int(match[1])
    if status in (401, 403):
        return f"{host} refuses the user or the password" if password else f"{host} asks for a user and a password"
    if status >= 400:
        return f"{host} says {status} {match[2].decode()}".rstrip()
    return f"{host} answers, but gives no video that can be decoded"
