"""gRPC: the Open Inference Protocol, with Triton's repository and statistics calls, and gRPC's health protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from edgeinfer.errors import ServiceError
from edgeinfer.serve import contents, messages, probes, tensors
from edgeinfer.serve.guard import bears
from edgeinfer.serve.refusals import FORBIDDEN, INVALID, RETRY_AFTER_S, TOO_LARGE, UNAUTHENTICATED, Refusal, told
from edgeinfer.serve.regions import whole
from edgeinfer.serve.wire import DEPENDENTS, need_known

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence
    from pathlib import Path

    from edgeinfer.serve.service import Answer, Request, Service
    from edgeinfer.serve.tensors import Buffer

    Call = Callable[[Any], Awaitable[Any]]

IDLE_S = 60.0  # without a call before a connection is given up: clients make another one when they have one
SPARE = 1 << 20  # bytes of a message beside the tensors, or of one that has none
RETRY = "grpc-retry-pushback-ms"  # metadata that clients with a retry policy wait for
FINAL = "triton_final_response"  # a parameter of answers in a stream: no more will come to this request
# calls that need no token; whoever watches needs one, for it takes a place for as long as it likes
OPEN_CALLS = ("ServerLive", "ServerReady", "Check")


class Started:
    """A server that listens on `port`."""

    def __init__(self, server: Any, port: int, health: probes.Probes) -> None:
        self._server, self.port, self._health = server, port, health

    async def stop(self, grace: float) -> None:
        """Take nothing more, and give what runs so many seconds."""
        self._health.end()
        await self._server.stop(grace)


async def start(
    service: Service,
    host: str,
    port: int,
    *,
    tls: tuple[Path, Path] | None = None,
    token: str = "",
    managed: bool = False,
) -> Started:
    """Listen on host:port (0: a free one). ServiceError if that cannot be."""
    most, slow_ms = service.limits.body + SPARE, int(1000 * service.limits.slow)
    options = [
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        ("grpc.max_metadata_size", service.limits.head),
        ("grpc.max_allowed_incoming_connections", service.limits.connections),
        ("grpc.max_connection_idle_ms", int(1000 * IDLE_S)),
        ("grpc.server_handshake_timeout_ms", slow_ms),
        # whose other end is gone, or stands still, takes no place for ever: a stream would, and an answer nobody reads
        ("grpc.keepalive_time_ms", slow_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.ping_timeout_ms", slow_ms),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=service.limits.connections)
    calls, health = Calls(service, token=token, managed=managed), probes.Probes(service)
    handlers = {messages.SERVICE: calls.handlers(), probes.SERVICE: calls.health_handlers(health)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*pair) for pair in handlers.items()])
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise ServiceError(f"cannot listen on {address} for gRPC", hint="choose another with --grpc-port") from error
    if not bound:
        raise ServiceError(f"cannot listen on {address} for gRPC", hint="choose another with --grpc-port")
    await server.start()
    return Started(server, bound, health)


def _credentials(tls: tuple[Path, Path]) -> Any:
    certificate, key = tls
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


class Calls:
    """The protocol's calls, each from a message to a message."""

    def __init__(self, service: Service, *, token: str, managed: bool) -> None:
        self._service, self._managed, self._token = service, managed, token

    def handlers(self) -> dict[str, Any]:
        """What gRPC dispatches to, by the call's name."""
        calls: dict[str, Call] = {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ServerMetadata": self.about,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.metadata,
            "ModelConfig": self.config,
            "ModelStatistics": self.statistics,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "SystemSharedMemoryStatus": self.regions,
            "SystemSharedMemoryRegister": self.register,
            "SystemSharedMemoryUnregister": self.unregister,
            "CudaSharedMemoryStatus": self.cuda_regions,
            "CudaSharedMemoryRegister": self.register_cuda,
            "CudaSharedMemoryUnregister": self.unregister_cuda,
        }
        found = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answered(name, _reading(messages.message(f"{name}Request"), call)),
                response_serializer=messages.message(f"{name}Response").SerializeToString,
            )
            for name, call in calls.items()
        }
        # these two read and write messages themselves: see contents
        found["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._answered("ModelInfer", self.infer))
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return found

    def health_handlers(self, health: probes.Probes) -> dict[str, Any]:
        """The same for the health protocol."""
        request, response = (
            messages.message(name, messages.HEALTH) for name in ("HealthCheckRequest", "HealthCheckResponse")
        )
        written = response.SerializeToString

        async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._admit("Watch", context)
            async for status in health.watch(request):
                yield status

        check = self._answered("Check", _reading(request, health.check))
        return {
            "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=written),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, request.FromString, written),
        }

    def _answered(self, name: str, call: Call) -> Any:
        async def answer(data: bytes, context: Any) -> Any:
            try:
                self._need_token(name, context)
                return await call(data)
            except Exception as error:  # noqa: BLE001 - the client is told, and the log
                found = told(error, name)
                hint = ((RETRY, str(1000 * RETRY_AFTER_S)),) if found.again else ()
                await context.abort(getattr(grpc.StatusCode, found.kind.grpc), str(found), hint)

        return answer

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Requests one after the other; an error is an answer, and the stream goes on."""
        answer = messages.message("ModelStreamInferResponse")
        await self._admit("ModelStreamInfer", context)
        async for data in requests:
            identity = ""
            try:
                with self._service.memory.share() as take:
                    take(len(data))
                    request, raw, count = contents.split(data, self._service.limits)
                    identity = request.id
                    head, outputs = contents.answered(await self._asked(request, raw, count))
                head.parameters[FINAL].bool_param = True
                yield contents.streamed(head, outputs)
            except Exception as error:  # noqa: BLE001 - the client is told, and the log
                failed = str(told(error, "ModelStreamInfer"))
                yield answer(error_message=failed, infer_response={"id": identity}).SerializeToString()

    async def _admit(self, name: str, context: Any) -> None:
        """End a stream that does not bring the token."""
        try:
            self._need_token(name, context)
        except Refusal as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    def _need_token(self, name: str, context: Any) -> None:
        if not self._token or name in OPEN_CALLS:
            return
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not bears(str(given).encode(), self._token):
            raise Refusal(UNAUTHENTICATED, "the authorization metadata does not hold the token")

    def _need_managed(self) -> None:
        if not self._managed:
            raise Refusal(FORBIDDEN, "the model repository is not open to requests; start with --manage")

    async def live(self, _: Any) -> Any:
        return messages.message("ServerLiveResponse")(live=self._service.live())

    async def ready(self, _: Any) -> Any:
        return messages.message("ServerReadyResponse")(ready=self._service.is_ready())

    async def about(self, _: Any) -> Any:
        return _filled("ServerMetadataResponse", self._service.about())

    async def model_ready(self, request: Any) -> Any:
        return messages.message("ModelReadyResponse")(ready=self._service.model_ready(request.name, request.version))

    async def metadata(self, request: Any) -> Any:
        return _filled("ModelMetadataResponse", self._service.metadata(request.name, request.version))

    async def config(self, request: Any) -> Any:
        config = self._service.config(request.name, request.version)
        for slot in (*config["input"], *config["output"]):
            slot["data_type"] = messages.DATA_TYPES[slot["data_type"].partition("_")[2]]
        return _filled("ModelConfigResponse", {"config": config})

    async def statistics(self, request: Any) -> Any:
        return _filled("ModelStatisticsResponse", self._service.statistics(request.name, request.version))

    async def infer(self, data: bytes) -> bytes:
        """The protocol's inference call, message to message; answers are raw contents."""
        with self._service.memory.share() as take:
            take(len(data))
            return contents.response(*contents.answered(await self._asked(*contents.split(data, self._service.limits))))

    def _asked(self, request: Any, raw: Sequence[Buffer], count: int) -> Awaitable[Answer]:
        """The service's answer to a ModelInferRequest, its raw contents, and so many numbers beside them."""

        def parsed() -> Request:
            return contents.request(request, raw, self._service.regions)

        async def read(_: Any) -> Request:
            return await self._service.off_loop(parsed) if count > tensors.PIECE else parsed()

        return self._service.infer(request.model_name, request.model_version, read)

    async def index(self, request: Any) -> Any:
        self._need_managed()
        return _filled("RepositoryIndexResponse", {"models": await self._service.repository.index(ready=request.ready)})

    async def load(self, request: Any) -> Any:
        self._need_managed()
        need_known(request.parameters, "the request")
        await self._service.repository.load(request.model_name)
        return messages.message("RepositoryModelLoadResponse")()

    async def unload(self, request: Any) -> Any:
        self._need_managed()
        need_known(request.parameters, "the request", DEPENDENTS)
        await self._service.repository.unload(request.model_name)
        return messages.message("RepositoryModelUnloadResponse")()

    async def regions(self, request: Any) -> Any:
        rows = {row["name"]: row for row in self._service.regions.status(request.name)}
        return _filled("SystemSharedMemoryStatusResponse", {"regions": rows})

    async def register(self, request: Any) -> Any:
        spot = whole(request.offset, "offset"), whole(request.byte_size, "byte_size")
        self._service.regions.register(request.name, request.key, *spot)
        return messages.message("SystemSharedMemoryRegisterResponse")()

    async def unregister(self, request: Any) -> Any:
        self._service.regions.unregister(request.name)
        return messages.message("SystemSharedMemoryUnregisterResponse")()

    async def cuda_regions(self, request: Any) -> Any:
        self._service.regions.cuda(request.name)
        return messages.message("CudaSharedMemoryStatusResponse")()

    async def register_cuda(self, request: Any) -> Any:
        self._service.regions.register_cuda(request.name)
        return messages.message("CudaSharedMemoryRegisterResponse")()

    async def unregister_cuda(self, _: Any) -> Any:
        self._service.regions.cuda()
        return messages.message("CudaSharedMemoryUnregisterResponse")()


def _reading(kind: Any, call: Call) -> Call:
    """A call that takes a small message of this kind, as one that takes its bytes. Refusal if they are none."""

    async def answer(data: bytes) -> Any:
        name = kind.DESCRIPTOR.name
        if len(data) > SPARE:
            raise Refusal(TOO_LARGE, f"the {name} is more than the {SPARE} bytes allowed")
        try:
            request = kind.FromString(data)
        except DecodeError as error:
            raise Refusal(INVALID, f"the message is no {name}: {str(error)[:100]}") from error
        return await call(request)

    return answer


def _filled(name: str, record: dict[str, Any]) -> Any:
    return json_format.ParseDict(record, messages.message(name)())
