"""HTTP's calls about shared memory, by the paths of Triton's extension."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from edgeinfer.serve import wire
from edgeinfer.serve.refusals import INVALID, Refusal
from edgeinfer.serve.regions import whole
from edgeinfer.serve.replies import fresh, route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

    from edgeinfer.serve.bodies import Bodies
    from edgeinfer.serve.regions import Regions


class Sharing:
    """The handlers, by path."""

    def __init__(self, regions: Regions, bodies: Bodies) -> None:
        self._regions, self._bodies = regions, bodies

    def routes(self) -> list[Route]:
        """Every path there is."""
        region = "/v2/systemsharedmemory/region/{name:str}"
        cuda = "/v2/cudasharedmemory"
        return [
            route("/v2/systemsharedmemory/status", self.status),
            route("/v2/systemsharedmemory/unregister", self.unregister, "POST"),
            route(region + "/status", self.status),
            route(region + "/register", self.register, "POST"),
            route(region + "/unregister", self.unregister, "POST"),
            route(cuda + "/status", self.cuda),
            route(cuda + "/unregister", self.unregister_cuda, "POST"),
            route(cuda + "/region/{name:str}/status", self.cuda),
            route(cuda + "/region/{name:str}/register", self.register_cuda, "POST"),
            route(cuda + "/region/{name:str}/unregister", self.unregister_cuda, "POST"),
        ]

    async def status(self, request: Request) -> Response:
        return fresh(self._regions.status(_name(request)))

    async def register(self, request: Request) -> Response:
        async with self._bodies.body(request) as body:
            record = wire.asked(body)
        key, size = record.get("key"), record.get("byte_size")
        if not isinstance(key, str) or size is None:
            raise Refusal(INVALID, "a shared memory region has a key, its name there, and a byte_size")
        self._regions.register(_name(request), key, whole(record.get("offset", 0), "offset"), whole(size, "byte_size"))
        return JSONResponse({})

    async def unregister(self, request: Request) -> Response:
        self._regions.unregister(_name(request))
        return JSONResponse({})

    async def cuda(self, request: Request) -> Response:
        return fresh(self._regions.cuda(_name(request)))

    async def register_cuda(self, request: Request) -> Response:
        self._regions.register_cuda(_name(request))
        return JSONResponse({})

    async def unregister_cuda(self, _: Request) -> Response:
        self._regions.cuda()
        return JSONResponse({})


def _name(request: Request) -> str:
    return str(request.path_params.get("name", ""))
