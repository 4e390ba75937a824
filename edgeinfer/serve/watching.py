"""Cameras over HTTP: how they are, what they show, and live pictures of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from edgeinfer.serve.live import Motion, described
from edgeinfer.serve.replies import NO_STORE, fresh, route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

    from edgeinfer.serve.cameras import Camera, Cameras

PATIENCE_S = 1.0  # that a request for the next picture waits


class Watching:
    """The handlers below /v1/cameras."""

    def __init__(self, cameras: Cameras) -> None:
        self._cameras = cameras

    def routes(self) -> list[Route]:
        """Every path there is."""
        camera = "/v1/cameras/{name:str}"
        return [
            route("/v1/cameras", self.every),
            route(camera, self.one),
            route(camera + "/health", self.health),
            route(camera + "/latest", self.latest),
            route(camera + "/picture", self.picture),
            route(camera + "/live", self.live),
        ]

    async def every(self, _: Request) -> Response:
        """How every camera is."""
        return fresh({"cameras": [camera.state() for camera in self._cameras]})

    async def one(self, request: Request) -> Response:
        """How one camera is."""
        return fresh(self._find(request).state())

    async def health(self, request: Request) -> Response:
        """503 while the camera does not show the present."""
        health = self._find(request).look().health
        return fresh({"color": health.color, "reason": health.reason}, 200 if health.well else 503)

    async def latest(self, request: Request) -> Response:
        """What is in the newest picture, how old that is, and how the camera is."""
        return fresh(self._find(request).latest())

    async def picture(self, request: Request) -> Response:
        """The newest picture as a JPEG; with `after`, the next that is not the one of that name, or 204 for none."""
        camera = self._find(request)
        live = self._cameras.gallery.of(camera)
        if not await live.differs(request.query_params.get("after", ""), PATIENCE_S):
            return Response(status_code=204)
        shown = await live.newest()
        return Response(shown.jpeg, media_type="image/jpeg", headers={**NO_STORE, **described(shown)})

    async def live(self, request: Request) -> Response:
        """Motion JPEG."""
        camera, gallery = self._find(request), self._cameras.gallery
        gallery.need_place()
        return Motion(gallery.of(camera), gallery)

    def _find(self, request: Request) -> Camera:
        return self._cameras.find(request.path_params["name"])
