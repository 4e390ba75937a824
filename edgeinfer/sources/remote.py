"""Pictures and videos on web servers, told from cameras by what the server says of them."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from functools import lru_cache
from http.client import HTTPException
from pathlib import PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, build_opener

from edgeinfer.errors import SourceError
from edgeinfer.naming import PICTURES, STREAMS, VIDEOS

PATIENCE_S = 4.0  # for the connection, and for each piece of an answer: as long as a stream has to open
FETCH_S = 60.0  # for all of a picture
MOST = 128 << 20  # bytes of a picture
PIECE = 1 << 18
PICTURE, VIDEO, STREAM = "picture", "video", "stream"


def kind(address: str) -> str:
    """What `http(s)://...` holds: a picture, a video that ends, or a stream, as passes whatever else is answered.

    Raises OSError where there is no answer.
    """
    if suffix(address) in STREAMS:
        return STREAM
    try:
        return _told(address)
    except HTTPError as error:
        error.close()
    except URLError as error:
        # players of streams do not mind certificates
        if isinstance(error.reason, OSError) and not isinstance(error.reason, ssl.SSLError):
            raise error.reason from None
    except socket.timeout:
        raise
    except (OSError, HTTPException, ValueError):
        pass
    return STREAM


@lru_cache(maxsize=256)  # of answers: who gave none is asked again
def _told(address: str) -> str:
    """The type that the server gives it decides, then its path; a video besides has a length."""
    with _asked(address) as answer:
        told, ends = answer.headers.get_content_type(), (answer.headers["content-length"] or "").isdecimal()
    end, (family, _, _) = suffix(address), told.partition("/")
    if family == "image" or (end in PICTURES and family not in ("multipart", "video")):
        return PICTURE
    return VIDEO if ends and (family == "video" or (end in VIDEOS and family != "multipart")) else STREAM


def ask_again() -> None:
    """Remember no answers: a camera that starts may show a picture at first."""
    _told.cache_clear()


def fetch(address: str, shown: str) -> bytes:
    """The bytes of a picture. SourceError, in which it is called `shown`, if it cannot be had within the limits."""
    data, late = bytearray(), time.monotonic() + FETCH_S
    try:
        with _asked(address) as answer:
            while piece := answer.read1(PIECE):
                data += piece
                if len(data) > MOST or time.monotonic() > late:
                    raise SourceError(f"{shown} is more than {MOST >> 20} MiB, or takes more than {FETCH_S:g} s")
            if len(data) < int(answer.headers["content-length"] or 0):
                raise SourceError(f"{shown} broke off after {len(data)} bytes", hint="try again")
    except HTTPError as error:
        error.close()
        raise SourceError(f"{shown} cannot be read: the server says {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise SourceError(f"{shown} cannot be read: {getattr(error, 'reason', None) or error}") from None
    return bytes(data)


def suffix(address: str) -> str:
    """What the path of an address ends in, such as `.jpg`."""
    return PurePosixPath(name(address)).suffix.lower()


def name(address: str) -> str:
    """The last part of an address's path, where a file's name would be."""
    try:
        return PurePosixPath(unquote(urlsplit(address).path)).name
    except ValueError:
        return ""


def _asked(address: str) -> Any:
    """The answer to a GET; the user and the password in the address are for its own host alone."""
    parts = urlsplit(address)
    _ = parts.port  # ValueError, where it is none
    user, _, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host, fragment="").geturl())  # noqa: S310 - of http and https
    if user:
        told = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {told}")
    return build_opener().open(request, timeout=PATIENCE_S)
