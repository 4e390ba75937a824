"""HTTP: the REST form of the Open Inference Protocol, a friendlier endpoint for pictures, metrics, and the page."""

from __future__ import annotations

import asyncio
import hmac
import logging
from importlib import resources
from typing import TYPE_CHECKING, Any, Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeinfer import pictures
from edgeinfer.serve import openapi, wire
from edgeinfer.serve.bodies import Bodies
from edgeinfer.serve.faces import IMAGE, Work
from edgeinfer.serve.live import Motion, described
from edgeinfer.serve.refusals import (
    FORBIDDEN,
    INVALID,
    LARGE_HEAD,
    OVERLOADED,
    RETRY_AFTER_S,
    UNAUTHENTICATED,
    Refusal,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from edgeinfer.serve.cameras import Camera
    from edgeinfer.serve.service import Service

    Handler = Callable[[Request], Awaitable[Response]]

LOG = logging.getLogger("edgeinfer.serve")
MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# what the page may do: nothing that is not of this service
POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
SAFE = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
NO_STORE = {"cache-control": "no-store"}
PATIENCE_S = 1.0  # that a request for the next picture waits
# what anybody may see: health, and the page itself, which holds nothing and asks for the token
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/")
OPEN_FOLDER = "/page/"


def app(service: Service, *, token: str = "", managed: bool = False) -> ASGIApp:
    """The application; requests must carry the `token`, `managed` lets them load models."""
    routes = Web(service, managed=managed).routes()
    inner = Starlette(routes=routes, exception_handlers={HTTPException: _stray})
    return _Guarded(inner, token, service.limits.head)


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of connections beyond the limit."""
    answer = _refused(Refusal(OVERLOADED, "too many connections"))
    answer.headers["connection"] = "close"
    await answer(scope, receive, send)


class _Guarded:
    """Refuses heads that are too large, however they came, and asks for the token."""

    def __init__(self, inner: ASGIApp, token: str, head: int) -> None:
        self._inner, self._token, self._head = inner, f"Bearer {token}".encode() if token else b"", head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        await (_refused(error) if error else self._inner)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > self._head:
            return Refusal(LARGE_HEAD, f"the request's head is more than the {self._head} bytes allowed")
        path = scope["path"]
        if not self._token or path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        if hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), self._token):
            return None
        return Refusal(UNAUTHENTICATED, "the authorization header does not hold the token")


class Web:
    """The handlers, by protocol and path."""

    def __init__(self, service: Service, *, managed: bool) -> None:
        self._service, self._managed = service, managed
        self._bodies = Bodies(service.limits, service.memory)

    def routes(self) -> list[Route]:
        """Every path there is."""
        model = "/v2/models/{name:str}"
        version = model + "/versions/{version:str}"
        routes = [
            self._route("/v2", self.about),
            self._route("/v2/health/live", self.live),
            self._route("/v2/health/ready", self.ready),
            self._route("/v2/models/stats", self.statistics),
            self._route("/v2/repository/index", self.index, "POST"),
            self._route("/v2/repository/models/{name:str}/load", self.load, "POST"),
            self._route("/v2/repository/models/{name:str}/unload", self.unload, "POST"),
            self._route("/v1/models", self.models),
            self._route("/v1/models/{name:str}/predict", self.predict, "POST"),
            self._route("/v1/models/{name:str}/rollback", self.rollback, "POST"),
            self._route("/v1/cameras", self.cameras),
            self._route("/v1/cameras/{name:str}", self.camera),
            self._route("/v1/cameras/{name:str}/health", self.camera_health),
            self._route("/v1/cameras/{name:str}/latest", self.camera_latest),
            self._route("/v1/cameras/{name:str}/picture", self.camera_picture),
            self._route("/v1/cameras/{name:str}/live", self.camera_live),
            self._route("/metrics", self.metrics),
            self._route("/openapi.json", self.openapi),
            self._route("/", self.page),
            self._route("/page/{file:str}", self.page),
        ]
        for path in (model, version):
            routes += [
                self._route(path, self.metadata),
                self._route(path + "/ready", self.model_ready),
                self._route(path + "/config", self.config),
                self._route(path + "/stats", self.statistics),
                self._route(path + "/infer", self.infer, "POST"),
            ]
        return routes

    def _route(self, path: str, handler: Handler, method: str = "GET") -> Route:
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                told = refusal(error)
                if told is not error and told.kind.http >= 500:
                    LOG.exception("%s %s failed", request.method, request.url.path)
                return _refused(told)

        return Route(path, answer, methods=[method])

    async def about(self, _: Request) -> Response:
        return JSONResponse(self._service.about())

    async def live(self, _: Request) -> Response:
        return _health(self._service.live(), "live")

    async def ready(self, _: Request) -> Response:
        return _health(self._service.is_ready(), "ready")

    async def model_ready(self, request: Request) -> Response:
        return _health(self._service.model_ready(*_model(request)), "ready")

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(self._service.metadata(*_model(request)))

    async def config(self, request: Request) -> Response:
        return JSONResponse(self._service.config(*_model(request)))

    async def statistics(self, request: Request) -> Response:
        return JSONResponse(self._service.statistics(*_model(request)))

    async def infer(self, request: Request) -> Response:
        """The protocol's inference call."""
        name, version = _model(request)
        async with self._bodies.body(request) as body:
            parsed, wanted = wire.parse(name, version, request.headers.get(wire.JSON_LENGTH, ""), body)
            answer = await _while_there(request, self._service.infer(parsed))
        content, headers = wire.written(answer, wanted)
        return Response(content, headers=headers)

    async def models(self, _: Request) -> Response:
        """What is served, for people and the page."""
        rows = []
        for model in self._service.repository.models.values():
            row: dict[str, Any] = {"name": model.name, "state": model.state, "reason": model.reason}
            if version := model.current:
                row.update(
                    version=version.number,
                    state="UNAVAILABLE" if version.fault else model.state,
                    reason=version.fault or model.reason,
                    task=version.spec.task,
                    labels=len(version.spec.labels),
                    runs_on=version.runs_on,
                    rollback=model.previous is not None,
                )
            rows.append(row)
        return JSONResponse(
            {"models": rows, "ready": self._service.is_ready(), "version": self._service.about()["version"]}
        )

    async def predict(self, request: Request) -> Response:
        """A picture in the body, or in a form -> what `edgeinfer run` says of it, or the annotated picture."""
        name = request.path_params["name"]
        seen: list[Any] = []
        async with self._bodies.body(request) as body:
            source, data = await _picture(request, body)

            def look() -> Work:
                seen.append(pictures.decode(data, source, self._service.limits.pixels))
                return Work("image bgr", seen[0])

            face = name if name.endswith(IMAGE) else name + IMAGE
            result, found = await _while_there(request, self._service.see(face, look))
        if _flag(request, "annotate"):
            drawn = await run_in_threadpool(lambda: pictures.encode(result.draw(seen[0]), ".jpg"))
            return Response(drawn, media_type="image/jpeg")
        record = {"source": source, "index": 0, **result.to_dict()}
        return JSONResponse({**record, "model": found.model.name, "model_version": found.version.number})

    async def index(self, request: Request) -> Response:
        self._need_managed()
        async with self._bodies.body(request) as body:
            ready = wire.asked(body).get("ready") is True
        return JSONResponse(self._service.repository.index(ready=ready))

    async def load(self, request: Request) -> Response:
        self._need_managed()
        async with self._bodies.body(request) as body:
            wire.asked(body)
        await self._service.repository.load(request.path_params["name"])
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        self._need_managed()
        async with self._bodies.body(request) as body:
            wire.asked(body, wire.DEPENDENTS)
        await self._service.repository.unload(request.path_params["name"])
        return JSONResponse({})

    async def rollback(self, request: Request) -> Response:
        self._need_managed()
        await self._service.repository.rollback(request.path_params["name"])
        return JSONResponse({})

    def _need_managed(self) -> None:
        if not self._managed:
            raise Refusal(FORBIDDEN, "the model repository is not open to requests; start with --manage")

    async def cameras(self, _: Request) -> Response:
        """How every camera is."""
        return _fresh({"cameras": [camera.state() for camera in self._service.cameras]})

    async def camera(self, request: Request) -> Response:
        return _fresh(self._camera(request).state())

    async def camera_health(self, request: Request) -> Response:
        """503 while the camera does not show the present."""
        health = self._camera(request).look().health
        return _fresh({"color": health.color, "reason": health.reason}, 200 if health.well else 503)

    async def camera_latest(self, request: Request) -> Response:
        """What is in the newest picture, how old that is, and how the camera is."""
        return _fresh(self._camera(request).latest())

    async def camera_picture(self, request: Request) -> Response:
        """The newest picture as a JPEG; with `after`, the next that is not the one of that name, or 204 for none."""
        live = self._service.cameras.gallery.of(self._camera(request))
        coming = live.after(request.query_params.get("after", ""))
        try:
            shown = await asyncio.wait_for(coming, PATIENCE_S)
        except asyncio.TimeoutError:
            return Response(status_code=204)
        return Response(shown.jpeg, media_type="image/jpeg", headers={**NO_STORE, **described(shown)})

    async def camera_live(self, request: Request) -> Response:
        """Motion JPEG."""
        gallery = self._service.cameras.gallery
        gallery.need_place()
        return Motion(gallery.of(self._camera(request)), gallery)

    def _camera(self, request: Request) -> Camera:
        return self._service.cameras.find(request.path_params["name"])

    async def metrics(self, _: Request) -> Response:
        text = await self._service.off_loop(self._service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(openapi.document(self._service.about()["version"]))

    async def page(self, request: Request) -> Response:
        """The page's own files, by their plain names."""
        name = request.path_params.get("file", "index.html")
        files = {file.name: file for file in (resources.files("edgeinfer.serve") / "page").iterdir()}
        suffix = name[name.rfind(".") :]
        if name not in files or suffix not in MEDIA:
            return JSONResponse({"error": f"there is no page {name[:50]!r}"}, 404)
        return Response(files[name].read_bytes(), media_type=MEDIA[suffix], headers=SAFE)


def _fresh(record: Any, status: int = 200) -> Response:
    return JSONResponse(record, status, NO_STORE)


async def _stray(request: Request, error: Exception) -> Response:
    """What Starlette itself says of a request: there is no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    told = f"{request.method} {request.url.path[:100]}: {error.detail}"
    return JSONResponse({"error": told}, error.status_code, error.headers)


def _model(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in ("1", "true", "yes")


def _health(well: bool, word: str) -> Response:
    return JSONResponse({word: well}, 200 if well else 503)


def _refused(error: Refusal) -> JSONResponse:
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.again else {}
    if error.kind == UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.kind.http, headers)


async def _picture(request: Request, body: bytes) -> tuple[str, bytes]:
    """The name and bytes of the picture in a body, or of the first file in a form."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        if not body:
            raise Refusal(INVALID, "the body is empty; send a picture file, or a form with one")
        return "upload", body
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> Any:
        yield body

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise Refusal(INVALID, f"the form cannot be read: {error.message[:100]}") from error
    for value in form.values():
        if isinstance(value, UploadFile):
            return (value.filename or "upload")[:200], await value.read()
    raise Refusal(INVALID, "the form has no file in it")


async def _while_there(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The work's result; it is cancelled when the client hangs up."""
    mine, waits = asyncio.current_task(), True
    assert mine
    gone = asyncio.ensure_future(_gone(request))
    gone.add_done_callback(lambda _: mine.cancel() if waits and not gone.cancelled() else None)
    try:
        return await work
    except asyncio.CancelledError:
        if gone.done():
            raise Refusal(INVALID, "the client has gone") from None
        raise
    finally:
        waits = False
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
