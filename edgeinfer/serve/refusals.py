"""Requests that are not answered with a result: why, and how either protocol says it."""

from __future__ import annotations

import logging
import traceback
from typing import NamedTuple

from edgeinfer.errors import EdgeInferError, InputError, ServiceError, SourceError

LOG = logging.getLogger("edgeinfer.serve")


class Kind(NamedTuple):
    """The HTTP status and the name of the gRPC status."""

    http: int
    grpc: str


INVALID = Kind(400, "INVALID_ARGUMENT")
UNAUTHENTICATED = Kind(401, "UNAUTHENTICATED")
FORBIDDEN = Kind(403, "PERMISSION_DENIED")
NOT_FOUND = Kind(404, "NOT_FOUND")
SLOW = Kind(408, "DEADLINE_EXCEEDED")
EXISTS = Kind(409, "ALREADY_EXISTS")
TOO_LARGE = Kind(413, "RESOURCE_EXHAUSTED")
ENCODED = Kind(415, "INVALID_ARGUMENT")
LARGE_HEAD = Kind(431, "RESOURCE_EXHAUSTED")
INTERNAL = Kind(500, "INTERNAL")
UNSUPPORTED = Kind(501, "UNIMPLEMENTED")
OVERLOADED = Kind(503, "RESOURCE_EXHAUSTED")
UNAVAILABLE = Kind(503, "UNAVAILABLE")
TIMEOUT = Kind(504, "DEADLINE_EXCEEDED")
RETRY_AFTER_S = 1


class Refusal(ServiceError):
    """A request that is refused, or that failed: `kind` says which."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def again(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.kind.http == OVERLOADED.http


def ending() -> Refusal:
    """Of what would go on for long while the service ends."""
    return Refusal(UNAVAILABLE, "the service is ending")


def refusal(error: Exception) -> Refusal:
    """Any error as the protocols say it; what is our own fault keeps its details in the log."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, (InputError, SourceError)):
        return Refusal(INVALID, str(error))
    if isinstance(error, EdgeInferError):
        return Refusal(INTERNAL, f"the model failed: {error}")
    return Refusal(INTERNAL, "the service failed; its log says why")


def logged(error: Exception, what: str) -> Refusal:
    """`refusal` of a request that is over; the log has how `what` failed where that is our own fault."""
    found = refusal(error)
    if found is not error and found.kind.http >= INTERNAL.http:
        LOG.error("%s failed", what, exc_info=error)
    _let_go(error)
    return found


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that an error came through.

    They hold what was sent, megabytes of it, and many hold the future that holds the error: circles, which Python looks
    for when there are many objects, however large.
    """
    seen: set[int] = set()  # a library may chain its errors in a circle
    while error and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
