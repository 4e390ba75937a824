"""gRPC's own health protocol (grpc.health.v1), which Kubernetes' probes, load balancers and grpc_health_probe speak."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from edgeinfer.serve import messages
from edgeinfer.serve.refusals import NOT_FOUND, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edgeinfer.serve.service import Service

SERVICE = f"{messages.HEALTH}.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
LOOK_S = 0.5  # how often it is looked at for those who watch


class Probes:
    """Tells whether the service is ready; models are no services of this protocol, ModelReady tells of them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def check(self, request: Any) -> Any:
        """The status now. Refusal for a service there is not."""
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            told = f"service {request.service[:100]!r} is not {messages.SERVICE}, nor empty for all there is"
            raise Refusal(NOT_FOUND, told)
        return _response(status)

    async def watch(self, request: Any, over: asyncio.Future[Any]) -> AsyncIterator[Any]:
        """The status now, and every other from then on, until `over`, which is raised once all there was is told."""
        told = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                yield _response(status)
            elif over.done():
                break
            else:
                await asyncio.wait((over,), timeout=LOOK_S)
        over.result()

    def _status(self, name: str) -> int:
        if name not in ("", messages.SERVICE):
            return SERVICE_UNKNOWN
        return SERVING if self._service.is_ready() else NOT_SERVING


def _response(status: int) -> Any:
    return messages.message("HealthCheckResponse", messages.HEALTH)(status=status)
