"""gRPC: the Open Inference Protocol, with Triton's repository and statistics calls, and gRPC's health protocol."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from edgeinfer.errors import ServiceError
from edgeinfer.serve import contents, messages, probes, tensors
from edgeinfer.serve.callers import Callers
from edgeinfer.serve.connections import BEYOND
from edgeinfer.serve.guard import bears
from edgeinfer.serve.refusals import INVALID, RETRY_AFTER_S, TOO_LARGE, UNAUTHENTICATED, Refusal, logged
from edgeinfer.serve.regions import whole
from edgeinfer.serve.wire import DEPENDENTS, need_known

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path

    from edgeinfer.serve.service import Answer, Request, Service
    from edgeinfer.serve.tensors import Buffer

    Call = Callable[[Any], Awaitable[Any]]

IDLE_S = 60.0  # without a call before a connection is given up: clients make another one when they have one
SPARE = 1 << 20  # bytes of a message beside the tensors, or of one that has none
RETRY = "grpc-retry-pushback-ms"  # metadata that clients with a retry policy wait for
FINAL = "triton_final_response"  # a parameter of answers in a stream: no more will come to this request
BOUNDED = 1, 84  # the release from which a message is not unpacked beyond the size that is allowed
LARGEST = (1 << 31) - 1  # that an option of gRPC's core may be
PLAIN = 1  # of the sets of packings the one that has none
# calls that need no token; whoever watches needs one, for it takes a place for long
OPEN_CALLS = ("ServerLive", "ServerReady", "HealthCheck")


class Started:
    """A server that listens on `port`."""

    def __init__(self, server: Any, port: int, callers: Callers) -> None:
        self._server, self.port, self._callers = server, port, callers

    async def stop(self, grace: float) -> None:
        """Take nothing more, and give what runs so many seconds."""
        self._callers.end()
        await self._server.stop(grace)


async def start(
    service: Service,
    host: str,
    port: int,
    *,
    tls: tuple[Path, Path] | None = None,
    token: str = "",
) -> Started:
    """Listen on host:port (0: a free one). ServiceError if that cannot be."""
    slow_ms = int(1000 * service.limits.slow)
    wanted = {
        "grpc.max_receive_message_length": service.limits.body + SPARE,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": 0,
        "grpc.max_metadata_size": service.limits.head,
        "grpc.max_allowed_incoming_connections": service.limits.connections,
        "grpc.max_connection_idle_ms": int(1000 * IDLE_S),
        "grpc.server_handshake_timeout_ms": slow_ms,
        # whose other end is gone, or stands still, takes no place for ever: a stream would, and an answer nobody reads
        "grpc.keepalive_time_ms": slow_ms,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.http2.ping_timeout_ms": slow_ms,
    }
    if not unpacks():
        wanted["grpc.compression_enabled_algorithms_bitset"] = PLAIN
    options = [(name, min(value, LARGEST)) for name, value in wanted.items()]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=service.limits.connections + BEYOND)
    callers = Callers(service.limits)
    calls = Calls(service, callers, token=token)
    handlers = {messages.SERVICE: calls.handlers(), probes.SERVICE: calls.health_handlers()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*pair) for pair in handlers.items()])
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise ServiceError(f"cannot listen on {address} for gRPC", hint="choose another with --grpc-port") from error
    if not bound:
        raise ServiceError(f"cannot listen on {address} for gRPC", hint="choose another with --grpc-port")
    await server.start()
    return Started(server, bound, callers)


def unpacks() -> bool:
    """Whether packed messages are taken: older releases of gRPC make 64 GB of 64 MB before they look at the size."""
    return tuple(map(int, grpc.__version__.split(".")[:2])) >= BOUNDED


def _credentials(tls: tuple[Path, Path]) -> Any:
    certificate, key = tls
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


class Calls:
    """The protocol's calls, each from a message to a message."""

    def __init__(self, service: Service, callers: Callers, *, token: str) -> None:
        self._service, self._callers, self._token = service, callers, token

    def handlers(self) -> dict[str, Any]:
        """What gRPC dispatches to, by the call's name; every call reads its messages itself."""
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
        found = {name: self._small(name, call, messages.PACKAGE) for name, call in calls.items()}
        # these two read and write messages themselves: see contents
        found["ModelInfer"] = self._unary("ModelInfer", self.infer)
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._admitted("ModelStreamInfer", self._stream)
        )
        return found

    def health_handlers(self) -> dict[str, Any]:
        """The same for the health protocol."""
        health, kind = probes.Probes(self._service), messages.message("HealthCheckRequest", messages.HEALTH)

        async def watch(context: Any) -> None:
            request = _parsed(kind, await self._message(context))
            with self._callers.wait(stream=True) as over:
                async for status in health.watch(request, over):
                    await context.write(status.SerializeToString())

        check = self._small("HealthCheck", health.check, messages.HEALTH)
        return {"Check": check, "Watch": grpc.stream_stream_rpc_method_handler(self._admitted("Watch", watch))}

    def _small(self, name: str, call: Call, package: str) -> Any:
        """The handler of a call from a small message to one."""
        kind = messages.message(f"{name}Request", package)

        async def answer(data: bytes) -> bytes:
            answered: bytes = (await call(_parsed(kind, data))).SerializeToString()
            return answered

        return self._unary(name, answer)

    def _unary(self, name: str, call: Callable[[bytes], Awaitable[bytes]]) -> Any:
        async def answer(context: Any) -> bytes:
            return await call(await self._message(context))

        return grpc.stream_unary_rpc_method_handler(self._admitted(name, answer))

    async def _message(self, context: Any) -> bytes:
        """The message of a call that has one only."""
        data: bytes = await self._callers.message(context)
        if data is grpc.aio.EOF:
            raise Refusal(INVALID, "the call came without its message")
        return data

    async def _stream(self, context: Any) -> None:
        """Requests one after the other; an error is an answer, and the stream goes on."""
        while await self._answered(context):
            continue

    async def _answered(self, context: Any) -> bool:
        """Answer a stream's next request, of which nothing is kept while another is waited for; False at the end."""
        data = await self._callers.message(context, stream=True)
        if data is grpc.aio.EOF:
            return False
        await context.write(await self._streamed(data))
        return True

    async def _streamed(self, data: bytes) -> bytes:
        identity = ""
        try:
            with self._service.memory.share() as take:
                take(len(data))
                request, raw, count = contents.split(data, self._service.limits)
                identity = request.id
                head, outputs = contents.answered(await self._asked(request, raw, count))
            head.parameters[FINAL].bool_param = True
            return contents.streamed(head, outputs)
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            failed = str(logged(error, "ModelStreamInfer"))
            answer = messages.message("ModelStreamInferResponse")
            written: bytes = answer(error_message=failed, infer_response={"id": identity}).SerializeToString()
            return written

    def _admitted(self, name: str, work: Call) -> Any:
        """The work on a call, once it has a place and its token was seen; an error is how the call ends."""

        async def answer(_: Any, context: Any) -> Any:
            try:
                with self._callers.place(reserved=name in OPEN_CALLS):
                    self._need_token(name, context)
                    return await work(context)
            except Exception as error:  # noqa: BLE001 - the client is told, and the log
                end = _end(error, name)
            # out here, where it is not raised of that error: gRPC keeps what is raised, and all that it came of
            return await context.abort(*end)

        return answer

    def _need_token(self, name: str, context: Any) -> None:
        if not self._token or name in OPEN_CALLS:
            return
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not bears(str(given).encode(), self._token):
            raise Refusal(UNAUTHENTICATED, "the authorization metadata does not hold the token")

    async def live(self, _: Any) -> Any:
        return messages.message("ServerLiveResponse")(live=self._service.live())

    async def ready(self, _: Any) -> Any:
        return messages.message("ServerReadyResponse")(ready=self._service.is_ready())

    async def about(self, _: Any) -> Any:
        return _filled("ServerMetadataResponse", self._service.about())

    async def model_ready(self, request: Any) -> Any:
        ready = False
        with suppress(Refusal):  # Triton's clients hear of a model there is not that it is not ready
            ready = self._service.model_ready(request.name, request.version)
        return messages.message("ModelReadyResponse")(ready=ready)

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
        self._service.need_managed()
        return _filled("RepositoryIndexResponse", {"models": await self._service.repository.index(ready=request.ready)})

    async def load(self, request: Any) -> Any:
        self._service.need_managed()
        need_known(request.parameters, "the request")
        await self._service.repository.load(request.model_name)
        return messages.message("RepositoryModelLoadResponse")()

    async def unload(self, request: Any) -> Any:
        self._service.need_managed()
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


def _end(error: Exception, name: str) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
    """The status, words and metadata with which an error ends a call."""
    found = logged(error, name)
    hint = ((RETRY, str(1000 * RETRY_AFTER_S)),) if found.again else ()
    return getattr(grpc.StatusCode, found.kind.grpc), str(found), hint


def _parsed(kind: Any, data: bytes) -> Any:
    """A small message of this kind. Refusal if it is none."""
    name = kind.DESCRIPTOR.name
    if len(data) > SPARE:
        raise Refusal(TOO_LARGE, f"the {name} is more than the {SPARE} bytes allowed")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Refusal(INVALID, f"the message is no {name}: {str(error)[:100]}") from error


def _filled(name: str, record: dict[str, Any]) -> Any:
    return json_format.ParseDict(record, messages.message(name)())
