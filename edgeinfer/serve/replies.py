"""What HTTP answers look like that are the same for every path, and how a handler comes to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeinfer.serve.refusals import RETRY_AFTER_S, UNAUTHENTICATED, Refusal, logged

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.requests import Request
    from starlette.types import Receive

    Handler = Callable[[Request], Awaitable[Response]]

NO_STORE = {"cache-control": "no-store"}


def route(path: str, handler: Handler, method: str = "GET") -> Route:
    """The handler under this path; what it raises is answered as the protocols say it."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            return refused(logged(error, f"{request.method} {request.url.path}"))

    return Route(path, answer, methods=[method])


def refused(error: Refusal) -> JSONResponse:
    """Why not, and when to come again."""
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.again else {}
    if error.kind == UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.kind.http, headers)


def health(well: bool, word: str, reason: str = "") -> Response:
    """503 if it is not well, with the reason if there is one to tell."""
    return JSONResponse({word: well, **({"reason": reason} if reason else {})}, 200 if well else 503)


def fresh(record: Any, status: int = 200) -> Response:
    """What is true of this moment only."""
    return JSONResponse(record, status, NO_STORE)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has hung up; what it sends until then is passed over."""
    while (await receive())["type"] != "http.disconnect":
        continue
