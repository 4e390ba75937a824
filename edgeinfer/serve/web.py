"""HTTP: the REST form of the Open Inference Protocol, a friendlier endpoint for pictures, metrics, and the page."""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from edgeinfer import pictures
from edgeinfer.serve import openapi, tensors, wire
from edgeinfer.serve.bodies import Bodies, picture
from edgeinfer.serve.faces import IMAGE, Work
from edgeinfer.serve.guard import Guarded
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.serve.replies import disconnected, health, route
from edgeinfer.serve.sharing import Sharing
from edgeinfer.serve.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.requests import Request
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from edgeinfer.serve.repository import Found
    from edgeinfer.serve.service import Answer, Service
    from edgeinfer.serve.service import Request as Asked


MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FRONTS = {"/": "index.html", "/docs": "docs.html"}
# what the page may do: nothing that is not of this service
POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
SAFE = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def app(service: Service, *, token: str = "") -> ASGIApp:
    """The application; requests must carry the `token`."""
    inner = Starlette(routes=Web(service).routes(), exception_handlers={HTTPException: _stray})
    inner.router.redirect_slashes = False  # to where the Host header says
    return Guarded(inner, token, service.limits.head)


class Web:
    """The handlers, by protocol and path."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = Bodies(service.limits, service.memory, service.off_loop)

    def routes(self) -> list[Route]:
        """Every path there is; those of inference first, since each is compared with the request's in turn."""
        model = "/v2/models/{name:str}"
        version = model + "/versions/{version:str}"
        routes = [
            route(model + "/infer", self.infer, "POST"),
            route(version + "/infer", self.infer, "POST"),
            route("/v1/models/{name:str}/predict", self.predict, "POST"),
            route("/v2", self.about),
            route("/v2/health/live", self.live),
            route("/v2/health/ready", self.ready),
            route("/v2/models/stats", self.statistics),
            route("/v2/repository/index", self.index, "POST"),
            route("/v2/repository/models/{name:str}/load", self.load, "POST"),
            route("/v2/repository/models/{name:str}/unload", self.unload, "POST"),
            route("/v1/models", self.models),
            route("/v1/models/{name:str}/rollback", self.rollback, "POST"),
            *Watching(self._service.cameras).routes(),
            *Sharing(self._service.regions, self._bodies).routes(),
            route("/metrics", self.metrics),
            route("/openapi.json", self.openapi),
            *(route(path, self.page) for path in FRONTS),
            route("/page/{file:str}", self.page),
        ]
        for path in (model, version):
            routes += [
                route(path, self.metadata),
                route(path + "/ready", self.model_ready),
                route(path + "/config", self.config),
                route(path + "/stats", self.statistics),
            ]
        return routes

    async def about(self, _: Request) -> Response:
        return JSONResponse(self._service.about())

    async def live(self, _: Request) -> Response:
        return health(self._service.live(), "live")

    async def ready(self, _: Request) -> Response:
        return health(self._service.is_ready(), "ready", self._service.why_unready())

    async def model_ready(self, request: Request) -> Response:
        return health(self._service.model_ready(*_model(request)), "ready")

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(self._service.metadata(*_model(request)))

    async def config(self, request: Request) -> Response:
        return JSONResponse(self._service.config(*_model(request)))

    async def statistics(self, request: Request) -> Response:
        return JSONResponse(self._service.statistics(*_model(request)))

    async def infer(self, request: Request) -> Response:
        """The protocol's inference call."""
        name, version = _model(request)
        length, wanted = request.headers.get(wire.JSON_LENGTH, ""), wire.Wanted({}, everything=False)
        async with self._bodies.body(request) as body:

            def parsed() -> tuple[Asked, wire.Wanted]:
                return wire.parse(name, length, body, self._service.regions, self._service.limits)

            async def read(found: Found) -> Asked:
                nonlocal wanted
                face = found.face
                if length == wire.NO_JSON:
                    asked = wire.bare(body, face.inputs)
                else:
                    asked, wanted = await self._service.off_loop(parsed) if wire.is_long(length, body) else parsed()
                values = wire.expected(asked, wanted, face.outputs, found.version.spec.batch.max)
                tensors.check_few(values, self._service.limits)
                return asked

            def fits(answer: Answer) -> None:
                tensors.check_few(wire.plain(answer, wanted), self._service.limits)

            answer = await _while_there(request, self._service.infer(name, version, read, fits))
        if wire.plain(answer, wanted) > tensors.PIECE:
            content, headers = await self._service.off_loop(lambda: wire.written(answer, wanted))
        else:
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
        self._service.repository.model(name)
        seen: list[Any] = []
        async with self._bodies.body(request) as body:
            source, data = await picture(request, body)

            def look() -> Work:
                seen.append(pictures.decode(data, source, self._service.limits.pixels))
                return Work("image bgr", seen[0])

            face = name if name.endswith(IMAGE) else name + IMAGE
            result, found = await _while_there(request, self._service.see(face, look))
        if _flag(request, "annotate"):
            drawn = await self._service.off_loop(lambda: pictures.encode(result.draw(seen[0]), ".jpg"))
            return Response(drawn, media_type="image/jpeg")
        record = {"source": source, "index": 0, **result.to_dict()}
        return JSONResponse({**record, "model": found.model.name, "model_version": found.version.number})

    async def index(self, request: Request) -> Response:
        self._service.need_managed()
        async with self._bodies.body(request) as body:
            ready = wire.asked(body).get("ready") is True
        return JSONResponse(await self._service.repository.index(ready=ready))

    async def load(self, request: Request) -> Response:
        self._service.need_managed()
        async with self._bodies.body(request) as body:
            wire.asked(body)
        await self._service.repository.load(request.path_params["name"])
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        self._service.need_managed()
        async with self._bodies.body(request) as body:
            wire.asked(body, wire.DEPENDENTS)
        await self._service.repository.unload(request.path_params["name"])
        return JSONResponse({})

    async def rollback(self, request: Request) -> Response:
        self._service.need_managed()
        await self._service.repository.rollback(request.path_params["name"])
        return JSONResponse({})

    async def metrics(self, _: Request) -> Response:
        return Response(await self._service.exposition(), media_type="text/plain; version=0.0.4")

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(openapi.document(self._service.about()["version"]))

    async def page(self, request: Request) -> Response:
        """The page's own files, by their plain names."""
        name = request.path_params.get("file") or FRONTS[request.url.path]
        files = {file.name: file for file in (resources.files("edgeinfer.serve") / "page").iterdir()}
        suffix = name[name.rfind(".") :]
        if name not in files or suffix not in MEDIA:
            return JSONResponse({"error": f"there is no page {name[:50]!r}"}, 404)
        return Response(files[name].read_bytes(), media_type=MEDIA[suffix], headers=SAFE)


async def _stray(request: Request, error: Exception) -> Response:
    """What Starlette itself says of a request: there is no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    told = f"{request.method} {request.url.path[:100]}: {error.detail}"
    return JSONResponse({"error": told}, error.status_code, error.headers)


def _model(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in ("1", "true", "yes")


async def _while_there(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The work's result; it is cancelled when the client hangs up."""
    mine, waits = asyncio.current_task(), True
    assert mine
    left = asyncio.ensure_future(disconnected(request.receive))
    left.add_done_callback(lambda _: mine.cancel() if waits and not left.cancelled() else None)
    try:
        return await work
    except asyncio.CancelledError:
        if left.done():
            raise Refusal(INVALID, "the client has gone") from None
        raise
    finally:
        waits = False
        left.cancel()
