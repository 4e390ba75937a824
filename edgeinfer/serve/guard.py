"""Who may come in: heads are measured and tokens compared before anything else is looked at."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from edgeinfer.serve.refusals import LARGE_HEAD, UNAUTHENTICATED, Refusal
from edgeinfer.serve.replies import refused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# what anybody may see: health, and the pages themselves, which hold nothing and ask for the token
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/", "/docs")
OPEN_FOLDER = "/page/"


def bears(authorization: bytes, token: str) -> bool:
    """Whether this is what an Authorization header says of the token; the case of its scheme does not matter."""
    scheme, _, told = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(told.strip(), token.encode())


class Guarded:
    """Refuses heads that are too large, however they came, and asks for the token."""

    def __init__(self, inner: ASGIApp, token: str, head: int) -> None:
        self._inner, self._token, self._head = inner, token, head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (refused(error) if error else self._inner)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > self._head:
            return Refusal(LARGE_HEAD, f"the request's head is more than the {self._head} bytes allowed")
        path = scope["path"]
        if not self._token or path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        if bears(dict(scope["headers"]).get(b"authorization", b""), self._token):
            return None
        return Refusal(UNAUTHENTICATED, "the authorization header does not hold the token")
